//! A response body to a matrix, in one pass.
//!
//! [`parser`] reads the JSON and decodes each vector straight into the next free row; [`template`] is its shortcut for
//! objects that are spelled like the one before; [`row_order`] checks the indexes and, where documents or chunks came in
//! another order, moves rows to their places. A chunk costs no allocation beyond its row.

mod cost;
mod decoded;
mod expected;
mod parser;
mod row_order;
mod rows;
mod stream;
mod template;

use std::mem::MaybeUninit;

pub use decoded::{Decoded, Usage};
pub use expected::{Expected, MOST_ROW_BYTES};
pub use parser::Parser;
pub use rows::{GrowingRows, Rows, SliceRows};
pub use stream::Stream;

use super::base64;
use super::json::{Stop, Window};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;

/// Decode a whole body into `rows`.
pub fn decode(isa: Isa, body: &[u8], expected: Expected, rows: &mut impl Rows) -> Result<Decoded, Error> {
    let mut parser = Parser::new(isa, expected);
    let window = Window { bytes: body, base: 0, last: true };
    match parser.run(&window, &mut 0, rows) {
        Ok(()) => parser.finish(rows),
        Err(Stop::Error(error)) => Err(error),
        // Not reached: a last window never asks for more.
        Err(Stop::More) => Err(DecodeError::new(DecodeKind::Truncated, body.len(), "the body ends early").into()),
    }
}

/// Bytes of the first vector, found by parsing no further than it; None where the body has no vector, or an error before
/// it, which [`decode`] then reports.
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
    // The probe stops the parser by an error of its own, so the result says nothing.
    let _ = decode(Isa::Scalar, body, Expected { shape: None, ..*expected }, &mut probe);
    probe.0
}

/// The most rows of `row_bytes` that `body` can hold: an allocation of this size is never larger than the body.
pub fn most_rows(body: &[u8], row_bytes: usize) -> usize {
    // Each row is spelled by its base64 text, two quotes and a comma or bracket.
    base64::encoded_len(row_bytes).map_or(0, |text| body.len() / (text + 3))
}

#[cfg(test)]
mod tests;
