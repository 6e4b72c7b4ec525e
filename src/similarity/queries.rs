//! Queries as panel kernels read them.

use super::batches::{BATCH, Batches};
#[cfg(target_arch = "x86_64")]
use super::tiles::Tiles;

/// Queries by [`BATCH`], interleaved: a word of each, then the next word of each.
#[derive(Clone, Debug)]
pub struct Interleaved<W> {
    words: Vec<W>,
    /// The number that the kernel subtracts from each query's sums; zero where none exceeds its score.
    bias: Vec<i32>,
    queries: usize,
    /// Words of a query.
    length: usize,
}

impl<W> Interleaved<W> {
    /// `queries` queries of `length` words each. The last batch is filled up, in `words` and in `bias`.
    pub(super) fn new(words: Vec<W>, bias: Vec<i32>, queries: usize, length: usize) -> Self {
        Self { words, bias, queries, length }
    }

    /// The words of a batch, the number of its real queries, and their biases.
    pub(super) fn batch(&self, batch: usize) -> (&[W], usize, &[i32; BATCH]) {
        let words = &self.words[batch * self.length..(batch + 1) * self.length];
        let bias = self.bias[batch * BATCH..].first_chunk().unwrap_or(&[0; BATCH]);
        (words, BATCH.min(self.queries - batch * BATCH), bias)
    }
}

impl<W> Batches for Interleaved<W> {
    fn size(&self) -> usize {
        BATCH
    }

    fn count(&self) -> usize {
        self.queries.div_ceil(BATCH)
    }
}

/// Queries in the form of the path that they were packed for.
#[derive(Clone, Debug)]
pub enum Queries<W> {
    /// For kernels that broadcast a word of a query.
    Words(Interleaved<W>),
    /// For AMX, which multiplies tiles.
    #[cfg(target_arch = "x86_64")]
    Tiles(Tiles),
}

impl<W> Batches for Queries<W> {
    fn size(&self) -> usize {
        match self {
            Self::Words(words) => words.size(),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(tiles) => tiles.size(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Words(words) => words.count(),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(tiles) => tiles.count(),
        }
    }
}
