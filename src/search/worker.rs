//! How a scan goes over its rows: the blocks, and one thread's work on them.

use std::ops::Range;

use super::scan::{Ids, Scan};
use super::subset::{self, Subset};
use super::top_k::Rows;
use crate::similarity::{Batches as _, Kernels, Matrix, cosine, prefetch};

/// Rows in a block at most, so that a batch of scores stays in L1.
const BLOCK_ROWS: usize = 1024;
/// Blocks a thread at least, so that all end at about the same time.
const BLOCKS_PER_THREAD: usize = 4;
/// Rows that are asked for ahead of the one that is copied.
const AHEAD: usize = 8;

/// How the rows are cut into blocks, and the queries in the form the kernels read.
pub(super) struct Plan<K: Kernels> {
    /// Items in a block.
    items: usize,
    /// Number of blocks.
    pub(super) blocks: usize,
    spans: Vec<Span>,
    /// None: the rows are read where they lie.
    queries: Option<K::Queries>,
}

/// What there is to do in a part.
struct Span {
    /// Blocks before it.
    blocks: usize,
    /// Number of its first row.
    first: usize,
    /// Rows within the part, or places in the subset's list.
    items: Range<usize>,
}

impl<K: Kernels> Plan<K> {
    pub(super) fn new(scan: &Scan<'_, K>, threads: usize) -> Self {
        let most = (K::block_bytes(scan.isa) / (scan.width * size_of::<K::Element>())).clamp(K::GROUP, BLOCK_ROWS);
        let share = if threads > 1 { scan.allowed().div_ceil(threads * BLOCKS_PER_THREAD).max(1) } else { most };
        let items = most.min(share.next_multiple_of(2 * K::GROUP)) / K::GROUP * K::GROUP;
        let mut spans = Vec::with_capacity(scan.parts.len());
        let (mut blocks, mut first) = (0, 0);
        for part in scan.parts {
            let count = part.rows.len() / scan.stride;
            let span = Span { blocks, first, items: scan.subset.span(first..first + count) };
            blocks += span.items.len().div_ceil(items);
            first += count;
            spans.push(span);
        }
        let panels = scan.query_count() >= K::panel_from(scan.isa);
        Self {
            items,
            blocks,
            spans,
            queries: panels.then(|| K::pack_queries(scan.isa, scan.queries, scan.query_width())),
        }
    }

    /// Rows in each block, where all rows are scanned.
    pub(super) fn rows_of_blocks(&self) -> Vec<usize> {
        let mut blocks = Vec::with_capacity(self.blocks);
        for span in &self.spans {
            let count = span.items.len();
            blocks.extend((0..count).step_by(self.items).map(|start| self.items.min(count - start)));
        }
        blocks
    }
}

/// One thread's view of a block, and the memory it reuses from block to block.
pub(super) struct Worker<'a, K: Kernels> {
    scan: &'a Scan<'a, K>,
    plan: &'a Plan<K>,
    block: Block,
    panel: Vec<K::Line>,
    gathered: Vec<K::Element>,
    ids: Vec<i64>,
    norms: Vec<u32>,
    inverse: Vec<f32>,
    scores: Vec<i32>,
}

/// Where a block lies.
#[derive(Clone, Default)]
struct Block {
    part: usize,
    /// Rows within the part, where they are read in place.
    range: Range<usize>,
    /// Number of the part's first row over all parts.
    first: usize,
    /// Rows that are scored: all of the range, or those that were gathered.
    count: usize,
    gathered: bool,
    /// Whether norms are to be found with the scores.
    norms: bool,
}

impl<'a, K: Kernels> Worker<'a, K> {
    pub(super) fn new(scan: &'a Scan<'a, K>, plan: &'a Plan<K>) -> Self {
        Self {
            scan,
            plan,
            block: Block::default(),
            panel: vec![],
            gathered: vec![],
            ids: vec![],
            norms: vec![],
            inverse: vec![],
            scores: vec![],
        }
    }

