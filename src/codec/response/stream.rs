//! A response decoded while it arrives.
//!
//! The walker runs over each part as it comes. What it leaves, the start of a token that is not whole, is kept and
//! completed from the next part with as few bytes as that takes, so that the rest of the part is never copied. A
//! token that is kept is at most one vector's text, a key or a number; skipped strings are walked, not kept.

use std::mem::MaybeUninit;

use super::walker::Walker;
use super::{Decoded, Expected, Rows};
use crate::codec::json::{Stop, Window};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;

/// Bytes of a part that are first added to a token that was left.
const FIRST_HELPING: usize = 4096;

/// Bytes of rows that are reserved at once where so many were asked for: growing there means copying.
const AT_ONCE: usize = 1 << 20;

/// Rows in memory that grows with them: beyond [`AT_ONCE`] bytes at no time more than twice what has arrived.
#[derive(Debug, Default)]
pub struct GrowingRows {
    memory: Vec<MaybeUninit<u8>>,
    row_bytes: usize,
    /// Rows that were asked for, beyond which nothing is reserved.
    most: Option<usize>,
}

impl GrowingRows {
    /// The bytes of the first `count` rows, all initialised.
    pub fn into_memory(mut self, count: usize) -> Vec<MaybeUninit<u8>> {
        self.memory.truncate(count * self.row_bytes);
        self.memory.shrink_to_fit();
        self.memory
    }
}

impl Rows for GrowingRows {
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
        self.row_bytes = row_bytes;
        Ok(())
    }

    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]> {
        let start = index.checked_mul(self.row_bytes)?;
        let end = start.checked_add(self.row_bytes)?;
        if end > self.memory.capacity() {
            let most = self.most.map(|most| most.saturating_mul(self.row_bytes));
            let doubled = (2 * self.memory.capacity()).min(most.unwrap_or(usize::MAX));
            let wanted = doubled.max(end).max(most.unwrap_or(0).min(AT_ONCE));
            self.memory.reserve_exact(wanted - self.memory.len());
        }
        if end > self.memory.len() {
            self.memory.resize(end, MaybeUninit::new(0));
        }
        self.memory.get_mut(start..end)
    }

    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        &mut self.memory[..count * self.row_bytes]
    }
}

/// One response that arrives in parts.
pub struct Stream {
    walker: Walker,
    rows: GrowingRows,
    /// The start of a token that is not whole yet.
    kept: Vec<u8>,
    /// Bytes of the body before `kept`.
    base: usize,
    /// What ended the stream early: every later call says it again.
    error: Option<DecodeError>,
}

impl Stream {
    /// A stream of which nothing has arrived.
    pub fn new(isa: Isa, expected: Expected) -> Self {
        let rows = GrowingRows { most: expected.total(), ..GrowingRows::default() };
        Self { walker: Walker::new(isa, expected), rows, kept: Vec::new(), base: 0, error: None }
    }

    /// Decode the next part, of any length.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), Error> {
        if let Some(error) = &self.error {
            return Err(error.clone().into());
        }
        let mut part = part;
        let mut helping = FIRST_HELPING;
        while !self.kept.is_empty() && !part.is_empty() {
            let kept = self.kept.len();
            let (added, _) = part.split_at(helping.min(part.len()));
            self.kept.extend_from_slice(added);
            let bytes = std::mem::take(&mut self.kept);
            let done = self.run(&bytes, false)?;
            if done >= kept {
                // The token is whole, and the walk goes on in the part itself.
                part = &part[done - kept..];
            } else {
                self.kept = bytes;
                self.kept.drain(..done);
                part = &part[added.len()..];
                helping *= 2;
            }
        }
        if !part.is_empty() {
            let done = self.run(part, false)?;
            self.kept.extend_from_slice(&part[done..]);
        }
        Ok(())
    }

    /// The body has ended: prove the whole, and give what was decoded.
    pub fn finish(mut self) -> Result<(Decoded, Vec<MaybeUninit<u8>>), Error> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        let bytes = std::mem::take(&mut self.kept);
        self.run(&bytes, true)?;
        let decoded = self.walker.finish(&mut self.rows);
        let rows = decoded.rows();
        Ok((decoded, self.rows.into_memory(rows)))
    }

    /// Walk over `bytes`, which start at `base`; how many of them are done with.
    fn run(&mut self, bytes: &[u8], last: bool) -> Result<usize, Error> {
        let mut pos = 0;
        let error = match self.walker.run(&Window { bytes, base: self.base, last }, &mut pos, &mut self.rows) {
            Ok(()) => return Ok(pos),
            Err(Stop::More) if !last => {
                self.base += pos;
                return Ok(pos);
            }
            // A last window never asks for more; an error keeps that from ever being a silent pass.
            Err(Stop::More) => DecodeError::new(DecodeKind::Truncated, self.base + bytes.len(), "the body ends early"),
            Err(Stop::Error(Error::Decode(error))) => error,
            Err(Stop::Error(other)) => return Err(other),
        };
        self.error = Some(error.clone());
        Err(error.into())
    }
}
