//! A response body to a matrix, in one pass.
//!
//! [`walker`] walks the structure and decodes each vector straight into the next free row; [`order`] proves the
//! indexes and, where documents or chunks came in another order, moves rows to their places. Nothing is allocated a
//! chunk beyond its row.

mod fast;
mod order;
mod stream;
mod walker;

use std::mem::MaybeUninit;

pub use stream::{GrowingRows, Stream};
pub use walker::Walker;

use super::Encoding;
use super::json::{Stop, Window};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;

/// Bytes of the longest vector that is accepted.
pub const MOST_ROW_BYTES: usize = 1 << 16;

/// What the caller knows of the response before reading it.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Chunks of each document that was asked for, checked when given.
    pub shape: Option<Vec<usize>>,
    /// Bytes of one vector, checked when given; else the first vector decides.
    pub row_bytes: Option<usize>,
    /// How the vectors travel.
    pub encoding: Encoding,
}

/// Where rows go.
pub trait Rows {
    /// The vectors turn out to have `row_bytes` bytes. Called once, before the first row.
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error>;
    /// Memory of row `index`, the one after the last, or None where there is no room for it.
    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]>;
    /// Memory of the rows so far, `count` of them.
    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>];
}

/// Rows in memory that the caller provides.
pub struct SliceRows<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    row_bytes: usize,
}

impl<'a> SliceRows<'a> {
    /// Rows one after the other in `memory`.
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { memory, row_bytes: 0 }
    }
}

impl Rows for SliceRows<'_> {
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
        self.row_bytes = row_bytes;
        Ok(())
    }

    #[inline]
    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]> {
        let start = index.checked_mul(self.row_bytes)?;
        self.memory.get_mut(start..start.checked_add(self.row_bytes)?)
    }

    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        &mut self.memory[..count * self.row_bytes]
    }
}

/// What a response says beside its vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// `usage.prompt_tokens`.
    pub prompt_tokens: Option<i64>,
    /// `usage.total_tokens`.
    pub total_tokens: Option<i64>,
    /// `usage.cost.total_cost` as spelled, so that no digit is lost.
    pub total_cost: Option<String>,
    /// `usage.cost.currency`.
    pub currency: Option<String>,
}

/// A decoded response: the rows are where the caller wanted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Document `i` owns rows `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// Bytes of one vector; None where the response has none.
    pub row_bytes: Option<usize>,
    /// `model`.
    pub model: Option<String>,
    /// `usage`, where there is one.
    pub usage: Option<Usage>,
}

impl Decoded {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.last().map_or(0, |&last| last as usize)
    }
}

/// Decode a whole body into `rows`.
pub fn decode(isa: Isa, body: &[u8], expected: Expected, rows: &mut impl Rows) -> Result<Decoded, Error> {
    let mut walker = Walker::new(isa, expected);
    let window = Window { bytes: body, base: 0, last: true };
    match walker.run(&window, &mut 0, rows) {
        Ok(()) => Ok(walker.finish(rows)),
        Err(Stop::Error(error)) => Err(error),
        // A last window never asks for more; an error keeps that from ever being a silent pass.
        Err(Stop::More) => Err(DecodeError::new(DecodeKind::Truncated, body.len(), "the body ends early").into()),
    }
}

/// Bytes of the first vector, found by walking no further than it; None where the body is wrong before that, which
/// [`decode`] then reports, or has no vector.
pub fn first_row_bytes(body: &[u8], expected: &Expected) -> Option<usize> {
    struct Probe(Option<usize>);
    impl Rows for Probe {
        fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
            self.0 = Some(row_bytes);
            Err(Error::Interrupted)
        }
        fn row(&mut self, _: usize) -> Option<&mut [MaybeUninit<u8>]> {
            None
        }
        fn rows(&mut self, _: usize) -> &mut [MaybeUninit<u8>] {
            &mut []
        }
    }
    let mut probe = Probe(None);
    // The probe stops the walk by an error of its own, so the result says nothing.
    let _ = decode(Isa::Scalar, body, Expected { shape: None, ..*expected }, &mut probe);
    probe.0
}

/// The most rows of `row_bytes` that `body` can hold: an allocation by this is never larger than the body.
pub fn most_rows(body: &[u8], row_bytes: usize) -> usize {
    // Each row is spelled by its base64 text, two quotes and a comma or bracket.
    super::base64::encoded_len(row_bytes).map_or(0, |text| body.len() / (text + 3))
}

#[cfg(test)]
mod tests;
