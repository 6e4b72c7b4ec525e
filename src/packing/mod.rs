//! Packing documents into requests: as few requests as the limits allow.
//!
//! A request has three capacities (tokens, chunks, documents), so this is vector bin packing with two dimensions and a
//! cardinality constraint. [`greedy`] packs in O(n log n), by [`best_fit`] and heuristics for limits that bind together.
//! [`lower_bounds`] proves how few requests any packing needs, and [`improve`] searches for a packing that meets the bound
//! while the [`budget`] lasts. [`next_fit`] keeps the order of the input, [`window`] looks ahead a bounded number of
//! documents.
//!
//! Imports run downwards: `greedy`, `improve` and `window`; `best_fit`, `next_fit` and `lower_bounds`; [`sort`] and
//! [`max_tree`]; [`instance`], `budget` and [`random`].

mod best_fit;
mod budget;
mod greedy;
mod improve;
mod instance;
mod lower_bounds;
mod max_tree;
mod next_fit;
mod random;
mod sort;
mod window;

use std::mem::MaybeUninit;

use crate::error::Error;
use crate::memory;
use budget::Budget;
use instance::{Assignment, Instance};

pub use budget::Effort;
pub use instance::Limits;
pub use window::WINDOW_REQUESTS;

/// Bytes of memory for each document, to pack greedily and to improve a packing, where each is a request of its own.
const GREEDY: usize = 128;
const IMPROVING: usize = 384;
/// Bytes of memory that do not depend on the number of documents: buckets by tokens, and sums of tokens.
const BUCKETS: usize = 12 << 20;
const SUMS: usize = 40 << 20;
/// Bytes of those sums for each token of a request.
const SUM_BYTES: usize = 64;

/// Which documents may share a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any documents.
    Any,
    /// Only neighbours: requests are contiguous ranges of the input.
    Input,
    /// Documents within a window: see [`WINDOW_REQUESTS`].
    Window,
}

/// A packing, and the lower bound that is proven for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// The request of each document; requests are numbered by their first document.
    pub request_of: Vec<u32>,
    /// Number of requests.
    pub requests: usize,
    /// No packing in this order needs fewer.
    pub lower_bound: usize,
}

impl Packing {
    /// Number the requests by their first document, and drop empty ones.
    fn new(assignment: Assignment, lower_bound: usize) -> Self {
        let mut number = vec![u32::MAX; assignment.requests];
        let mut next = 0;
        let mut request_of = assignment.request_of;
        for request in &mut request_of {
            let slot = &mut number[*request as usize];
            if *slot == u32::MAX {
                *slot = next;
                next += 1;
            }
            *request = *slot;
        }
        Self { request_of, requests: next as usize, lower_bound }
    }

    /// Write the positions of the documents to `positions`, request by request. `positions` is as long as `request_of`.
    ///
    /// Returns the start of each request, and the end of the last.
    pub fn write_requests(&self, positions: &mut [MaybeUninit<i64>]) -> Result<Vec<i64>, Error> {
        let mut starts = memory::vector(self.requests + 1)?;
        starts.resize(self.requests + 1, 0);
        for &request in &self.request_of {
            starts[request as usize + 1] += 1;
        }
        for request in 0..self.requests {
            starts[request + 1] += starts[request];
        }
        let mut next = memory::collected(starts.iter().copied())?;
        for (i, &request) in self.request_of.iter().enumerate() {
            let at = &mut next[request as usize];
            positions[*at as usize].write(i as i64);
            *at += 1;
        }
        Ok(starts)
    }
}

/// Pack documents of `token_counts` (without separators) and `chunk_counts` (one each by default).
///
/// Requests are ordered by their first document. The result depends only on the input and `effort.seconds`, as long as the
/// step budget ends the search before the deadline does.
pub fn pack(
    token_counts: &[i64],
    chunk_counts: Option<&[i64]>,
    limits: Limits,
    order: Order,
    effort: &Effort<'_>,
) -> Result<Packing, Error> {
    let instance = Instance::new(token_counts, chunk_counts, limits)?;
    let buckets = BUCKETS.min(limits.tokens as usize * 6);
    memory::check(buckets + GREEDY.saturating_mul(instance.len()))?;
    if instance.len() == 0 {
        return Ok(Packing { request_of: Vec::new(), requests: 0, lower_bound: 0 });
    }
    match order {
        Order::Input => {
            let assignment = next_fit::pack(&instance);
            let requests = assignment.requests;
            Ok(Packing::new(assignment, requests))
        }
        Order::Window => {
            let assignment = window::pack(&instance);
            let bound = prove(&instance, lower_bounds::ceilings(&instance), assignment.requests);
            Ok(Packing::new(assignment, bound))
        }
        Order::Any => {
            let mut budget = Budget::new(effort);
            let simple = lower_bounds::ceilings(&instance);
            let mut assignment = greedy::pack(&instance, simple, &mut budget);
            let bound = prove(&instance, simple, assignment.requests);
            if assignment.requests > bound {
                assignment = greedy::better(&instance, assignment, bound, &mut budget);
            }
            if assignment.requests > bound && effort.seconds > 0.0 {
                memory::check(SUMS.min(SUM_BYTES * limits.tokens as usize) + IMPROVING.saturating_mul(instance.len()))?;
            }
            let (assignment, bound) = improve::improve(&instance, assignment, bound, &mut budget)?;
            Ok(Packing::new(assignment, bound))
        }
    }
}

/// The best lower bound, given the bound `simple` and a packing of `known` requests. Nothing is computed if they meet.
fn prove(instance: &Instance, simple: usize, known: usize) -> usize {
    if simple >= known { simple } else { simple.max(lower_bounds::strong(instance, known)) }
}

#[cfg(test)]
mod tests;
