//! Queries that pass over rows together.

/// Queries that a word holds, and that pass over a panel together where a path has no other number.
pub const BATCH: usize = 8;

/// Queries in batches; those of a batch pass over a panel together.
pub trait Batches {
    /// Queries in each batch; the last one may be filled up.
    fn size(&self) -> usize;

    /// Number of batches that hold all queries.
    fn count(&self) -> usize;
}
