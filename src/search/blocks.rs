//! Blocks of rows that stay in a core's cache while all queries pass over them.
//!
//! Only this module knows how the rows of a [`Part`] lie in memory.
//!
//! [`Part`]: super::rows::Part

use std::collections::TryReserveError;
use std::ops::Range;

use super::rows::Ids;
use super::scan::Scan;
use super::subset::{self, Subset};
use crate::isa::Isa;
use crate::similarity::{Batches as _, Kernels, Matrix, cosine, prefetch};

/// Most rows in a block, so that a batch of scores stays in L1.
const MAX_BLOCK_ROWS: usize = 1024;
/// Fewest blocks for each thread, so that all threads end at about the same time.
const MIN_BLOCKS_PER_THREAD: usize = 4;
/// Scores of a cache line. Kernels write whole ones: those for AMX take a fifth less time than across lines.
const LINE: usize = 16;
/// Rows that are prefetched ahead of the one being copied.
const PREFETCHED_ROWS: usize = 8;

/// Rows of one block, by their position in it. All slices are as long as the block has rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockRows<'a> {
    pub(super) ids: Ids<'a>,
    /// Squared norms, if they were asked for.
    pub(super) norms: &'a [u32],
    /// The inverse root of each norm.
    pub(super) inverse_norms: &'a [f32],
    /// Zero for a row that may not be found; None: all may.
    pub(super) allowed: Option<&'a [u8]>,
}

/// How the rows are cut into blocks, and the queries in the form the kernels read.
pub(super) struct BlockPlan<K: Kernels> {
    /// The path that the kernels take for the scan's queries.
    isa: Isa,
    /// Rows per block.
    rows: usize,
    /// Number of blocks.
    pub(super) blocks: usize,
    parts: Vec<PlannedPart>,
    /// None: the kernels read queries and rows in place.
    queries: Option<K::Queries>,
}

/// The work in one part.
struct PlannedPart {
    /// Blocks before it.
    blocks: usize,
    /// Number of its first row over all parts.
    first: usize,
    /// Rows within the part, or positions in the subset's list.
    items: Range<usize>,
}

impl<K: Kernels> BlockPlan<K> {
    pub(super) fn new(scan: &Scan<'_, K>, threads: usize) -> Result<Self, TryReserveError> {
        let isa = K::path(scan.isa, scan.query_count());
        let most = (K::block_bytes(isa) / (scan.width * size_of::<K::Element>())).clamp(K::GROUP, MAX_BLOCK_ROWS);
        let share = if threads > 1 {
            scan.allowed().div_ceil(threads.saturating_mul(MIN_BLOCKS_PER_THREAD)).max(1)
        } else {
            most
        };
        let rows = most.min(share.next_multiple_of(2 * K::GROUP)) / K::GROUP * K::GROUP;
        let mut parts = Vec::with_capacity(scan.parts.len());
        let (mut blocks, mut first) = (0, 0);
        for part in scan.parts {
            let count = part.rows.len() / scan.stride;
            let planned = PlannedPart { blocks, first, items: scan.subset.items_of(first..first + count) };
            blocks += planned.items.len().div_ceil(rows);
            first += count;
            parts.push(planned);
        }
        let panels = scan.query_count() >= K::panel_from(isa);
        let queries = panels.then(|| K::pack_queries(isa, scan.queries, scan.query_width())).transpose()?;
        Ok(Self { isa, rows, blocks, parts, queries })
    }

    /// The number of rows in each block of a scan of all rows.
    pub(super) fn block_sizes(&self) -> Vec<usize> {
        let mut sizes = Vec::with_capacity(self.blocks);
        for part in &self.parts {
            let count = part.items.len();
            sizes.extend((0..count).step_by(self.rows).map(|start| self.rows.min(count - start)));
        }
        sizes
    }
}

/// Loads and scores blocks on one thread, reusing its buffers.
pub(super) struct BlockScorer<'a, K: Kernels> {
    scan: &'a Scan<'a, K>,
    plan: &'a BlockPlan<K>,
    block: Block,
    panel: Vec<K::Line>,
    gathered: Vec<K::Element>,
    ids: Vec<i64>,
    norms: Vec<u32>,
    inverse_norms: Vec<f32>,
    scores: Vec<i32>,
}

/// The loaded block.
#[derive(Clone, Default)]
struct Block {
    part: usize,
    /// Rows within the part, if they are read in place.
    range: Range<usize>,
    /// Number of the part's first row over all parts.
    first: usize,
    /// Rows to score: all of the range, or those gathered.
    count: usize,
    /// Whether the rows were copied to `gathered`.
    gathered: bool,
    /// Whether the first query's kernel computes the norms too.
    norms_with_scores: bool,
}

impl<'a, K: Kernels> BlockScorer<'a, K> {
    pub(super) fn new(scan: &'a Scan<'a, K>, plan: &'a BlockPlan<K>) -> Self {
        Self {
            scan,
            plan,
            block: Block::default(),
            panel: vec![],
            gathered: vec![],
            ids: vec![],
            norms: vec![],
            inverse_norms: vec![],
            scores: vec![],
        }
    }

