//! How panels hold rows, and batches hold queries: as words of 64 bits.

use crate::similarity::BATCH;

/// Bytes in a word.
pub(super) const WORD: usize = 8;
/// Rows in a group.
pub(super) const GROUP: usize = 16;
/// Groups that are prefetched ahead of the one that is interleaved: its rows, read side by side, hide from the CPU that
/// they follow one another.
pub(super) const AHEAD: usize = 2;
/// Rows that a line holds a word of.
pub(super) const LANES: usize = 8;

/// The same 64 bits of eight rows; for AVX2 the same nibbles of sixteen.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Line(pub(crate) [u8; LANES * WORD]);

/// The same 64 bits of each query of a batch; for AVX2 as many bytes in an order of its own.
pub type Word = [u8; BATCH * WORD];

impl Line {
    /// The words of the rows.
    pub(super) fn words(&self) -> [u64; LANES] {
        let words = self.0.as_chunks().0;
        std::array::from_fn(|lane| u64::from_ne_bytes(words[lane]))
    }

    pub(super) fn set(&mut self, lane: usize, word: u64) {
        self.0.as_chunks_mut().0[lane] = word.to_ne_bytes();
    }
}

/// The vector's 64-bit words, the last one filled up with zero bytes.
#[inline]
pub(super) fn each_word(vector: &[u8], mut visit: impl FnMut(usize, u64)) {
    let (words, tail) = vector.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        visit(index, u64::from_ne_bytes(*word));
    }
    if !tail.is_empty() {
        let mut word = [0; WORD];
        word[..tail.len()].copy_from_slice(tail);
        visit(words.len(), u64::from_ne_bytes(word));
    }
}
