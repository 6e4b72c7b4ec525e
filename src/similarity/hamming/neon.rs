//! NEON: CNT counts the bits of sixteen bytes.
//!
//! Rows are read where they lie, four at a time against up to four queries: each of sixteen pairs has a register of its
//! own, in which 31 counts of up to 8 fit a byte. Panels need no copy of the rows then.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;

use super::layout::{WORD, Word};
use crate::similarity::Matrix;
use crate::similarity::neon::{QUERIES, ROWS, STEP, blocks, each, four, load, padded, store};

/// Counts of 0 to 8 that a byte holds: 31 * 8 = 248 <= 255.
const BYTE_SUMS: usize = 31;

/// Registers of a row that a single query loads at once, and several.
const ALONE: usize = 8;
const TOGETHER: usize = 2;

#[target_feature(enable = "neon")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    for at in (0..rows.len()).step_by(ROWS) {
        let [scores] = distances::<1, ALONE>(four(&rows, at), [query]);
        store(scores, out, at);
    }
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
            1 => self::rows(query(first), rows, &mut out[..rows.len()]),
            2 => tile(rows, [query(first), query(first + 1)], out, stride),
            // A batch is filled up with queries of zeros, whose scores nobody reads.
            _ => tile::<QUERIES>(rows, [0, 1, 2, 3].map(|q| query(first + q)), out, stride),
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn tile<const Q: usize>(rows: Matrix<'_, u8>, queries: [&[u8]; Q], out: &mut [i32], stride: usize) {
    for at in (0..rows.len()).step_by(ROWS) {
        for (q, scores) in distances::<Q, TOGETHER>(four(&rows, at), queries).into_iter().enumerate() {
            store(scores, &mut out[q * stride..][..rows.len()], at);
        }
    }
}

/// The distances of each query from four rows, of which `N` registers each are loaded at once.
#[inline]
#[target_feature(enable = "neon")]
fn distances<const Q: usize, const N: usize>(rows: [&[u8]; ROWS], queries: [&[u8]; Q]) -> [int32x4_t; Q] {
    let steps = rows[0].len() / STEP;
    let count = steps / N;
    let (row_blocks, query_blocks) = (blocks::<_, N, ROWS>(rows, count), blocks::<_, N, Q>(queries, count));
    let mut sums = [vdupq_n_u32(0); Q];
    for start in (0..count).step_by(BYTE_SUMS / N) {
        let mut counts = [[vdupq_n_u8(0); ROWS]; Q];
        for at in start..count.min(start + BYTE_SUMS / N) {
            add(&mut counts, each(row_blocks, at), each(query_blocks, at));
        }
        fold(&mut sums, counts);
    }
    if count * N < steps {
        let (rows, queries) = (blocks::<_, 1, ROWS>(rows, steps), blocks::<_, 1, Q>(queries, steps));
        let mut counts = [[vdupq_n_u8(0); ROWS]; Q];
        for at in count * N..steps {
            add(&mut counts, each(rows, at), each(queries, at));
        }
        fold(&mut sums, counts);
    }
    if steps * STEP < rows[0].len() {
        let mut counts = [[vdupq_n_u8(0); ROWS]; Q];
        let (rows, queries) = (rows.map(|row| padded(row, steps)), queries.map(|query| padded(query, steps)));
        add(&mut counts, rows.each_ref(), queries.each_ref());
        fold(&mut sums, counts);
    }
    sums.map(|sum| vreinterpretq_s32_u32(sum))
}

/// Count the bits in which each byte of a query differs from that of each row.
#[inline]
#[target_feature(enable = "neon")]
fn add<const Q: usize, const N: usize>(
    counts: &mut [[uint8x16_t; ROWS]; Q],
    rows: [&[[u8; STEP]; N]; ROWS],
    queries: [&[[u8; STEP]; N]; Q],
) {
    let mut registers = [[vdupq_n_u8(0); N]; ROWS];
    for (registers, row) in registers.iter_mut().zip(rows) {
        *registers = load(row);
    }
    for (counts, query) in counts.iter_mut().zip(queries) {
        let query = load(query);
        for (count, row) in counts.iter_mut().zip(registers) {
            for (query, row) in query.into_iter().zip(row) {
                *count = vaddq_u8(*count, vcntq_u8(veorq_u8(query, row)));
            }
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
