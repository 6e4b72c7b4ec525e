//! Allocations whose size the input sets: where memory is short they fail with an error and do not end the process.

use std::collections::TryReserveError;
use std::hint::black_box;

use crate::error::Error;

/// An empty vector with room for `length` values.
pub(crate) fn vector<T>(length: usize) -> Result<Vec<T>, Error> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(length)?;
    Ok(vector)
}

/// Add a value.
#[inline]
pub(crate) fn push<T>(vector: &mut Vec<T>, value: T) -> Result<(), Error> {
    if vector.len() == vector.capacity() {
        vector.try_reserve(1)?;
    }
    vector.push(value);
    Ok(())
}

/// Check that `bytes` can be allocated at this moment.
///
/// Work with many small allocations, none of which can fail with an error, checks their sum before it starts.
pub(crate) fn check(bytes: usize) -> Result<(), Error> {
    // The compiler removes an allocation that nothing reads, and takes it for successful.
    black_box(vector::<u8>(bytes)?);
    Ok(())
}

/// A copy of `values`.
pub(crate) fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>, TryReserveError> {
    let mut copy = vec![];
    copy.try_reserve_exact(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// All `values`.
pub(crate) fn collected<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>, TryReserveError> {
    let mut all = vec![];
    all.try_reserve_exact(values.len())?;
    all.extend(values);
    Ok(all)
}

/// `count` times `value`.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut values = vec![];
    values.try_reserve_exact(count)?;
    values.resize(count, value);
    Ok(values)
}

/// Resize `values`; new ones are `value`.
pub(crate) fn resize<T: Clone>(values: &mut Vec<T>, count: usize, value: T) -> Result<(), TryReserveError> {
    values.try_reserve_exact(count.saturating_sub(values.len()))?;
    values.resize(count, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_that_is_too_large_is_an_error() {
        assert!(matches!(vector::<u64>(usize::MAX / 16), Err(Error::Memory(_))));
        assert!(matches!(check(isize::MAX as usize), Err(Error::Memory(_))));
        assert!(matches!(check(usize::MAX), Err(Error::Memory(_))));
    }

    #[test]
    fn values_are_collected_in_order() {
        assert_eq!(collected([3, 1, 2].into_iter()).expect("memory"), [3, 1, 2]);
        let mut vector = Vec::new();
        (0..9).try_for_each(|value| push(&mut vector, value)).expect("memory");
        assert!(vector.into_iter().eq(0..9));
    }
}