    /// Load a block for scoring; false if none of its rows may be found.
    pub(super) fn load(&mut self, block: usize, norms: bool) -> Result<bool, TryReserveError> {
        let number = self.plan.parts.partition_point(|part| part.blocks <= block) - 1;
        let part = &self.plan.parts[number];
        let start = part.items.start + (block - part.blocks) * self.plan.rows;
        let items = start..(start + self.plan.rows).min(part.items.end);
        let count = items.len();
        self.block = Block { part: number, range: items.clone(), first: part.first, count, ..Block::default() };
        match self.scan.subset {
            Subset::All => {}
            Subset::Rows(list) => self.gather(list[items].iter().map(|row| row - part.first))?,
            Subset::Mask(mask, _) => {
                let mask = &mask[part.first + items.start..part.first + items.end];
                let allowed = subset::count(mask);
                if allowed == 0 {
                    return Ok(false);
                }
                // If the mask hides most rows, the others are copied together.
                if allowed * 2 <= count {
                    let mut rows = Vec::with_capacity(allowed);
                    subset::each(mask, |row| rows.push(items.start + row));
                    self.gather(rows.into_iter())?;
                }
            }
        }
        self.prepare(norms)?;
        Ok(true)
    }

    /// Copy some rows of the block's part to one buffer.
    fn gather(&mut self, rows: impl ExactSizeIterator<Item = usize> + Clone) -> Result<(), TryReserveError> {
        let part = &self.scan.parts[self.block.part];
        let source = self.scan.matrix(part.rows);
        self.gathered.clear();
        self.gathered.try_reserve_exact(rows.len() * self.scan.width)?;
        self.ids.clear();
        self.norms.clear();
        let mut ahead = rows.clone();
        for row in ahead.by_ref().take(PREFETCHED_ROWS) {
            prefetch(source.row(row));
        }
        self.block.count = rows.len();
        for row in rows {
            if let Some(row) = ahead.next() {
                prefetch(source.row(row));
            }
            self.gathered.extend_from_slice(source.row(row));
            self.ids.push(part.ids.of(row));
            if let Some(norms) = part.norms {
                self.norms.push(norms[row]);
            }
        }
        self.block.gathered = true;
        Ok(())
    }

    /// Compute the block's norms and interleave its rows, as far as the kernels need them.
    fn prepare(&mut self, norms: bool) -> Result<(), TryReserveError> {
        let (scan, part) = (self.scan, &self.scan.parts[self.block.part]);
        let Block { range, count, gathered, .. } = self.block.clone();
        let data = if gathered {
            Matrix::whole(&self.gathered, scan.width)
        } else {
            scan.matrix(part.rows).range(range.clone())
        };
        if norms {
            match part.norms {
                Some(_) if gathered => {}
                Some(norms) => {
                    self.norms.clear();
                    self.norms.extend_from_slice(&norms[range]);
                }
                // One pass computes them with the scores of the first query.
                None if self.plan.queries.is_none() => {
                    self.block.norms_with_scores = true;
                    self.norms.resize(count, 0);
                }
                None => {
                    self.norms.resize(count, 0);
                    K::squared_norms(scan.isa, data, &mut self.norms);
                }
            }
            if !self.block.norms_with_scores {
                invert(&self.norms, &mut self.inverse_norms);
            }
        }
        if self.plan.queries.is_some() {
            K::pack_rows(self.plan.isa, data, &mut self.panel)?;
        }
        Ok(())
    }

    /// Score the loaded block against all queries; `visit` gets the rows, a query and its scores.
    pub(super) fn score(&mut self, mut visit: impl FnMut(&BlockRows<'_>, usize, &[i32])) {
        let Self { scan, plan, block, panel, gathered, ids, norms, inverse_norms, scores } = self;
        let (part, count) = (&scan.parts[block.part], block.count);
        let range = block.range.clone();
        let mask = match scan.subset {
            Subset::Mask(mask, _) if !block.gathered => Some(mask),
            _ => None,
        };
        let ids = if block.gathered { Ids::Listed(ids) } else { part.ids.range(range.clone()) };
        let allowed = mask.map(|mask| &mask[block.first + range.start..block.first + range.end]);
        let data =
            if block.gathered { Matrix::whole(gathered, scan.width) } else { scan.matrix(part.rows).range(range) };
        if let Some(queries) = &plan.queries {
            let rows = BlockRows { ids, norms, inverse_norms, allowed };
            // An odd number of cache lines, so that the scores of many queries do not fall into the same sets of a cache.
            let stride = count.next_multiple_of(2 * LINE) + LINE;
            scores.resize(queries.size() * stride + LINE, 0);
            let start = scores.as_ptr().align_offset(LINE * size_of::<i32>());
            let scores = &mut scores[start..][..queries.size() * stride];
            let mut query = 0;
            for batch in 0..queries.count() {
                K::panel(plan.isa, data, panel, queries, batch, scores, stride);
                for scores in scores.chunks_exact(stride).take(scan.query_count() - query) {
                    visit(&rows, query, &scores[..count]);
                    query += 1;
                }
            }
            return;
        }
        scores.resize(count, 0);
        for (query, vector) in scan.queries.chunks_exact(scan.query_width()).enumerate() {
            if query == 0 && block.norms_with_scores {
                K::rows_and_norms(scan.isa, vector, data, scores, norms);
                invert(norms, inverse_norms);
            } else {
                K::rows(scan.isa, vector, data, scores);
            }
            visit(&BlockRows { ids, norms, inverse_norms, allowed }, query, scores);
        }
    }
}

fn invert(norms: &[u32], inverse: &mut Vec<f32>) {
    inverse.clear();
    inverse.extend(norms.iter().map(|&norm| cosine::inverse_norm_f32(norm)));
}
