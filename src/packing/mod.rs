//! Packing documents into requests: as few requests as the limits allow.
//!
//! A request has three capacities (tokens, chunks, documents), so this is vector bin packing with two dimensions and
//! a cardinality bound. [`greedy`] gives a packing in O(n log n), by [`best_fit`] unless another needs fewer requests;
//! [`bounds`] tells how few any packing needs, and [`improve`] closes the gap while its budget lasts: by [`few_first`]
//! where there is no room to spare, which lists [`fills`], finds some by their [`halves`], and chooses among them by
//! exact [`cover`]; by [`balance`], [`fill`], [`search`] and the linear program of [`linear`] and [`pricing`].
//! [`next_fit`] keeps the input's order, [`window`] looks ahead a bounded number of documents. [`order`] sorts, and
//! [`levels`] finds the next value that is high enough.

mod balance;
mod best_fit;
mod bounds;
mod cover;
mod few_first;
mod fill;
mod fills;
mod greedy;
mod halves;
mod improve;
mod levels;
mod linear;
mod next_fit;
mod order;
mod pricing;
mod search;
mod window;

use std::mem::MaybeUninit;

use crate::error::Error;
use search::Clock;

pub use window::WINDOW_REQUESTS;

/// What one request may hold, and what one document may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Documents a request.
    pub documents: u32,
    /// Chunks a request.
    pub chunks: u32,
    /// Tokens a document, separators included.
    pub tokens_per_document: u32,
    /// Tokens a request, separators included.
    pub tokens: u32,
}

/// Which documents may share a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any of them.
    Any,
    /// Only neighbours: requests are contiguous ranges of the input.
    Input,
    /// Documents that are not far apart: see [`WINDOW_REQUESTS`].
    Window,
}

/// A packing, and what is proven of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// The request of each document; requests are numbered by their first document.
    pub request_of: Vec<u32>,
    /// Number of requests.
    pub requests: usize,
    /// No packing of this order needs fewer.
    pub lower_bound: usize,
}

impl Packing {
    /// Write the documents of one request after the other into `positions`, which is as long as `request_of`.
    ///
    /// Returns where each request starts, and the end of the last.
    pub fn write_requests(&self, positions: &mut [MaybeUninit<i64>]) -> Vec<i64> {
        let mut starts = vec![0; self.requests + 1];
        for &request in &self.request_of {
            starts[request as usize + 1] += 1;
        }
        for request in 0..self.requests {
            starts[request + 1] += starts[request];
        }
        let mut next = starts.clone();
        for (i, &request) in self.request_of.iter().enumerate() {
            let at = &mut next[request as usize];
            positions[*at as usize].write(i as i64);
            *at += 1;
        }
        starts
    }
}

/// How long [`pack`] may search, and who may stop it.
pub struct Effort<'a> {
    /// About so many seconds at most. The budget that ends the search is counted in steps derived from it.
    pub seconds: f64,
    /// Asked some ten times a second while searching; `true` ends the call with [`Error::Interrupted`].
    pub interrupted: &'a dyn Fn() -> bool,
}

/// Documents with their costs, checked against the limits: every document fits a request of its own.
#[derive(Clone, Debug)]
struct Instance {
    /// Tokens of each document, separators included.
    tokens: Vec<u32>,
    /// Chunks of each document; empty where they cannot bind beyond `limits.documents`.
    chunks: Vec<u32>,
    /// What a request holds. `documents` already accounts for chunks where `chunks` is empty.
    limits: Limits,
}

impl Instance {
    /// Add separators, check every document, and drop the chunk counts where they cannot bind.
    fn new(token_counts: &[i64], chunk_counts: Option<&[i64]>, mut limits: Limits) -> Result<Self, Error> {
        if let Some(chunks) = chunk_counts
            && chunks.len() != token_counts.len()
        {
            return Err(Error::Value(format!(
                "chunk_counts must have one entry a document: expected {}, got {}",
                token_counts.len(),
                chunks.len()
            )));
        }
        if u32::try_from(token_counts.len()).is_err() {
            return Err(Error::Value(format!("{} documents are too many to pack at once", token_counts.len())));
        }
        let tokens = token_counts
            .iter()
            .enumerate()
            .map(|(i, &tokens)| cost(i, tokens, chunk_counts.map_or(1, |chunks| chunks[i]), &limits))
            .collect::<Result<Vec<u32>, Error>>()?;
        // One pass tells whether chunks can bind at all; `cost` has shown that each is from 1 to limits.chunks.
        let (low, high) = chunk_counts.map_or((1, 1), |chunks| {
            chunks.iter().fold((i64::MAX, 1), |(low, high), &count| (low.min(count), high.max(count)))
        });
        let (low, high) = (low.min(high) as u32, high as u32);
        let mut chunks = Vec::new();
        if low == high {
            limits.documents = limits.documents.min(limits.chunks / high);
        } else if u64::from(high) * u64::from(limits.documents) > u64::from(limits.chunks) {
            chunks = chunk_counts.unwrap_or_default().iter().map(|&count| count as u32).collect();
        }
        Ok(Self { tokens, chunks, limits })
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Chunks of document `i` as far as they can bind.
    fn chunks_of(&self, i: usize) -> u32 {
        self.chunks.get(i).copied().unwrap_or(0)
    }

    /// Whether chunks are a dimension of their own.
    fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// The instance of the documents at `positions` alone.
    fn part(&self, positions: &[u32]) -> Self {
        let pick = |values: &[u32]| positions.iter().filter_map(|&i| values.get(i as usize)).copied().collect();
        Self { tokens: pick(&self.tokens), chunks: pick(&self.chunks), limits: self.limits }
    }

    /// An empty request.
    fn room(&self) -> Room {
        Room { tokens: self.limits.tokens, chunks: self.limits.chunks, documents: self.limits.documents }
    }
}

/// What is left of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    tokens: u32,
    chunks: u32,
    documents: u32,
}

