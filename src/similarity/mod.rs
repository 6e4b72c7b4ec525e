//! Similarities of one vector with many: kernels only, which know neither threads nor selection.
//!
//! There are two roads to the same integers:
//! - **rows**: one query against rows as they lie in memory. Each row is reduced on its own; for few queries this
//!   runs at the speed of memory.
//! - **panels**: rows are first interleaved, lane per row, into groups that fill a register. A word of a query is
//!   then broadcast against a group, so that no sum crosses lanes, and several queries and groups share each load.
//!   Interleaving costs about as much as two queries on the rows road, and is shared by all queries of a block.
//!   A CPU that multiplies matrices by itself (AMX) reads the rows of a panel where they lie instead.
//!
//! Every entry takes the [`Isa`] to run on and clamps it to what this process may use, so that tests can run each
//! path. All paths give the same integers.

pub mod asymmetric;
pub mod cosine;
pub mod dot;
pub mod hamming;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod matrix;
mod prefetch;

pub use matrix::Matrix;
pub use prefetch::{prefetch, prefetch_ahead};

use crate::isa::Isa;

/// Queries that a word holds, and that pass over a panel together where a path has no other number.
pub const BATCH: usize = 8;

/// Most dimensions of an int8 vector: the largest for which `128 * 128 * dims`, the greatest product or squared
/// norm, fits in an `i32`.
pub const MAX_DIMS: usize = i32::MAX as usize / (128 * 128);

/// Most bytes of a binary vector: the largest for which its bits can be counted in an `i32`.
pub const MAX_BYTES: usize = i32::MAX as usize / 8;

/// One family of kernels: scores that are exact integers of a query and a row.
pub trait Kernels: Copy + Send + Sync {
    /// What a query is made of.
    type Query: Copy + Default + Send + Sync;
    /// What a row is made of.
    type Element: Copy + Default + Send + Sync;
    /// One register of interleaved rows: the same word of [`Kernels::GROUP`] rows.
    type Line: Copy + Send + Sync;
    /// The same word of [`BATCH`] queries.
    type Word: Copy + Send + Sync;

    /// Rows that a line interleaves.
    const GROUP: usize;
    /// Elements of a query for each element of a row.
    const RATIO: usize;

    /// The best path in this process.
    fn isa() -> Isa;

    /// Bytes of rows that queries pass over together: half of a small L2 cache, the other half being for a panel.
    fn block_bytes(_isa: Isa) -> usize {
        128 << 10
    }

    /// Number of queries from which interleaving the rows pays for itself on a path, as measured.
    fn panel_from(isa: Isa) -> usize;

    /// Scores of `query` with each of the `out.len()` rows.
    fn rows(isa: Isa, query: &[Self::Query], rows: Matrix<'_, Self::Element>, out: &mut [i32]);

    /// The squared norm of each of the `out.len()` rows; zeros from a family that has no use for them.
    fn squared_norms(_isa: Isa, _rows: Matrix<'_, Self::Element>, out: &mut [u32]) {
        out.fill(0);
    }

    /// [`Kernels::rows`] and [`Kernels::squared_norms`], in one pass over the rows where that is quicker.
    fn rows_and_norms(
        isa: Isa,
        query: &[Self::Query],
        rows: Matrix<'_, Self::Element>,
        out: &mut [i32],
        norms: &mut [u32],
    ) {
        Self::rows(isa, query, rows, out);
        Self::squared_norms(isa, rows, norms);
    }

    /// Interleave rows into `panel`, replacing what it held. A last group that is not full is filled up with zero
    /// rows, a last word with elements that score nothing. What a path reads where it lies is left out.
    fn pack_rows(isa: Isa, rows: Matrix<'_, Self::Element>, panel: &mut Vec<Self::Line>);

    /// Interleave the queries of `width` elements each, batch by batch, filled up with zeros.
    fn pack_queries(isa: Isa, queries: &[Self::Query], width: usize) -> Queries<Self::Word>;

    /// Scores of the queries of one batch with all rows, of which `panel` was made.
    ///
    /// Row `r` of the batch's query `q` goes to `out[q * stride + r]`; `stride` is at least the number of rows
    /// filled up to whole groups, which are scored too, and `out` as long as `stride` times [`Queries::together`].
    fn panel(
        isa: Isa,
        rows: Matrix<'_, Self::Element>,
        panel: &[Self::Line],
        queries: &Queries<Self::Word>,
        batch: usize,
        out: &mut [i32],
        stride: usize,
    );
}

/// Queries interleaved for the panel road.
#[derive(Clone, Debug)]
pub struct Queries<W> {
    words: Vec<W>,
    /// Instead of words, where the CPU multiplies matrices: the same word of sixteen queries.
    tiles: Vec<dot::Line>,
    /// What the kernel subtracts from each query's sums; zero where it has nothing to correct.
    bias: Vec<i32>,
    count: usize,
    /// Words of a vector.
    length: usize,
    together: usize,
}

impl<W> Queries<W> {
    /// Queries interleaved by [`BATCH`], `length` words each.
    fn of_words(words: Vec<W>, bias: Vec<i32>, count: usize, length: usize) -> Self {
        Self { words, tiles: vec![], bias, count, length, together: BATCH }
    }

    /// Queries in a batch, the last one excepted.
    pub fn together(&self) -> usize {
        self.together
    }

    /// Batches that hold all queries.
    pub fn batches(&self) -> usize {
        self.count.div_ceil(self.together)
    }

    /// The tiles of a batch, and the number of its real queries.
    #[cfg(target_arch = "x86_64")]
    fn tiles(&self, batch: usize) -> (&[dot::Line], usize) {
        let lines = self.together / dot::GROUP * self.length;
        (&self.tiles[batch * lines..][..lines], self.together.min(self.count - batch * self.together))
    }

    /// The words of a batch, the number of its real queries, and their biases.
    fn batch(&self, batch: usize) -> (&[W], usize, &[i32; BATCH]) {
        let words = &self.words[batch * self.length..(batch + 1) * self.length];
        let bias = self.bias[batch * BATCH..].first_chunk().unwrap_or(&[0; BATCH]);
        (words, BATCH.min(self.count - batch * BATCH), bias)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Vectors for the kernels' tests: a small generator, so that a failure repeats.

    /// splitmix64, a well-mixed sequence from any seed.
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| self.next() as u8).collect()
        }

        pub(crate) fn int8(&mut self, length: usize) -> Vec<i8> {
            (0..length).map(|_| self.next() as i8).collect()
        }

        pub(crate) fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }
    }
}
