//! The expectation of a response.

use crate::codec::Encoding;

/// Bytes of the longest vector that is accepted.
pub const MOST_ROW_BYTES: usize = 1 << 16;

/// What the caller knows of the response in advance.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Chunks of each document of the request, checked when given.
    pub shape: Option<Vec<usize>>,
    /// Bytes of one vector, checked when given; else the first vector decides.
    pub row_bytes: Option<usize>,
    /// How the vectors are encoded.
    pub encoding: Encoding,
}

impl Expected {
    /// Chunks of all documents of the request.
    pub fn total(&self) -> Option<usize> {
        self.shape.as_ref().map(|shape| shape.iter().fold(0, |sum: usize, &n| sum.saturating_add(n)))
    }
}