impl Room {
    fn fits(self, tokens: u32, chunks: u32) -> bool {
        self.documents > 0 && self.tokens >= tokens && self.chunks >= chunks
    }

    /// Take a document that fits.
    fn take(&mut self, tokens: u32, chunks: u32) {
        self.tokens -= tokens;
        self.chunks -= chunks;
        self.documents -= 1;
    }

    /// Give a document's share back.
    fn give(&mut self, tokens: u32, chunks: u32) {
        self.tokens += tokens;
        self.chunks += chunks;
        self.documents += 1;
    }
}

/// Tokens that document `i` really costs, or what is wrong with it.
fn cost(i: usize, tokens: i64, chunks: i64, limits: &Limits) -> Result<u32, Error> {
    if tokens < 1 {
        return Err(Error::Value(format!("token_counts[{i}] must be at least 1, got {tokens}")));
    }
    if chunks < 1 {
        return Err(Error::Value(format!("chunk_counts[{i}] must be at least 1, got {chunks}")));
    }
    if chunks > i64::from(limits.chunks) {
        return Err(Error::Value(format!(
            "document {i} has {chunks} chunks, more than limits.chunks = {} allows a request",
            limits.chunks
        )));
    }
    let whole = i128::from(tokens) + i128::from(chunks) - 1;
    let too_large = |name: &str, limit: u32| {
        let parts = if chunks > 1 { format!(" ({tokens} and {} separators)", chunks - 1) } else { String::new() };
        Err(Error::Value(format!("document {i} costs {whole} tokens{parts}, more than limits.{name} = {limit}")))
    };
    if whole > i128::from(limits.tokens_per_document) {
        return too_large("tokens_per_document", limits.tokens_per_document);
    }
    if whole > i128::from(limits.tokens) {
        return too_large("tokens", limits.tokens);
    }
    Ok(whole as u32)
}

/// A raw assignment: a request number for each document, in no particular order of requests.
#[derive(Clone, Debug)]
struct Assignment {
    request_of: Vec<u32>,
    requests: usize,
}

impl Assignment {
    /// Number the requests by their first document, and drop empty ones.
    fn finish(mut self, lower_bound: usize) -> Packing {
        let mut number = vec![u32::MAX; self.requests];
        let mut next = 0;
        for request in &mut self.request_of {
            let slot = &mut number[*request as usize];
            if *slot == u32::MAX {
                *slot = next;
                next += 1;
            }
            *request = *slot;
        }
        Packing { request_of: self.request_of, requests: next as usize, lower_bound }
    }
}

/// Pack documents of `token_counts` (separators not included) and `chunk_counts` (ones where absent).
///
/// Document positions ascend within a request and requests are ordered by their first document. The result depends
/// on the input and `effort.seconds` alone as long as the step budget ends the search before the clock does.
pub fn pack(
    token_counts: &[i64],
    chunk_counts: Option<&[i64]>,
    limits: Limits,
    order: Order,
    effort: &Effort<'_>,
) -> Result<Packing, Error> {
    let instance = Instance::new(token_counts, chunk_counts, limits)?;
    if instance.len() == 0 {
        return Ok(Packing { request_of: Vec::new(), requests: 0, lower_bound: 0 });
    }
    match order {
        Order::Input => {
            let assignment = next_fit::pack(&instance);
            let requests = assignment.requests;
            Ok(assignment.finish(requests))
        }
        Order::Window => {
            let assignment = window::pack(&instance);
            let bound = prove(&instance, bounds::ceilings(&instance), assignment.requests);
            Ok(assignment.finish(bound))
        }
        Order::Any => {
            let mut clock = Clock::new(effort);
            let simple = bounds::ceilings(&instance);
            let mut assignment = greedy::pack(&instance, simple, &mut clock);
            let bound = prove(&instance, simple, assignment.requests);
            if assignment.requests > bound {
                assignment = greedy::better(&instance, assignment, bound, &mut clock);
            }
            let (assignment, bound) = improve::improve(&instance, assignment, bound, &mut clock)?;
            Ok(assignment.finish(bound))
        }
    }
}

/// The best lower bound that is worth its time when a packing of `known` requests is at hand; `simple` is one already.
fn prove(instance: &Instance, simple: usize, known: usize) -> usize {
    if simple >= known { simple } else { simple.max(bounds::strong(instance, known)) }
}

#[cfg(test)]
mod tests;
