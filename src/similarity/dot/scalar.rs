//! Portable Rust, written so that the compiler vectorises it.

use super::layout::Word;
use crate::similarity::line::{GROUP, Line};
use crate::similarity::{BATCH, Matrix};

/// Elements of which the compiler makes products and sums of neighbours in one instruction (PMADDWD, in every x86-64):
/// three times as fast as without blocks, and twice as with blocks of 64.
const BLOCK: usize = 32;

pub(super) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = product(query, row);
    }
}

pub(super) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = product(row, row).cast_unsigned();
    }
}

pub(super) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
    for ((row, out), norm) in rows.iter().zip(out).zip(norms) {
        (*out, *norm) = (product(query, row), product(row, row).cast_unsigned());
    }
}

/// Inner product of two vectors of one length.
#[inline]
pub(super) fn product(a: &[i8], b: &[i8]) -> i32 {
    let (a_blocks, a_tail) = a.as_chunks::<BLOCK>();
    let (b_blocks, b_tail) = b.as_chunks::<BLOCK>();
    a_blocks.iter().zip(b_blocks).map(|(a, b)| sum_of_products(a, b)).sum::<i32>() + sum_of_products(a_tail, b_tail)
}

#[inline]
fn sum_of_products(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

pub(super) fn panel(panel: &[Line], words: &[Word], bias: &[i32; BATCH], count: usize, out: &mut [i32], stride: usize) {
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for q in 0..count {
            let mut sums = [bias[q].wrapping_neg(); GROUP];
            for (line, word) in lines.iter().zip(words) {
                let word = word[q].to_ne_bytes().map(|x| i32::from(x.cast_signed()));
                for (sum, value) in sums.iter_mut().zip(line.0) {
                    let value = value.to_ne_bytes().map(i32::from);
                    // At most 4 * 255 * 128 beside the running sum, which wraps.
                    let part = value[0] * word[0] + value[1] * word[1] + value[2] * word[2] + value[3] * word[3];
                    *sum = sum.wrapping_add(part);
                }
            }
            out[q * stride + group * GROUP..][..GROUP].copy_from_slice(&sums);
        }
    }
}
