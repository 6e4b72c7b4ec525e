//! A response decoded while it arrives.
//!
//! The parser runs over each part as it comes. It may leave the start of a token that is not whole, which is kept and
//! completed from the next part with as few bytes as that takes, so that the rest of the part is never copied. A kept
//! token is at most one vector's text, a key or a number; skipped strings are never kept.

use std::mem::MaybeUninit;

use super::decoded::Decoded;
use super::expected::Expected;
use super::parser::Parser;
use super::rows::GrowingRows;
use crate::codec::json::{Stop, Window};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;

/// Bytes of a part that are first added to a kept token; twice as many each time that they do not complete it.
const FIRST_ADDITION: usize = 4096;

/// One response that arrives in parts.
pub struct Stream {
    parser: Parser,
    rows: GrowingRows,
    /// The start of a token that is not whole yet.
    kept: Vec<u8>,
    /// Bytes of the body before `kept`.
    base: usize,
    /// The error that ended the stream early; every later call returns it again.
    error: Option<DecodeError>,
}

impl Stream {
    /// A response of which nothing has arrived.
    pub fn new(isa: Isa, expected: Expected) -> Self {
        let rows = GrowingRows::up_to(expected.total());
        Self { parser: Parser::new(isa, expected), rows, kept: Vec::new(), base: 0, error: None }
    }

    /// Decode the next part, of any length.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), Error> {
        if let Some(error) = &self.error {
            return Err(error.clone().into());
        }
        let mut part = part;
        let mut addition = FIRST_ADDITION;
        while !self.kept.is_empty() && !part.is_empty() {
            let kept = self.kept.len();
            let (added, _) = part.split_at(addition.min(part.len()));
            self.kept.extend_from_slice(added);
            let bytes = std::mem::take(&mut self.kept);
            let done = self.run(&bytes, false)?;
            if done >= kept {
                // The token is whole, and the parser goes on in the part itself.
                part = &part[done - kept..];
            } else {
                self.kept = bytes;
                self.kept.drain(..done);
                part = &part[added.len()..];
                addition *= 2;
            }
        }
        if !part.is_empty() {
            let done = self.run(part, false)?;
            self.kept.extend_from_slice(&part[done..]);
        }
        Ok(())
    }

    /// Take the end of the body, check the whole, and return the result and its rows.
    pub fn finish(mut self) -> Result<(Decoded, Vec<MaybeUninit<u8>>), Error> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        let bytes = std::mem::take(&mut self.kept);
        self.run(&bytes, true)?;
        let decoded = self.parser.finish(&mut self.rows);
        let rows = decoded.rows();
        Ok((decoded, self.rows.into_memory(rows)))
    }

    /// Parse `bytes`, which start at `base`; returns how many of them are done with.
    fn run(&mut self, bytes: &[u8], last: bool) -> Result<usize, Error> {
        let mut pos = 0;
        let error = match self.parser.run(&Window { bytes, base: self.base, last }, &mut pos, &mut self.rows) {
            Ok(()) => return Ok(pos),
            Err(Stop::More) if !last => {
                self.base += pos;
                return Ok(pos);
            }
            // Not reached: a last window never asks for more.
            Err(Stop::More) => DecodeError::new(DecodeKind::Truncated, self.base + bytes.len(), "the body ends early"),
            Err(Stop::Error(Error::Decode(error))) => error,
            Err(Stop::Error(other)) => return Err(other),
        };
        self.error = Some(error.clone());
        Err(error.into())
    }
}
