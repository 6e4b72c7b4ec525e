//! Rows as a scan reads them.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::memory::{collected, filled};
use crate::similarity::cosine::inverse_norm;
use crate::similarity::dot::Dot;
use crate::similarity::{Kernels, Matrix};

/// Ids of consecutive rows.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// Consecutive numbers from this one.
    Consecutive(i64),
    /// One number per row.
    Listed(&'a [i64]),
}

impl Ids<'_> {
    /// The id of a row.
    #[inline]
    pub fn of(&self, row: usize) -> i64 {
        match self {
            Self::Consecutive(first) => first + row as i64,
            Self::Listed(ids) => ids[row],
        }
    }

    /// The ids of a range of rows.
    #[must_use]
    pub fn range(&self, rows: Range<usize>) -> Self {
        match *self {
            Self::Consecutive(first) => Self::Consecutive(first + rows.start as i64),
            Self::Listed(ids) => Self::Listed(&ids[rows]),
        }
    }
}

impl Default for Ids<'_> {
    fn default() -> Self {
        Self::Consecutive(0)
    }
}

/// Rows that are contiguous in memory.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a, E> {
    /// The elements of all rows.
    pub rows: &'a [E],
    /// The squared norm of each row; None: computed when the order needs them.
    pub norms: Option<&'a [u32]>,
    /// The id of each row.
    pub ids: Ids<'a>,
}

/// A squared norm and the inverse of its root; zeros where scores need no norm.
pub type Norm = (u32, f64);

/// The norm of each vector of `width` values.
pub fn norms(vectors: &[i8], width: usize) -> Result<Vec<Norm>, TryReserveError> {
    let mut squared = filled(0, vectors.len() / width)?;
    Dot::squared_norms(Dot::isa(), Matrix::whole(vectors, width), &mut squared);
    collected(squared.into_iter().map(|norm| (norm, inverse_norm(norm))))
}
