//! A scan over all rows, in blocks that stay in a core's cache while all queries pass over them.
//!
//! Threads are started for the call and end with it. They draw blocks from one counter and keep the best `k` of each
//! query on their own; the merge orders by score and id, so that the result does not depend on who drew what. Memory
//! beyond the rows is one block and `O(queries * k)` a thread.
//!
//! How rows lie in memory is known to [`Part`] and `Worker::load` alone: another layout is another kind of part.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::top_k::{Candidate, Order, Rows, Top};
use crate::error::Error;
use crate::isa::Isa;
use crate::similarity::{BATCH, Kernels, Queries, cosine};

/// Asked by the calling thread now and then; an error ends the scan.
pub type Watch<'a> = &'a mut (dyn FnMut() -> Result<(), Error> + Send);

/// A watch that is asked no more often than it makes sense.
pub(super) struct Pulse<'a> {
    watch: Watch<'a>,
    asked: Instant,
}

impl<'a> Pulse<'a> {
    /// Between two questions.
    const EVERY: Duration = Duration::from_millis(50);

    pub(super) fn new(watch: Watch<'a>) -> Self {
        Self { watch, asked: Instant::now() }
    }

    fn ask(&mut self) -> Result<(), Error> {
        if self.asked.elapsed() < Self::EVERY {
            return Ok(());
        }
        let answer = (self.watch)();
        self.asked = Instant::now();
        answer
    }
}

/// Work for which another thread pays, in bytes that pass through a kernel: some tenths of a millisecond.
const WORK_PER_THREAD: usize = 2 << 20;
/// Bytes of rows in a block: half of a small L2 cache.
const BLOCK_BYTES: usize = 128 << 10;
/// Rows in a block at most, so that a batch of scores stays in L1.
const BLOCK_ROWS: usize = 1024;
/// Bytes of candidates that queries scanned together may keep, a thread.
const KEPT_BYTES: usize = 64 << 20;
/// Queries scanned together, at most.
const GROUP_QUERIES: usize = 512;

/// Rows that lie one after another.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a, E> {
    /// The rows' elements.
    pub rows: &'a [E],
    /// Their squared norms; none: computed when the order asks for them.
    pub norms: Option<&'a [u32]>,
    /// Their ids; none: rows are known by their number.
    pub ids: Option<&'a [i64]>,
}

/// What to scan, and for what.
#[derive(Clone, Debug)]
pub struct Scan<'a, K: Kernels> {
    /// The path of the kernels.
    pub isa: Isa,
    /// Elements of a vector, at least one.
    pub width: usize,
    /// The queries, one after another.
    pub queries: &'a [K::Element],
    /// The rows.
    pub parts: &'a [Part<'a, K::Element>],
    /// One byte a row, over all parts: zero hides it.
    pub mask: Option<&'a [u8]>,
    /// Threads, the calling one included; none: as many as pay.
    pub threads: Option<NonZero<usize>>,
}

/// The best rows of each query: `columns` candidates a query, best first.
#[derive(Clone, Debug)]
pub struct Found {
    /// Candidates a query.
    pub columns: usize,
    /// Query after query.
    pub candidates: Vec<Candidate>,
}

