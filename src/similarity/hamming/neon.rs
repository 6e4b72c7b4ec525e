//! NEON: CNT counts the bits of sixteen bytes.
//!
//! Rows are read where they lie, four at a time, so that one addition sums counts of all four. Panels need no copy of the
//! rows then: the queries of a batch pass over four rows, which are in the first cache.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;

use super::layout::{WORD, Word};
use crate::similarity::Matrix;
use crate::similarity::neon::{Fours, ROWS, STEP, blocks, each, load, padded, store};

/// Registers of a row whose counts are summed as bytes: at most 64 each, and 128 for two.
const BLOCK: usize = 8;

#[target_feature(enable = "neon")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    score(rows, query, query.len(), out, 0);
}

/// Put a query after those of its batch, filled up with zeros to whole words.
pub(super) fn pack_query(query: &[u8], q: usize, batch: &mut [Word]) {
    let length = batch.len() * WORD;
    batch.as_flattened_mut()[q * length..][..query.len()].copy_from_slice(query);
}

/// Scores of a batch of queries, as [`pack_query`] put them, with all rows.
#[target_feature(enable = "neon")]
pub(super) fn panel(rows: Matrix<'_, u8>, words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    let length = words.len() * WORD;
    score(rows, &words.as_flattened()[..count * length], length, out, stride);
}

/// Scores of queries, each at the start of `length` bytes, with all rows.
#[target_feature(enable = "neon")]
fn score(rows: Matrix<'_, u8>, queries: &[u8], length: usize, out: &mut [i32], stride: usize) {
    let width = rows.width();
    for (at, four) in Fours::of(&rows).enumerate() {
        for (q, query) in queries.chunks_exact(length).enumerate() {
            store(distances(&query[..width], four), &mut out[q * stride + at * ROWS..]);
        }
    }
}

/// The distances of a query from four rows.
#[inline]
#[target_feature(enable = "neon")]
fn distances(query: &[u8], rows: [&[u8]; ROWS]) -> int32x4_t {
    let whole = query.len() / (BLOCK * STEP);
    let ([query_blocks], row_blocks) = (blocks::<_, BLOCK, 1>([query], whole), blocks::<_, BLOCK, ROWS>(rows, whole));
    let mut sums = vdupq_n_u32(0);
    for (at, query) in query_blocks.iter().enumerate() {
        let query = load(query);
        let mut counts = [vdupq_n_u8(0); ROWS];
        for (counts, row) in counts.iter_mut().zip(each(row_blocks, at)) {
            *counts = differing(query, load(row));
        }
        sums = fold(sums, counts);
    }
    let done = whole * BLOCK * STEP;
    if done < query.len() {
        sums = fold(sums, count_rest(&query[done..], rows.map(|row| &row[done..])));
    }
    vreinterpretq_s32_u32(sums)
}

/// The number of bits in which bytes of a query, less than a block of them, differ from those of each row. A call of its
/// own, so that what few vectors need takes no registers from what all do.
#[inline(never)]
#[target_feature(enable = "neon")]
fn count_rest(query: &[u8], rows: [&[u8]; ROWS]) -> [uint8x16_t; ROWS] {
    let steps = query.len() / STEP;
    let mut counts = [vdupq_n_u8(0); ROWS];
    let ([query_blocks], row_blocks) = (blocks::<_, 1, 1>([query], steps), blocks::<_, 1, ROWS>(rows, steps));
    for (at, query) in query_blocks.iter().enumerate() {
        add(&mut counts, query, each(row_blocks, at));
    }
    if steps * STEP < query.len() {
        let rows = rows.map(|row| padded(row, steps));
        add(&mut counts, &padded(query, steps), rows.each_ref());
    }
    counts
}

/// The number of bits in which each byte of some registers differs from that of others, summed over the registers.
#[inline]
#[target_feature(enable = "neon")]
fn differing<const N: usize>(a: [uint8x16_t; N], b: [uint8x16_t; N]) -> uint8x16_t {
    let mut counts = vdupq_n_u8(0);
    for (a, b) in a.into_iter().zip(b) {
        counts = vaddq_u8(counts, vcntq_u8(veorq_u8(a, b)));
    }
    counts
}

#[inline]
#[target_feature(enable = "neon")]
fn add(counts: &mut [uint8x16_t; ROWS], query: &[[u8; STEP]; 1], rows: [&[[u8; STEP]; 1]; ROWS]) {
    let query = load(query);
    for (counts, row) in counts.iter_mut().zip(rows) {
        *counts = vaddq_u8(*counts, differing(query, load(row)));
    }
}

/// Add the counts of each row, at most 64, to its lane.
#[inline]
#[target_feature(enable = "neon")]
fn fold(sums: uint32x4_t, [a, b, c, d]: [uint8x16_t; ROWS]) -> uint32x4_t {
    let (ab, cd) = (vpaddlq_u8(vpaddq_u8(a, b)), vpaddlq_u8(vpaddq_u8(c, d)));
    vpadalq_u16(sums, vpaddq_u16(ab, cd))
}
