//! The orders that rows are ranked by.

use std::cmp::Ordering;

use super::limit::Limit;
use crate::similarity::cosine;

/// A scored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Hamming distance or inner product.
    pub score: i32,
    /// The row's squared norm where rows are ranked by cosine, else 0.
    pub norm: u32,
    /// The row's id.
    pub id: i64,
}

/// A ranking of candidates. Every order breaks ties by the lower id, so it is total: the number of threads and their
/// timing cannot change a result.
pub trait Order: Copy + Send + Sync {
    /// Whether it reads the rows' norms.
    const USES_NORMS: bool;

    /// `Less` if `a` ranks before `b`.
    fn compare(a: &Candidate, b: &Candidate) -> Ordering;

    /// The limit that a row must meet to rank before `worst`. If later rows have higher ids (`ascending`), a tie with
    /// `worst` is lost.
    fn limit(worst: &Candidate, ascending: bool) -> Limit;
}

/// Lowest Hamming distance first.
#[derive(Clone, Copy, Debug)]
pub struct ByHamming;

/// Greatest inner product first.
#[derive(Clone, Copy, Debug)]
pub struct ByProduct;

/// Greatest cosine first, compared exactly from the products and norms.
#[derive(Clone, Copy, Debug)]
pub struct ByCosine;

impl Order for ByHamming {
    const USES_NORMS: bool = false;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        a.score.cmp(&b.score).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, ascending: bool) -> Limit {
        Limit::AtMost(worst.score.saturating_sub(i32::from(ascending)))
    }
}

impl Order for ByProduct {
    const USES_NORMS: bool = false;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        b.score.cmp(&a.score).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, ascending: bool) -> Limit {
        Limit::AtLeast(worst.score.saturating_add(i32::from(ascending)))
    }
}

impl Order for ByCosine {
    const USES_NORMS: bool = true;

    #[inline]
    fn compare(a: &Candidate, b: &Candidate) -> Ordering {
        cosine::compare((b.score, b.norm), (a.score, a.norm)).then(a.id.cmp(&b.id))
    }

    fn limit(worst: &Candidate, _: bool) -> Limit {
        Limit::Cosine(cosine::filter_limit(worst.score, worst.norm))
    }
}
