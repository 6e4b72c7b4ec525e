//! Portable Rust, written so that the compiler vectorises it where the target can count bits in lanes.

use super::layout::{LANES, Line, WORD, Word};
use crate::similarity::Matrix;

pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = distance(query, row);
    }
}

/// Distance of two vectors of one length, at most [`MAX_BYTES`](crate::similarity::MAX_BYTES).
#[inline]
pub(super) fn distance(a: &[u8], b: &[u8]) -> i32 {
    let (a_words, a_tail) = a.as_chunks::<WORD>();
    let (b_words, b_tail) = b.as_chunks::<WORD>();
    let mut sum = 0;
    for (x, y) in a_words.iter().zip(b_words) {
        sum += (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y)).count_ones();
    }
    for (x, y) in a_tail.iter().zip(b_tail) {
        sum += (x ^ y).count_ones();
    }
    sum.cast_signed()
}

pub(super) fn panel(panel: &[Line], words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for q in 0..count {
            let mut sums = [0u32; LANES];
            for (line, word) in lines.iter().zip(words) {
                for (sum, value) in sums.iter_mut().zip(line.words()) {
                    *sum += (value ^ u64::from_ne_bytes(word.as_chunks().0[q])).count_ones();
                }
            }
            let out = &mut out[q * stride + group * LANES..][..LANES];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.cast_signed();
            }
        }
    }
}
