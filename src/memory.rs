//! Vectors whose length a caller sets. A failed allocation is an error, where `Vec` by itself would end the process.

use std::collections::TryReserveError;

/// A copy of `values`.
pub fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>, TryReserveError> {
    let mut copy = vec![];
    copy.try_reserve_exact(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// All `values`.
pub fn collected<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>, TryReserveError> {
    let mut all = vec![];
    all.try_reserve_exact(values.len())?;
    all.extend(values);
    Ok(all)
}

/// `count` times `value`.
pub fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut values = vec![];
    values.try_reserve_exact(count)?;
    values.resize(count, value);
    Ok(values)
}

/// Resize `values`; new ones are `value`.
pub fn resize<T: Clone>(values: &mut Vec<T>, count: usize, value: T) -> Result<(), TryReserveError> {
    values.try_reserve_exact(count.saturating_sub(values.len()))?;
    values.resize(count, value);
    Ok(())
}
