//! What all kernels for AMX share: tiles, registers of sixteen rows of 64 bytes, and queries in the form of tiles.
#![expect(unsafe_code, reason = "instructions without intrinsics")]

use std::arch::asm;
use std::collections::TryReserveError;
use std::marker::PhantomData;

use super::batches::Batches;
use super::line::{GROUP, Line};
use crate::memory::filled;

/// Elements in a row of a tile.
pub(super) const STEP: usize = 64;
/// Rows of a tile, and queries in one.
pub(super) const TILE: usize = GROUP;

/// Queries by sixteen, as many tiles for each sixteen as its elements fill.
#[derive(Clone, Debug)]
pub struct Tiles {
    lines: Vec<[Line; TILE]>,
    /// For each sixteen queries a tile of the numbers that their sums begin with, a query a line.
    starts: Vec<[Line; TILE]>,
    /// Tiles of sixteen queries.
    steps: usize,
    queries: usize,
    /// Queries of a batch.
    size: usize,
}

impl Tiles {
    /// Zeros for `queries` queries of `steps` tiles, in batches of at most `most`.
    pub(super) fn new(queries: usize, steps: usize, most: usize) -> Result<Self, TryReserveError> {
        let size = queries.next_multiple_of(TILE).clamp(TILE, most);
        let (zero, groups) = ([Line([0; TILE]); TILE], queries.next_multiple_of(size) / TILE);
        Ok(Self { lines: filled(zero, groups * steps)?, starts: filled(zero, groups)?, steps, queries, size })
    }

    /// The tiles of the sixteen queries that a query is one of.
    pub(super) fn around(&mut self, query: usize) -> &mut [[Line; TILE]] {
        &mut self.lines[query / TILE * self.steps..][..self.steps]
    }

    /// Let a query's sums begin with a number.
    pub(super) fn start(&mut self, query: usize, start: i32) {
        self.starts[query / TILE][query % TILE] = Line([start.cast_unsigned(); TILE]);
    }

    /// The number of real queries in a batch.
    pub(super) fn queries(&self, batch: usize) -> usize {
        self.size.min(self.queries - batch * self.size)
    }

    /// The real queries of a batch, two tiles at a time, so that a tile of rows is loaded for both.
    pub(super) fn pairs(&self, batch: usize) -> impl Iterator<Item = Pair<'_>> {
        let first = batch * self.size / TILE;
        let groups = first..first + self.queries(batch).div_ceil(TILE);
        let tiles = self.lines[groups.start * self.steps..groups.end * self.steps].chunks(2 * self.steps);
        tiles.zip(self.starts[groups].chunks(2)).enumerate().map(|(at, (tiles, starts))| {
            let (first, second) = tiles.split_at(self.steps);
            Pair { query: at * 2 * TILE, tiles: [first, second], starts }
        })
    }
}

/// Queries that are multiplied together.
pub(super) struct Pair<'a> {
    /// Number of the first query in its batch.
    pub(super) query: usize,
    /// Tiles of sixteen queries, and of the next sixteen, which may be none.
    pub(super) tiles: [&'a [[Line; TILE]]; 2],
    /// What their sums begin with, a tile for sixteen queries.
    pub(super) starts: &'a [[Line; TILE]],
}

impl Batches for Tiles {
    fn size(&self) -> usize {
        self.size
    }

    fn count(&self) -> usize {
        self.queries.div_ceil(self.size)
    }
}

/// Proof that this thread's tiles are configured, of sixteen rows of 64 bytes each. Its drop releases them. Tiles belong
/// to a thread, so it is neither Send nor Sync.
pub(super) struct Configured(PhantomData<*const ()>);

/// Layout of LDTILECFG's operand.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configured {
    /// # Safety
    /// [`Isa`](crate::isa::Isa) names AMX for a family of kernels, and this thread has no other value of this type: its
    /// drop would release the tiles of both.
    pub(super) unsafe fn new() -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(STEP as u16);
        rows[..8].fill(TILE as u8);
        let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the instruction exists here, as the caller says, and reads the 64 bytes of `config`. No code of the
        // compiler's uses tiles, and they are released when this is dropped.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly, preserves_flags)) };
        Self(PhantomData)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: this thread configured its tiles in `new`, and for this value alone.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
