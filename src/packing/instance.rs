//! What is packed, and an assignment of it to requests.

use crate::error::Error;
use crate::memory;

/// What one request may hold, and what one document may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Documents of a request.
    pub documents: u32,
    /// Chunks of a request.
    pub chunks: u32,
    /// Tokens of a document, separators included.
    pub tokens_per_document: u32,
    /// Tokens of a request, separators included.
    pub tokens: u32,
}

/// The costs of documents, each of which fits a request by itself.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// Tokens of each document, separators included.
    pub(super) tokens: Vec<u32>,
    /// Chunks of each document; empty if the limit of chunks cannot bind before that of documents.
    pub(super) chunks: Vec<u32>,
    /// What a request holds. If `chunks` is empty, `documents` includes the limit of chunks.
    pub(super) limits: Limits,
}

impl Instance {
    /// Add separators, check every document, and drop the chunk counts if they cannot bind.
    pub(super) fn new(token_counts: &[i64], chunk_counts: Option<&[i64]>, mut limits: Limits) -> Result<Self, Error> {
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
        let mut tokens = memory::vector(token_counts.len())?;
        let mut chunks = memory::vector(chunk_counts.map_or(0, <[i64]>::len))?;
        let (mut low, mut high) = (u32::MAX, 1);
        // Each count is read once: another thread may write to the caller's arrays meanwhile.
        for (i, &token_count) in token_counts.iter().enumerate() {
            let count = chunk_counts.map_or(1, |chunks| chunks[i]);
            tokens.push(cost(i, token_count, count, &limits)?);
            if chunk_counts.is_some() {
                // `cost` has checked that the count is from 1 to limits.chunks.
                let count = count as u32;
                (low, high) = (low.min(count), high.max(count));
                chunks.push(count);
            }
        }
        // Chunks cannot bind if even requests of the largest counts stay within the limit.
        let binds = u64::from(high) * u64::from(limits.documents) > u64::from(limits.chunks);
        if low.min(high) == high {
            limits.documents = limits.documents.min(limits.chunks / high);
            chunks = Vec::new();
        } else if !binds {
            chunks = Vec::new();
        }
        Ok(Self { tokens, chunks, limits })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Chunks of document `i`; 0 if they cannot bind.
    pub(super) fn chunks_of(&self, i: usize) -> u32 {
        self.chunks.get(i).copied().unwrap_or(0)
    }

    /// Whether chunks can bind.
    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// The instance of only the documents at `positions`.
    pub(super) fn part(&self, positions: &[u32]) -> Self {
        let pick = |values: &[u32]| positions.iter().filter_map(|&i| values.get(i as usize)).copied().collect();
        Self { tokens: pick(&self.tokens), chunks: pick(&self.chunks), limits: self.limits }
    }

    /// The room of an empty request.
    pub(super) fn room(&self) -> Room {
        Room { tokens: self.limits.tokens, chunks: self.limits.chunks, documents: self.limits.documents }
    }
}

/// What a request has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) tokens: u32,
    pub(super) chunks: u32,
    pub(super) documents: u32,
}

impl Room {
    pub(super) fn fits(self, tokens: u32, chunks: u32) -> bool {
        self.documents > 0 && self.tokens >= tokens && self.chunks >= chunks
    }

    /// Take a document that fits.
    pub(super) fn take(&mut self, tokens: u32, chunks: u32) {
        self.tokens -= tokens;
        self.chunks -= chunks;
        self.documents -= 1;
    }
}

/// The tokens of document `i` with its separators, or the error that names it.
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

/// A request for each document; requests are in no particular order.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) request_of: Vec<u32>,
    pub(super) requests: usize,
}

impl Assignment {
    /// The assignment of `documents` documents by the documents of each request.
    pub(super) fn from_requests(documents: usize, requests: Vec<Vec<u32>>) -> Self {
        let mut request_of = vec![0; documents];
        let count = requests.len();
        for (number, request) in requests.into_iter().enumerate() {
            for i in request {
                request_of[i as usize] = number as u32;
            }
        }
        Self { request_of, requests: count }
    }

    /// The documents of each request.
    pub(super) fn to_requests(&self) -> Vec<Vec<u32>> {
        let mut requests = vec![Vec::new(); self.requests];
        for (i, &request) in self.request_of.iter().enumerate() {
            requests[request as usize].push(i as u32);
        }
        requests
    }
}
