//! All rows that are near enough to a query, or their number.

use super::filter::{CHUNK, Limit, survivors};
use super::scan::{GROUP_QUERIES, Scan, Watch};
use super::threads::{Pulse, run};
use super::top_k::{Candidate, Order, Rows};
use super::worker::{Plan, Worker};
use crate::error::Error;
use crate::similarity::Kernels;
use crate::similarity::cosine::{cosine, filter_limit_of, inverse_norm};

/// How near is near enough.
#[derive(Clone, Copy, Debug)]
pub enum Threshold {
    /// A score of at most this.
    AtMost(i32),
    /// A score of at least this.
    AtLeast(i32),
    /// A cosine whose nearest float32 is at least this.
    Cosine(f64),
}

/// A squared norm and its inverse root; zeros where scores need none.
pub type Norm = (u32, f64);

impl Threshold {
    /// Whether it needs norms.
    pub(super) fn norms(self) -> bool {
        matches!(self, Self::Cosine(_))
    }

    /// What a row must keep to be looked at, for a query of this norm.
    pub(super) fn limit(self, (squared, _): Norm) -> Limit {
        match self {
            Self::AtMost(score) => Limit::AtMost(score),
            Self::AtLeast(score) => Limit::AtLeast(score),
            Self::Cosine(least) => Limit::Cosine(filter_limit_of(least * f64::from(squared).sqrt())),
        }
    }

    /// Whether a row that kept the limit is near enough.
    pub(super) fn keeps(self, query: Norm, candidate: &Candidate) -> bool {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => true,
            Self::Cosine(least) => {
                let row = (candidate.norm, inverse_norm(candidate.norm));
                f64::from(cosine(candidate.score, query, row)) >= least
            }
        }
    }
}

/// The rows of each query that are near enough.
#[derive(Clone, Debug)]
pub struct Within {
    /// Query `i` has the candidates from `offsets[i]` to `offsets[i + 1]`, best first.
    pub offsets: Vec<usize>,
    /// Of all queries.
    pub candidates: Vec<Candidate>,
}

impl<K: Kernels> Scan<'_, K> {
    /// The rows that are near enough, in the order `O`. `norms` has one entry a query where the threshold asks for it.
    pub fn within<O: Order>(&self, threshold: Threshold, norms: &[Norm], watch: Watch<'_>) -> Result<Within, Error> {
        let mut within = Within { offsets: vec![0], candidates: vec![] };
        let take = |list: &mut Vec<Candidate>, candidate| {
            list.try_reserve(1).map(|()| list.push(candidate)).map_err(Error::from)
        };
        self.each_near(threshold, norms, watch, take, |lists| {
            let start = within.candidates.len();
            within.candidates.try_reserve(lists.iter().map(Vec::len).sum())?;
            for list in lists {
                within.candidates.extend(list);
            }
            within.candidates[start..].sort_unstable_by(O::compare);
            within.offsets.push(within.candidates.len());
            Ok(())
        })?;
        Ok(within)
    }

    /// The number of rows that are near enough to each query.
    pub fn count(&self, threshold: Threshold, norms: &[Norm], watch: Watch<'_>) -> Result<Vec<u64>, Error> {
        let mut counts = Vec::with_capacity(self.query_count());
        let take = |count: &mut u64, _| {
            *count += 1;
            Ok(())
        };
        self.each_near(threshold, norms, watch, take, |parts| {
            counts.push(parts.into_iter().sum());
            Ok(())
        })?;
        Ok(counts)
    }

    /// Hand every row that is near enough to `take`, with what the thread at hand has of the query so far, and then
    /// what all threads have of each query to `query`, in the order of the queries.
    fn each_near<T: Default + Clone + Send>(
        &self,
        threshold: Threshold,
        norms: &[Norm],
        watch: Watch<'_>,
        take: impl Fn(&mut T, Candidate) -> Result<(), Error> + Sync,
        mut query: impl FnMut(Vec<T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut pulse = Pulse::new(watch);
        for (group, queries) in self.queries.chunks(GROUP_QUERIES * self.query_width()).enumerate() {
            let scan = Self { queries, ..self.clone() };
            let norm = |query: usize| norms.get(group * GROUP_QUERIES + query).copied().unwrap_or_default();
            let threads = scan.thread_count();
            let plan = Plan::new(&scan, threads);
            let mut threads = run(plan.blocks, threads, &mut pulse, |blocks| {
                let mut worker = Worker::new(&scan, &plan);
                let mut found = vec![T::default(); scan.query_count()];
                blocks(&mut |block| {
                    let mut result = Ok(());
                    if worker.load(block, threshold.norms()) {
                        worker.score(|rows, query, scores| {
                            let norm = norm(query);
                            let taken = near(&scan, scores, rows, threshold, norm, |_, candidate| {
                                take(&mut found[query], candidate)
                            });
                            result = std::mem::replace(&mut result, Ok(())).and(taken);
                        });
                    }
                    result
                })?;
                Ok(found)
            })?;
            for at in 0..scan.query_count() {
                query(threads.iter_mut().map(|found| std::mem::take(&mut found[at])).collect())?;
            }
        }
        Ok(())
    }
}

/// Visit the rows of a block that are near enough, with their places in it.
pub(super) fn near<K: Kernels>(
    scan: &Scan<'_, K>,
    scores: &[i32],
    rows: &Rows<'_>,
    threshold: Threshold,
    norm: Norm,
    mut visit: impl FnMut(usize, Candidate) -> Result<(), Error>,
) -> Result<(), Error> {
    let (limit, mut positions) = (threshold.limit(norm), [0; CHUNK]);
    for (chunk, scores) in scores.chunks(CHUNK).enumerate() {
        let base = chunk * CHUNK;
        let inverse = if threshold.norms() { &rows.inverse[base..base + scores.len()] } else { &[] };
        let found = survivors(scan.isa, scores, inverse, limit, &mut positions);
        for &at in &positions[..found] {
            let row = base + usize::from(at);
            if rows.allowed.is_some_and(|allowed| allowed[row] == 0) {
                continue;
            }
            let squared = if threshold.norms() { rows.norms[row] } else { 0 };
            let candidate = Candidate { score: scores[usize::from(at)], norm: squared, id: rows.ids.of(row) };
            if threshold.keeps(norm, &candidate) {
                visit(row, candidate)?;
            }
        }
    }
    Ok(())
}
