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

/// `count` default values.
pub fn zeros<T: Clone + Default>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut zeros = vec![];
    zeros.try_reserve_exact(count)?;
    zeros.resize(count, T::default());
    Ok(zeros)
}
