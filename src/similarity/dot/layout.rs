//! How panels hold rows, and batches hold queries: as words of four elements. Those of rows are plus 128 each.

use crate::similarity::BATCH;

/// Elements in a word.
pub(super) const WORD: usize = 4;
/// Turns four int8 `x` into four unsigned `x + 128`.
pub(super) const BIAS: u32 = 0x8080_8080;

/// The same word of each query of a batch.
pub type Word = [u32; BATCH];

/// The vector's words, as bytes in memory order, the last one filled up with zeros.
#[inline]
pub(super) fn each_word(vector: &[i8], mut visit: impl FnMut(usize, u32)) {
    let (words, tail) = vector.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        visit(index, u32::from_ne_bytes(word.map(i8::cast_unsigned)));
    }
    if !tail.is_empty() {
        let mut word = [0; WORD];
        word[..tail.len()].copy_from_slice(tail);
        visit(words.len(), u32::from_ne_bytes(word.map(i8::cast_unsigned)));
    }
}

/// The sum of a vector.
pub(in crate::similarity) fn sum(vector: &[i8]) -> i32 {
    vector.iter().map(|&x| i32::from(x)).sum()
}
