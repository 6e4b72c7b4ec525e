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
    failure: Option<Failure>,
}

/// An error that can be returned again.
#[derive(Clone, Debug)]
enum Failure {
    Decode(DecodeError),
    Memory(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Decode(error) => Self::Decode(error),
            Failure::Memory(message) => Self::Memory(message),
        }
    }
}

impl Stream {
    /// A response of which nothing has arrived.
    pub fn new(isa: Isa, expected: Expected) -> Self {
        let rows = GrowingRows::up_to(expected.total());
        Self { parser: Parser::new(isa, expected), rows, kept: Vec::new(), base: 0, failure: None }
    }

    /// Decode the next part, of any length.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        let fed = self.feed_next(part);
        if let Err(error) = &fed {
            // Bytes of the part are lost, so the stream cannot go on.
            self.failure = match error {
                Error::Decode(error) => Some(Failure::Decode(error.clone())),
                error => Some(Failure::Memory(error.to_string())),
            };
        }
        fed
    }

    fn feed_next(&mut self, part: &[u8]) -> Result<(), Error> {
        let mut part = part;
        let mut addition = FIRST_ADDITION;
        while !self.kept.is_empty() && !part.is_empty() {
            let kept = self.kept.len();
            let (added, _) = part.split_at(addition.min(part.len()));
            self.kept.try_reserve(added.len())?;
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
            self.kept.try_reserve(part.len() - done)?;
            self.kept.extend_from_slice(&part[done..]);
        }
        Ok(())
    }

    /// Take the end of the body, check the whole, and return the result and its rows.
    pub fn finish(mut self) -> Result<(Decoded, Vec<MaybeUninit<u8>>), Error> {
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        let bytes = std::mem::take(&mut self.kept);
        self.run(&bytes, true)?;
        let decoded = self.parser.finish(&mut self.rows)?;
        let rows = decoded.rows();
        Ok((decoded, self.rows.into_memory(rows)))
    }

    /// Parse `bytes`, which start at `base`; returns how many of them are done with.
    fn run(&mut self, bytes: &[u8], last: bool) -> Result<usize, Error> {
        let mut pos = 0;
        match self.parser.run(&Window { bytes, base: self.base, last }, &mut pos, &mut self.rows) {
            Ok(()) => Ok(pos),
            Err(Stop::More) if !last => {
                self.base += pos;
                Ok(pos)
            }
            // Not reached: a last window never asks for more.
            Err(Stop::More) => {
                let end = self.base + bytes.len();
                Err(DecodeError::new(DecodeKind::Truncated, end, "the body ends early").into())
            }
            Err(Stop::Error(error)) => Err(error),
        }
    }
}
