//! All rows within a threshold of a query, or their number.

use super::blocks::{BlockPlan, BlockRows, BlockScorer};
use super::limit::{CHUNK, Limit, find_within};
use super::order::{Candidate, Order};
use super::rows::Norm;
use super::scan::{MAX_QUERIES, Scan};
use super::threads::{InterruptCheck, Interrupts, run};
use crate::error::Error;
use crate::similarity::Kernels;
use crate::similarity::cosine::{cosine, filter_limit_of, inverse_norm};

/// The score that a row must reach.
#[derive(Clone, Copy, Debug)]
pub enum Threshold {
    /// A score of at most this.
    AtMost(i32),
    /// A score of at least this.
    AtLeast(i32),
    /// A cosine whose nearest float32 is at least this.
    Cosine(f64),
}

impl Threshold {
    /// Whether it needs norms.
    pub(super) fn uses_norms(self) -> bool {
        matches!(self, Self::Cosine(_))
    }

    /// The limit that the filter applies for a query of this norm. For cosines it may pass a few rows too many.
    pub(super) fn limit(self, (squared, _): Norm) -> Limit {
        match self {
            Self::AtMost(score) => Limit::AtMost(score),
            Self::AtLeast(score) => Limit::AtLeast(score),
            Self::Cosine(least) => Limit::Cosine(filter_limit_of(least * f64::from(squared).sqrt())),
        }
    }

    /// Whether a candidate that passed the filter is within the threshold.
    pub(super) fn admits(self, query: Norm, candidate: &Candidate) -> bool {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => true,
            Self::Cosine(least) => {
                let row = (candidate.norm, inverse_norm(candidate.norm));
                f64::from(cosine(candidate.score, query, row)) >= least
            }
        }
    }
}

/// The rows within the threshold of each query.
#[derive(Clone, Debug)]
pub struct Within {
    /// Query `i` has the candidates `offsets[i]..offsets[i + 1]`, best first.
    pub offsets: Vec<usize>,
    /// Candidates of all queries.
    pub candidates: Vec<Candidate>,
}

impl<K: Kernels> Scan<'_, K> {
    /// The rows within the threshold, in the order `O`. A threshold that uses norms needs the norm of each query.
    pub fn within<O: Order>(
        &self,
        threshold: Threshold,
        norms: &[Norm],
        check: InterruptCheck<'_>,
    ) -> Result<Within, Error> {
        let mut within = Within { offsets: vec![0], candidates: vec![] };
        within.offsets.try_reserve_exact(self.query_count())?;
        let collect = |list: &mut Vec<Candidate>, candidate| {
            list.try_reserve(1).map(|()| list.push(candidate)).map_err(Error::from)
        };
        self.fold_within(threshold, norms, check, collect, |lists| {
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

    /// The number of rows within the threshold of each query.
    pub fn count(&self, threshold: Threshold, norms: &[Norm], check: InterruptCheck<'_>) -> Result<Vec<u64>, Error> {
        let mut counts = vec![];
        counts.try_reserve_exact(self.query_count())?;
        let increment = |count: &mut u64, _| {
            *count += 1;
            Ok(())
        };
        self.fold_within(threshold, norms, check, increment, |parts| {
            counts.push(parts.into_iter().sum());
            Ok(())
        })?;
        Ok(counts)
    }

    /// Fold the rows within the threshold of each query into one `T` per thread, then pass the `T`s of each query to
    /// `finish`, query by query.
    fn fold_within<T: Default + Clone + Send>(
        &self,
        threshold: Threshold,
        norms: &[Norm],
        check: InterruptCheck<'_>,
        fold: impl Fn(&mut T, Candidate) -> Result<(), Error> + Sync,
        mut finish: impl FnMut(Vec<T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut interrupts = Interrupts::new(check);
        for (group, queries) in self.queries.chunks(MAX_QUERIES * self.query_width()).enumerate() {
            let scan = Self { queries, ..self.clone() };
            let norm = |query: usize| norms.get(group * MAX_QUERIES + query).copied().unwrap_or_default();
            let threads = scan.thread_count();
            let plan = BlockPlan::new(&scan, threads)?;
            let mut by_thread = run(plan.blocks, threads, &mut interrupts, |for_each_block| {
                let mut scorer = BlockScorer::new(&scan, &plan);
                let mut found = vec![T::default(); scan.query_count()];
                for_each_block(&mut |block| {
                    let mut result = Ok(());
                    if scorer.load(block, threshold.uses_norms())? {
                        scorer.score(|rows, query, scores| {
                            let norm = norm(query);
                            let visited = visit_within(&scan, scores, rows, threshold, norm, |_, candidate| {
                                fold(&mut found[query], candidate)
                            });
                            result = std::mem::replace(&mut result, Ok(())).and(visited);
                        });
                    }
                    result
                })?;
                Ok(found)
            })?;
            for at in 0..scan.query_count() {
                finish(by_thread.iter_mut().map(|found| std::mem::take(&mut found[at])).collect())?;
            }
        }
        Ok(())
    }
}

/// Visit the rows of a block that are within the threshold, with their positions in it.
pub(super) fn visit_within<K: Kernels>(
    scan: &Scan<'_, K>,
    scores: &[i32],
    rows: &BlockRows<'_>,
    threshold: Threshold,
    norm: Norm,
    mut visit: impl FnMut(usize, Candidate) -> Result<(), Error>,
) -> Result<(), Error> {
    let (limit, mut positions) = (threshold.limit(norm), [0; CHUNK]);
    for (chunk, scores) in scores.chunks(CHUNK).enumerate() {
        let base = chunk * CHUNK;
        let inverse = if threshold.uses_norms() { &rows.inverse_norms[base..base + scores.len()] } else { &[] };
        let found = find_within(scan.isa, scores, inverse, limit, &mut positions);
        for &at in &positions[..found] {
            let row = base + usize::from(at);
            if rows.allowed.is_some_and(|allowed| allowed[row] == 0) {
                continue;
            }
            let squared = if threshold.uses_norms() { rows.norms[row] } else { 0 };
            let candidate = Candidate { score: scores[usize::from(at)], norm: squared, id: rows.ids.of(row) };
            if threshold.admits(norm, &candidate) {
                visit(row, candidate)?;
            }
        }
    }
    Ok(())
}