impl<K: Kernels> Scan<'_, K> {
    /// Number of queries.
    pub fn query_count(&self) -> usize {
        self.queries.len() / self.width
    }

    /// Number of rows, hidden ones included.
    pub fn row_count(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len() / self.width).sum()
    }

    /// The best `k` rows of each query in the order `O`; fewer where fewer rows are allowed.
    pub fn top_k<O: Order>(&self, k: usize, watch: Watch<'_>) -> Result<Found, Error> {
        let allowed = self.mask.map_or(self.row_count(), |mask| mask.iter().filter(|&&row| row != 0).count());
        let columns = k.min(allowed);
        let mut found = Found { columns, candidates: Vec::new() };
        if columns == 0 {
            return Ok(found);
        }
        let total = columns.saturating_mul(self.query_count());
        found.candidates.try_reserve_exact(total).map_err(|_| {
            Error::Value(format!("{columns} matches for each of {} queries do not fit in memory", self.query_count()))
        })?;
        // A query's candidates: twice k while it is collected.
        let together = KEPT_BYTES / (2 * columns).saturating_mul(size_of::<Candidate>());
        let together = (together / BATCH * BATCH).clamp(BATCH, GROUP_QUERIES);
        let mut pulse = Pulse::new(watch);
        for queries in self.queries.chunks(together * self.width) {
            let scan = Self { queries, ..self.clone() };
            scan.top_k_of_group::<O>(columns, &mut pulse, &mut found.candidates)?;
        }
        Ok(found)
    }

    fn top_k_of_group<O: Order>(&self, k: usize, pulse: &mut Pulse<'_>, out: &mut Vec<Candidate>) -> Result<(), Error> {
        let plan = Plan::new(self);
        let ascending = self.parts.iter().all(|part| part.ids.is_none());
        let tops = plan.run(self.thread_count(plan.blocks), pulse, |blocks| {
            let mut worker = Worker::new(self, &plan);
            let mut tops = vec![Top::new(k); self.query_count()];
            blocks(&mut |block| {
                if worker.load(block, O::NORMS) {
                    worker.score(|rows, query, scores| {
                        tops[query].offer::<O>(self.isa, scores, rows, ascending);
                    });
                }
            })?;
            Ok(tops)
        })?;
        let mut tops: Vec<_> = tops.into_iter().map(Vec::into_iter).collect();
        for _ in 0..self.query_count() {
            Top::merge::<O>(tops.iter_mut().filter_map(Iterator::next), k, out);
        }
        Ok(())
    }

    /// Threads to run, the calling one included.
    pub(super) fn thread_count(&self, blocks: usize) -> usize {
        let wanted = self.threads.map_or_else(
            || {
                // Queries beyond the first find the block in cache.
                let passes = self.query_count().div_ceil(4);
                let bytes = self.row_count().saturating_mul(self.width * size_of::<K::Element>());
                let pays = bytes.saturating_mul(passes) / WORK_PER_THREAD;
                // Asking the system costs more than a small search.
                if pays <= 1 { 1 } else { thread::available_parallelism().map_or(1, NonZero::get).min(pays) }
            },
            NonZero::get,
        );
        wanted.min(blocks).max(1)
    }
}

/// How the rows are cut into blocks, and the queries in the form the kernels read.
pub(super) struct Plan<K: Kernels> {
    /// Rows in a block.
    rows: usize,
    /// Number of blocks.
    pub(super) blocks: usize,
    /// Blocks and rows before each part.
    before: Vec<(usize, usize)>,
    /// None: the rows are read where they lie.
    queries: Option<Queries<K::Word>>,
}

impl<K: Kernels> Plan<K> {
    pub(super) fn new(scan: &Scan<'_, K>) -> Self {
        let rows = (BLOCK_BYTES / scan.width).clamp(K::GROUP, BLOCK_ROWS) / K::GROUP * K::GROUP;
        let mut before = Vec::with_capacity(scan.parts.len());
        let (mut blocks, mut first) = (0, 0);
        for part in scan.parts {
            before.push((blocks, first));
            let count = part.rows.len() / scan.width;
            blocks += count.div_ceil(rows);
            first += count;
        }
        let panels = scan.query_count() >= K::panel_from(scan.isa);
        Self { rows, blocks, before, queries: panels.then(|| K::pack_queries(scan.queries, scan.width)) }
    }

    /// Rows in each block.
    pub(super) fn rows_of_blocks(&self, scan: &Scan<'_, K>) -> Vec<usize> {
        let mut blocks = Vec::with_capacity(self.blocks);
        for part in scan.parts {
            let count = part.rows.len() / scan.width;
            blocks.extend((0..count).step_by(self.rows).map(|start| self.rows.min(count - start)));
        }
        blocks
    }

