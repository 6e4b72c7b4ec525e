//! NEON: a bit of each of sixteen bytes becomes a byte of all ones or zeros, which keeps or clears a value of the query.
//!
//! A query is reordered once, so that the values of one bit of sixteen bytes lie together: bits need no spreading then.
//! Rows are read where they lie, four at a time against up to four queries.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;
use std::collections::TryReserveError;

use super::scalar::RATIO;
use crate::memory::filled;
use crate::similarity::dot::{self, Word, i8mm, sum};
use crate::similarity::line::{GROUP, Line};
use crate::similarity::neon::{
    Fours, QUERIES, ROWS, STEP, blocks, bytes, each, load, load_signed, padded, sdot, store,
};
use crate::similarity::{Interleaved, Matrix};

/// Values of a query for sixteen bytes of a row.
const VALUES: usize = STEP * RATIO;

/// Queries in batches, one after another, each reordered.
pub(super) fn pack_queries(queries: &[i8], width: usize) -> Result<Interleaved<Word>, TryReserveError> {
    let padded = width.next_multiple_of(VALUES);
    let mut reordered = filled(0, queries.len() / width * padded)?;
    for (reordered, query) in reordered.chunks_exact_mut(padded).zip(queries.chunks_exact(width)) {
        reorder(query, reordered);
    }
    dot::neon::pack_queries(&reordered, padded, dot::neon::place)
}

/// Order a query by steps of sixteen bytes of a row: the values of their lowest bits, then of the next ones; zeros beyond
/// its end.
fn reorder(query: &[i8], reordered: &mut [i8]) {
    for (step, values) in reordered.chunks_exact_mut(VALUES).zip(query.chunks(VALUES)) {
        for (at, &value) in values.iter().enumerate() {
            step[at % RATIO * STEP + at / RATIO] = value;
        }
    }
}