    /// Make a block ready to be scored; false where nothing of it is left.
    pub(super) fn load(&mut self, block: usize, norms: bool) -> bool {
        let number = self.plan.spans.partition_point(|span| span.blocks <= block) - 1;
        let span = &self.plan.spans[number];
        let start = span.items.start + (block - span.blocks) * self.plan.items;
        let items = start..(start + self.plan.items).min(span.items.end);
        let count = items.len();
        self.block = Block { part: number, range: items.clone(), first: span.first, count, ..Block::default() };
        match self.scan.subset {
            Subset::All => {}
            Subset::Rows(list) => self.gather(list[items].iter().map(|row| row - span.first)),
            Subset::Mask(mask, _) => {
                let mask = &mask[span.first + items.start..span.first + items.end];
                let allowed = subset::count(mask);
                if allowed == 0 {
                    return false;
                }
                // Where a mask hides most rows, the others are copied together.
                if allowed * 2 <= count {
                    let mut rows = Vec::with_capacity(allowed);
                    subset::each(mask, |row| rows.push(items.start + row));
                    self.gather(rows.into_iter());
                }
            }
        }
        self.prepare(norms);
        true
    }

    /// Copy some rows of the block's part together.
    fn gather(&mut self, rows: impl ExactSizeIterator<Item = usize> + Clone) {
        let part = &self.scan.parts[self.block.part];
        let source = self.scan.matrix(part.rows);
        self.gathered.clear();
        self.ids.clear();
        self.norms.clear();
        let mut ahead = rows.clone();
        for row in ahead.by_ref().take(AHEAD) {
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
    }

    /// Norms and panel of the block.
    fn prepare(&mut self, norms: bool) {
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
                // Found with the scores of the first query, in one pass.
                None if self.plan.queries.is_none() => {
                    self.block.norms = true;
                    self.norms.resize(count, 0);
                }
                None => {
                    self.norms.resize(count, 0);
                    K::squared_norms(scan.isa, data, &mut self.norms);
                }
            }
            if !self.block.norms {
                invert(&self.norms, &mut self.inverse);
            }
        }
        if self.plan.queries.is_some() {
            K::pack_rows(scan.isa, data, &mut self.panel);
        }
    }

    /// Score the loaded block against all queries, and hand over each query's scores.
    pub(super) fn score(&mut self, mut each: impl FnMut(&Rows<'_>, usize, &[i32])) {
        let Self { scan, plan, block, panel, gathered, ids, norms, inverse, scores } = self;
        let (part, count) = (&scan.parts[block.part], block.count);
        let range = block.range.clone();
        let mask = match scan.subset {
            Subset::Mask(mask, _) if !block.gathered => Some(mask),
            _ => None,
        };
        let ids = if block.gathered { Ids::Own(ids) } else { part.ids.range(range.clone()) };
        let allowed = mask.map(|mask| &mask[block.first + range.start..block.first + range.end]);
        let data =
            if block.gathered { Matrix::whole(gathered, scan.width) } else { scan.matrix(part.rows).range(range) };
        if let Some(queries) = &plan.queries {
            let rows = Rows { ids, norms, inverse, allowed };
            let stride = count.next_multiple_of(K::GROUP);
            scores.resize(queries.size() * stride, 0);
            let mut query = 0;
            for batch in 0..queries.count() {
                K::panel(scan.isa, data, panel, queries, batch, scores, stride);
                for scores in scores.chunks_exact(stride).take(scan.query_count() - query) {
                    each(&rows, query, &scores[..count]);
                    query += 1;
                }
            }
            return;
        }
        scores.resize(count, 0);
        for (query, vector) in scan.queries.chunks_exact(scan.query_width()).enumerate() {
            if query == 0 && block.norms {
                K::rows_and_norms(scan.isa, vector, data, scores, norms);
                invert(norms, inverse);
            } else {
                K::rows(scan.isa, vector, data, scores);
            }
            each(&Rows { ids, norms, inverse, allowed }, query, scores);
        }
    }
}

impl<K: Kernels> Scan<'_, K> {
    /// Rows of a part, as the kernels see them.
    fn matrix<'b>(&self, rows: &'b [K::Element]) -> Matrix<'b, K::Element> {
        Matrix::new(rows, self.width, self.stride)
    }
}

fn invert(norms: &[u32], inverse: &mut Vec<f32>) {
    inverse.clear();
    inverse.extend(norms.iter().map(|&norm| cosine::inverse_norm_f32(norm)));
}