    /// Run `work` on each of `threads` threads. `work` gets a function that calls back for every block it draws, and
    /// fails when the scan was stopped; the results come in no particular order.
    pub(super) fn run<T: Send>(
        &self,
        threads: usize,
        pulse: &mut Pulse<'_>,
        work: impl Fn(&mut dyn FnMut(&mut dyn FnMut(usize)) -> Result<(), Error>) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let draw = || Some(next.fetch_add(1, Relaxed)).filter(|&block| block < self.blocks && !stop.load(Relaxed));
        let helper = || {
            work(&mut |each| {
                while let Some(block) = draw() {
                    each(block);
                }
                Ok(())
            })
        };
        thread::scope(|scope| {
            // A thread that the system refuses is a thread less, not a failed search.
            let helpers: Vec<_> = (1..threads)
                .map_while(|_| thread::Builder::new().name("ctxembed".into()).spawn_scoped(scope, helper).ok())
                .collect();
            let own = work(&mut |each| {
                while let Some(block) = draw() {
                    each(block);
                    pulse.ask().inspect_err(|_| stop.store(true, Relaxed))?;
                }
                Ok(())
            });
            let mut results = vec![own];
            results.extend(helpers.into_iter().map(|helper| match helper.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
            results.into_iter().collect()
        })
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
    /// Rows within the part.
    range: Range<usize>,
    /// Number of the first row over all parts.
    first: usize,
    /// Rows that are scored: all of the range, or those that were gathered.
    count: usize,
    gathered: bool,
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

    /// Make a block ready to be scored; false where a mask hides all of it.
    pub(super) fn load(&mut self, block: usize, norms: bool) -> bool {
        let part = self.plan.before.partition_point(|&(blocks, _)| blocks <= block) - 1;
        let (blocks, before) = self.plan.before[part];
        let scan = self.scan;
        let (rows, width) = (&scan.parts[part], scan.width);
        let start = (block - blocks) * self.plan.rows;
        let range = start..(start + self.plan.rows).min(rows.rows.len() / width);
        let first = before + start;
        self.block = Block { part, first, count: range.len(), gathered: false, range };
        let range = self.block.range.clone();

        if let Some(mask) = scan.mask {
            let mask = &mask[first..first + range.len()];
            let allowed = mask.iter().filter(|&&row| row != 0).count();
            // Where a mask hides most rows, the others are copied together, and cost nothing.
            if allowed * 2 <= range.len() {
                self.gather(mask, allowed);
            }
            if allowed == 0 {
                return false;
            }
        }
        let data =
            if self.block.gathered { &self.gathered } else { &rows.rows[range.start * width..range.end * width] };
        if norms {
            self.norms.resize(self.block.count, 0);
            match rows.norms {
                Some(_) if self.block.gathered => {}
                Some(norms) => self.norms.copy_from_slice(&norms[range]),
                None => K::squared_norms(scan.isa, data, width, &mut self.norms),
            }
            self.inverse.clear();
            self.inverse.extend(self.norms.iter().map(|&norm| cosine::inverse_norm(norm) as f32));
        }
        if self.plan.queries.is_some() {
            K::pack_rows(scan.isa, data, width, &mut self.panel);
        }
        true
    }

    fn gather(&mut self, mask: &[u8], allowed: usize) {
        let scan = self.scan;
        let (width, part) = (scan.width, &scan.parts[self.block.part]);
        self.gathered.clear();
        self.ids.clear();
        self.norms.clear();
        for (offset, _) in mask.iter().enumerate().filter(|&(_, &row)| row != 0) {
            let row = self.block.range.start + offset;
            self.gathered.extend_from_slice(&part.rows[row * width..(row + 1) * width]);
            self.ids.push(part.ids.map_or((self.block.first + offset) as i64, |ids| ids[row]));
            if let Some(norms) = part.norms {
                self.norms.push(norms[row]);
            }
        }
        self.block.count = allowed;
        self.block.gathered = true;
    }

    /// Score the loaded block against all queries, and hand over each query's scores.
    pub(super) fn score(&mut self, mut each: impl FnMut(&Rows<'_>, usize, &[i32])) {
        let Block { part, range, first, count, gathered } = self.block.clone();
        let (scan, source) = (self.scan, &self.scan.parts[part]);
        let width = scan.width;
        let rows = Rows {
            first: first as i64,
            ids: if gathered { Some(&self.ids) } else { source.ids.map(|ids| &ids[range.clone()]) },
            norms: &self.norms,
            inverse: &self.inverse,
            allowed: scan.mask.filter(|_| !gathered).map(|mask| &mask[first..first + count]),
        };
        if let Some(queries) = &self.plan.queries {
            let stride = count.next_multiple_of(K::GROUP);
            self.scores.resize(BATCH * stride, 0);
            let mut query = 0;
            for batch in 0..queries.batches() {
                K::panel(scan.isa, &self.panel, queries, batch, &mut self.scores, stride);
                for scores in self.scores.chunks_exact(stride).take(scan.query_count() - query) {
                    each(&rows, query, &scores[..count]);
                    query += 1;
                }
            }
        } else {
            let data = if gathered { &self.gathered } else { &source.rows[range.start * width..range.end * width] };
            self.scores.resize(count, 0);
            for (query, vector) in scan.queries.chunks_exact(width).enumerate() {
                K::rows(scan.isa, vector, data, &mut self.scores);
                each(&rows, query, &self.scores);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::top_k::{Closest, Greatest, Nearest};
    use super::*;
    use crate::similarity::dot::Dot;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    /// The best `k` by a sort of all scores, on the portable path.
    fn sorted<K: Kernels, O: Order>(scan: &Scan<'_, K>, k: usize) -> Vec<Candidate> {
        let mut best = vec![];
        for query in scan.queries.chunks_exact(scan.width) {
            let (mut all, mut number) = (vec![], 0);
            for part in scan.parts {
                for (row, data) in part.rows.chunks_exact(scan.width).enumerate() {
                    let (mut score, mut norm) = ([0], [0]);
                    K::rows(Isa::Scalar, query, data, &mut score);
                    if O::NORMS {
                        K::squared_norms(Isa::Scalar, data, scan.width, &mut norm);
                    }
                    if scan.mask.is_none_or(|mask| mask[number] != 0) {
                        let id = part.ids.map_or(number as i64, |ids| ids[row]);
                        all.push(Candidate { score: score[0], norm: norm[0], id });
                    }
                    number += 1;
                }
            }
            all.sort_by(O::compare);
            best.extend_from_slice(&all[..k.min(all.len())]);
        }
        best
    }

    fn check<K: Kernels, O: Order>(width: usize, elements: &mut dyn FnMut(usize) -> Vec<K::Element>) {
        let mut random = Random(width as u64);
        for queries in [1, 2, 5, 17] {
            let (query_data, rows) = (elements(queries * width), elements(1501 * width));
            let mut norms = vec![0; 1501];
            K::squared_norms(Isa::Scalar, &rows, width, &mut norms);
            let ids: Vec<i64> = (0..1501).map(|row| (row * 1003) % 1501 - 7).collect();
            for (own_ids, own_norms) in [(false, false), (true, true)] {
                let part = |range: Range<usize>| Part {
                    rows: &rows[range.start * width..range.end * width],
                    norms: own_norms.then_some(&norms[range.clone()]),
                    ids: own_ids.then_some(&ids[range]),
                };
                let parts = [part(0..1), part(1..1), part(1..800), part(800..1501)];
                for share in [0, 1, 70, 100] {
                    let mask: Vec<u8> = (0..1501).map(|_| u8::from(random.below(100) < share)).collect();
                    for isa in Isa::ALL {
                        let mut scan = Scan::<K> {
                            isa,
                            width,
                            queries: &query_data,
                            parts: &parts,
                            mask: (share < 100).then_some(&mask),
                            threads: NonZero::new(1),
                        };
                        for k in [1, 30, 4000] {
                            let expected = sorted::<K, O>(&scan, k);
                            for threads in [1, 3] {
                                scan.threads = NonZero::new(threads);
                                let found = scan.top_k::<O>(k, &mut || Ok(())).expect("nothing stops it");
                                assert_eq!(found.columns * queries, expected.len());
                                assert_eq!(found.candidates, expected, "{isa:?}, {k}, {threads} threads, {share} %");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_scan_finds_what_a_sort_finds_by_hamming_distance() {
        let mut random = Random(31);
        check::<Hamming, Nearest>(9, &mut |length| random.bytes(length));
        // Few distinct rows: ties everywhere.
        check::<Hamming, Nearest>(1, &mut |length| random.bytes(length).iter().map(|byte| byte & 3).collect());
    }

    #[test]
    fn a_scan_finds_what_a_sort_finds_by_product_and_cosine() {
        let mut random = Random(32);
        check::<Dot, Greatest>(7, &mut |length| random.int8(length));
        check::<Dot, Closest>(7, &mut |length| random.int8(length));
        check::<Dot, Closest>(2, &mut |length| random.int8(length).iter().map(|x| x % 3).collect());
    }

    #[test]
    fn a_scan_stops_when_the_watch_says_so() {
        let rows = vec![0u8; 64 << 20];
        let part = Part { rows: &rows, norms: None, ids: None };
        let queries = vec![0u8; 512 * 8];
        let scan = Scan::<Hamming> {
            isa: Isa::hamming(),
            width: 8,
            queries: &queries,
            parts: &[part],
            mask: None,
            threads: NonZero::new(2),
        };
        let mut asked = 0;
        let result = scan.top_k::<Nearest>(10, &mut || {
            asked += 1;
            if asked == 2 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(asked, 2);
    }
}