/// The kernels that add chosen values to lanes by `$add`, and finish lanes of 32 bits, the chosen values negated, with
/// `$finish`, at the latest after `$most` steps.
macro_rules! kernels {
    ($features:literal, $lanes:ty, $add:ident, $finish:ident, $most:expr) => {
        #[target_feature(enable = $features)]
        pub(crate) fn rows(query: &[i8], rows: Matrix<'_, u8>, out: &mut [i32]) {
            let mut reordered = vec![0; query.len().next_multiple_of(VALUES)];
            reorder(query, &mut reordered);
            tile(rows, [reordered.as_chunks().0], out, 0);
        }

        /// Scores of a batch of queries of [`pack_queries`] with all rows.
        #[target_feature(enable = $features)]
        pub(crate) fn panel(rows: Matrix<'_, u8>, words: &[Word], count: usize, out: &mut [i32], stride: usize) {
            let length = rows.width().div_ceil(STEP);
            let query = |q: usize| &bytes(words).as_chunks().0[q * length..][..length];
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
        #[target_feature(enable = $features)]
        fn tile<const Q: usize>(rows: Matrix<'_, u8>, queries: [&[[i8; VALUES]]; Q], out: &mut [i32], stride: usize) {
            let negated = queries.map(|query| -sum(query.as_flattened()));
            for (at, four) in Fours::of(&rows).enumerate() {
                for (q, (chosen, &negated)) in chosen(four, queries).into_iter().zip(&negated).enumerate() {
                    // Twice the chosen values, less all.
                    let scores = vmlaq_n_s32(vdupq_n_s32(negated), chosen, -2);
                    store(scores, &mut out[q * stride..][..rows.len()][at * ROWS..]);
                }
            }
        }

        /// The negated sum of the values of each query that the bits of each of four rows choose.
        #[inline]
        #[target_feature(enable = $features)]
        fn chosen<const Q: usize>(rows: [&[u8]; ROWS], queries: [&[[i8; VALUES]]; Q]) -> [int32x4_t; Q] {
            let (steps, whole) = (rows[0].len().div_ceil(STEP), rows[0].len() / STEP);
            let row_blocks = blocks::<_, 1, ROWS>(rows, whole);
            let query_blocks = queries.map(|query| &query[..steps]);
            let mut totals = [vdupq_n_s32(0); Q];
            for start in (0..steps).step_by($most) {
                let mut sums: [[$lanes; ROWS]; Q] = [[zero(); ROWS]; Q];
                for at in start..whole.min(start + $most) {
                    add(&mut sums, each(row_blocks, at), each(query_blocks, at));
                }
                if steps > whole && whole < start + $most {
                    let rows = rows.map(|row| padded(row, whole));
                    add(&mut sums, rows.each_ref(), each(query_blocks, whole));
                }
                for (total, [a, b, c, d]) in totals.iter_mut().zip(sums) {
                    let (ab, cd) = (vpaddq_s32($finish(a), $finish(b)), vpaddq_s32($finish(c), $finish(d)));
                    *total = vaddq_s32(*total, vpaddq_s32(ab, cd));
                }
            }
            totals
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add<const Q: usize>(
            sums: &mut [[$lanes; ROWS]; Q],
            rows: [&[[u8; STEP]; 1]; ROWS],
            queries: [&[i8; VALUES]; Q],
        ) {
            let mut registers = [vdupq_n_u8(0); ROWS];
            for (register, row) in registers.iter_mut().zip(rows) {
                [*register] = load(row);
            }
            for bit in 0..RATIO {
                let mut masks = [vdupq_n_s8(0); ROWS];
                for (mask, row) in masks.iter_mut().zip(registers) {
                    *mask = vreinterpretq_s8_u8(vtstq_u8(row, vdupq_n_u8(1 << bit)));
                }
                for (sums, query) in sums.iter_mut().zip(queries) {
                    let values = query.as_chunks().0;
                    let [values] = load_signed(std::array::from_ref(&values[bit]));
                    for (sum, mask) in sums.iter_mut().zip(masks) {
                        *sum = $add(*sum, mask, values);
                    }
                }
            }
        }
    };
}

/// With dotprod: a mask is -1 or 0, and SDOT multiplies.
pub(super) mod dotprod {
    use super::*;

    kernels!("neon,dotprod", int32x4_t, sdot, same, usize::MAX / 2);

    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> int32x4_t {
        vdupq_n_s32(0)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn same(sums: int32x4_t) -> int32x4_t {
        sums
    }
}

pub(super) mod plain {
    use super::*;

    // A step adds 8 * 2 * 128 at most to a lane of 16 bits: 15 of them are 30,720.
    kernels!("neon", int16x8_t, subtract_chosen, widen, 15);

    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> int16x8_t {
        vdupq_n_s16(0)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn subtract_chosen(sums: int16x8_t, mask: int8x16_t, values: int8x16_t) -> int16x8_t {
        vpadalq_s8(sums, vandq_s8(mask, values))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn widen(sums: int16x8_t) -> int32x4_t {
        vnegq_s32(vpaddlq_s16(sums))
    }
}

/// Interleave all rows as values of +1 and -1 for [`i8mm::panel`], the last group filled up with any.
#[target_feature(enable = "neon")]
pub(super) fn pack_rows(rows: Matrix<'_, u8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
    // A chunk of eight values is a byte; what an earlier block left beyond an odd one meets zeros of the queries.
    let length = i8mm::resize_panel(panel, rows.len(), rows.width() * RATIO)?;
    for (group, lines) in panel.chunks_exact_mut(length).enumerate() {
        for pair in 0..GROUP / 2 {
            let [a, b] = [0, 1].map(|row| rows.row((group * GROUP + pair * 2 + row).min(rows.len() - 1)));
            pack_pair(a, b, pair, lines);
        }
    }
    Ok(())
}

#[inline]
#[target_feature(enable = "neon")]
fn pack_pair(a: &[u8], b: &[u8], pair: usize, lines: &mut [Line]) {
    let bits = vcreate_u8(0x8040_2010_0804_0201);
    let bits = vcombine_u8(bits, bits);
    for ((&a, &b), lines) in a.iter().zip(b).zip(lines.as_chunks_mut().0) {
        let set = vtstq_u8(vcombine_u8(vdup_n_u8(a), vdup_n_u8(b)), bits);
        // All ones where a bit is not set, and 1 where it is.
        i8mm::store_pair(lines, pair, vreinterpretq_s8_u8(vornq_u8(vdupq_n_u8(1), set)));
    }
}
