//! NEON: CNT counts the bits of sixteen bytes.
//!
//! Rows are read where they lie, four at a time against up to four queries: each of sixteen pairs has a register of its
//! own, in which 31 counts of up to 8 fit a byte. Panels need no copy of the rows then.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;

use super::layout::{WORD, Word};
use crate::similarity::Matrix;
use crate::similarity::neon::{QUERIES, ROWS, STEP, fours, load, padded, store};

/// Counts of 0 to 8 that a byte holds: 31 * 8 = 248 <= 255.
const BYTE_SUMS: usize = 31;

#[target_feature(enable = "neon")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    fours(rows, |group, at| {
        let [scores] = distances(group, [query]);
        store(scores, out, at);
    });
}

/// Put a query after those of its batch, filled up with zeros to whole words.
pub(super) fn pack_query(query: &[u8], q: usize, batch: &mut [Word]) {
    let length = batch.len() * WORD;
    batch.as_flattened_mut()[q * length..][..query.len()].copy_from_slice(query);
}

/// Scores of a batch of queries, as [`pack_query`] put them, with all rows.
#[target_feature(enable = "neon")]
pub(super) fn panel(rows: Matrix<'_, u8>, words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    let query = |q: usize| &words.as_flattened()[q * words.len() * WORD..][..rows.width()];
    for first in (0..count).step_by(QUERIES) {
        let out = &mut out[first * stride..];
        match count - first {
            1 => tile(rows, [query(first)], out, stride),
            2 => tile(rows, [query(first), query(first + 1)], out, stride),
            // A batch is filled up with queries of zeros, whose scores nobody reads.
            _ => tile::<QUERIES>(rows, [0, 1, 2, 3].map(|q| query(first + q)), out, stride),
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn tile<const Q: usize>(rows: Matrix<'_, u8>, queries: [&[u8]; Q], out: &mut [i32], stride: usize) {
    fours(rows, |group, at| {
        for (q, scores) in distances(group, queries).into_iter().enumerate() {
            store(scores, &mut out[q * stride..][..rows.len()], at);
        }
    });
}

/// The distances of each query from four rows.
#[inline]
#[target_feature(enable = "neon")]
fn distances<const Q: usize>(rows: [&[u8]; ROWS], queries: [&[u8]; Q]) -> [int32x4_t; Q] {
    let whole = rows[0].len() / STEP;
    let (mut row_steps, mut query_steps) = ([[].as_slice(); ROWS], [[].as_slice(); Q]);
    for (steps, row) in row_steps.iter_mut().zip(rows) {
        // Seeing one length, the compiler leaves out checks.
        *steps = &row.as_chunks().0[..whole];
    }
    for (steps, query) in query_steps.iter_mut().zip(queries) {
        *steps = &query.as_chunks().0[..whole];
    }
    let mut sums = [vdupq_n_u32(0); Q];
    for start in (0..whole).step_by(BYTE_SUMS) {
        let mut counts = [[vdupq_n_u8(0); ROWS]; Q];
        for at in start..whole.min(start + BYTE_SUMS) {
            add(&mut counts, row_steps.map(|steps| &steps[at]), query_steps.map(|steps| &steps[at]));
        }
        fold(&mut sums, counts);
    }
    if !rows[0].len().is_multiple_of(STEP) {
        let mut counts = [[vdupq_n_u8(0); ROWS]; Q];
        let (rows, queries) =
            (rows.map(|row| padded(&row[whole * STEP..])), queries.map(|query| padded(&query[whole * STEP..])));
        add(&mut counts, rows.each_ref(), queries.each_ref());
        fold(&mut sums, counts);
    }
    sums.map(|sum| vreinterpretq_s32_u32(sum))
}

/// Count the bits in which each byte of a query differs from that of each row.
#[inline]
#[target_feature(enable = "neon")]
fn add<const Q: usize>(counts: &mut [[uint8x16_t; ROWS]; Q], rows: [&[u8; STEP]; ROWS], queries: [&[u8; STEP]; Q]) {
    let mut registers = [vdupq_n_u8(0); ROWS];
    for (register, row) in registers.iter_mut().zip(rows) {
        *register = load(row);
    }
    for (counts, query) in counts.iter_mut().zip(queries) {
        let query = load(query);
        for (count, row) in counts.iter_mut().zip(registers) {
            *count = vaddq_u8(*count, vcntq_u8(veorq_u8(query, row)));
        }
    }
}

/// Add the counts of each row to a lane.
#[inline]
#[target_feature(enable = "neon")]
fn fold<const Q: usize>(sums: &mut [uint32x4_t; Q], counts: [[uint8x16_t; ROWS]; Q]) {
    for (sum, [a, b, c, d]) in sums.iter_mut().zip(counts) {
        // At most 31 * 8 * 8 a lane.
        let ab = vpaddq_u16(vpaddlq_u8(a), vpaddlq_u8(b));
        let cd = vpaddq_u16(vpaddlq_u8(c), vpaddlq_u8(d));
        *sum = vpadalq_u16(*sum, vpaddq_u16(ab, cd));
    }
}
