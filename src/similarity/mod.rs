//! Similarities of one vector with many: kernels only. Threads and selection are [`crate::search`]'s.
//!
//! There are two kinds of kernels, which give the same integers:
//! - **rows**: one query against rows as they lie in memory. Each row is reduced by itself; for few queries this runs at
//!   the speed of memory.
//! - **panels**: rows are first interleaved, a lane a row, into groups that fill a register. A word of a query is then
//!   broadcast against a group, so that no sum crosses lanes, and several queries and groups share each load.
//!   Interleaving costs about as much as two queries against rows, and all queries of a block share it. A CPU that
//!   multiplies matrices itself (AMX) reads int8 rows where they lie instead, and spreads bits to bytes. NEON,
//!   which adds neighbouring lanes cheaply, reads rows where they lie too, except with i8mm.
//!
//! Every function takes the [`Isa`] to run on and clamps it to what this process may use, so that tests can run each
//! path. All paths give the same integers.

pub mod asymmetric;
mod batches;
#[cfg(target_arch = "x86_64")]
mod bit_tiles;
pub mod cosine;
pub mod dot;
pub mod hamming;
mod line;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod prefetch;
mod queries;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use batches::{BATCH, Batches};
pub use matrix::Matrix;
pub use prefetch::{prefetch, prefetch_ahead};
pub use queries::{Interleaved, Queries};
#[cfg(target_arch = "x86_64")]
pub use tiles::Tiles;

use std::collections::TryReserveError;

use crate::isa::Isa;

/// Most dimensions of an int8 vector: the largest for which `128 * 128 * dims`, the greatest product or squared
/// norm, fits in an `i32`.
pub const MAX_DIMS: usize = i32::MAX as usize / (128 * 128);

/// Most bytes of a binary vector: the largest for which its bits can be counted in an `i32`.
pub const MAX_BYTES: usize = i32::MAX as usize / 8;

/// One family of kernels: scores that are exact integers of a query and a row.
pub trait Kernels: Copy + Send + Sync {
    /// An element of a query.
    type Query: Copy + Default + Send + Sync;
    /// An element of a row.
    type Element: Copy + Default + Send + Sync;
    /// One register of interleaved rows: the same word of [`Kernels::GROUP`] rows.
    type Line: Copy + Send + Sync;
    /// Queries as [`Kernels::panel`] reads them.
    type Queries: Batches + Send + Sync;

    /// Rows of a panel are filled up to a multiple of this.
    const GROUP: usize;
    /// Elements of a query for each element of a row.
    const RATIO: usize;

    /// The best path in this process.
    fn isa() -> Isa;

    /// The path that so many queries take: one may win for many only.
    fn path(isa: Isa, _queries: usize) -> Isa {
        isa
    }

    /// Bytes of rows that queries pass over together: half of a small L2 cache, the other half being for a panel.
    fn block_bytes(_isa: Isa) -> usize {
        128 << 10
    }

    /// Number of queries from which interleaving the rows pays for itself on a path, as measured.
    fn panel_from(isa: Isa) -> usize;

    /// Scores of `query` with each of the `out.len()` rows.
    fn rows(isa: Isa, query: &[Self::Query], rows: Matrix<'_, Self::Element>, out: &mut [i32]);

    /// The squared norm of each of the `out.len()` rows; zeros from a family whose scores need none.
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

    /// Interleave rows into `panel`, replacing its contents. A last group that is not full is filled up with zero rows,
    /// a last word with elements that score nothing. Rows that a path reads where they lie are left out.
    fn pack_rows(isa: Isa, rows: Matrix<'_, Self::Element>, panel: &mut Vec<Self::Line>)
    -> Result<(), TryReserveError>;

    /// Interleave the queries of `width` elements each, batch by batch, filled up with zeros.
    fn pack_queries(isa: Isa, queries: &[Self::Query], width: usize) -> Result<Self::Queries, TryReserveError>;

    /// Scores of the queries of one batch with all rows. [`Kernels::pack_rows`] made `panel` of them, on the same path.
    ///
    /// Row `r` of the batch's query `q` goes to `out[q * stride + r]`. `stride` is at least the number of rows, filled
    /// up to whole groups (which are scored too), and `out` as long as `stride` times [`Batches::size`].
    fn panel(
        isa: Isa,
        rows: Matrix<'_, Self::Element>,
        panel: &[Self::Line],
        queries: &Self::Queries,
        batch: usize,
        out: &mut [i32],
        stride: usize,
    );
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
