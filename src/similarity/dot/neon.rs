//! NEON: rows are read where they lie, four at a time against up to four queries, and panels need no copy of them. Each
//! of sixteen pairs has a register for its sums.
//!
//! With dotprod, SDOT adds four products to each lane. Without it SMULL and SMLAL make sums of two products, which fit
//! in 16 bits unless both are `-128 * -128`: a query with -128 has kernels that add each product by itself.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;
use std::collections::TryReserveError;

use super::layout::{WORD, Word, each_word};
use crate::memory::filled;
use crate::similarity::neon::{QUERIES, ROWS, STEP, bytes, fours, load_signed, padded, sdot, store};
use crate::similarity::{BATCH, Interleaved, Matrix};

/// Queries in batches, each filled up with zeros to whole registers. `place` maps a word, a query of a batch and the
/// number of its words to where the batch has it.
pub(in crate::similarity) fn pack_queries(
    queries: &[i8],
    width: usize,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Result<Interleaved<Word>, TryReserveError> {
    let (count, length) = (queries.len() / width, width.div_ceil(STEP) * (STEP / WORD));
    let batches = count.div_ceil(BATCH);
    let mut words = filled([0; BATCH], batches * length)?;
    for (q, query) in queries.chunks_exact(width).enumerate() {
        let batch = words[q / BATCH * length..][..length].as_flattened_mut();
        each_word(query, |word, value| batch[place(word, q % BATCH, length)] = value);
    }
    Ok(Interleaved::new(words, vec![0; batches * BATCH], count, length))
}

/// One query after another.
pub(in crate::similarity) fn place(word: usize, q: usize, words: usize) -> usize {
    q * words + word
}

/// Scores of a batch of queries, one after another in `words`, with all rows.
#[target_feature(enable = "neon")]
pub(super) fn plain_panel(rows: Matrix<'_, i8>, words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    if has_least(bytes(words)) {
        wide::panel(rows, words, count, out, stride);
    } else {
        plain::panel(rows, words, count, out, stride);
    }
}

/// The kernels that add products to lanes by `$add` and squares by `$add_squares`.
macro_rules! kernels {
    ($features:literal, $add:ident, $add_squares:ident) => {
        use super::*;

        #[target_feature(enable = $features)]
        pub(in super::super) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
            fours(rows, |group, at| {
                let [scores] = products(group, [query]);
                store(scores, out, at);
            });
        }

        #[target_feature(enable = $features)]
        pub(in super::super) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
            let out = unsigned(out);
            fours(rows, |group, at| {
                let [_, norms] = products_and_norms::<false>(group, group[0]);
                store(norms, out, at);
            });
        }

        #[target_feature(enable = $features)]
        pub(in super::super) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
            let norms = unsigned(norms);
            fours(rows, |group, at| {
                let [scores, squares] = products_and_norms::<true>(group, query);
                store(scores, out, at);
                store(squares, norms, at);
            });
        }

        /// Scores of a batch of queries, one after another in `words`, with all rows.
        #[target_feature(enable = $features)]
        pub(in super::super) fn panel(
            rows: Matrix<'_, i8>,
            words: &[Word],
            count: usize,
            out: &mut [i32],
            stride: usize,
        ) {
            let query = |q: usize| &bytes(words)[q * words.len() * WORD..][..rows.width()];
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
        fn tile<const Q: usize>(rows: Matrix<'_, i8>, queries: [&[i8]; Q], out: &mut [i32], stride: usize) {
            fours(rows, |group, at| {
                for (q, scores) in products(group, queries).into_iter().enumerate() {
                    store(scores, &mut out[q * stride..][..rows.len()], at);
                }
            });
        }

        /// The products of each query with four rows.
        #[inline]
        #[target_feature(enable = $features)]
        fn products<const Q: usize>(rows: [&[i8]; ROWS], queries: [&[i8]; Q]) -> [int32x4_t; Q] {
            let whole = rows[0].len() / STEP;
            let (mut row_steps, mut query_steps) = ([[].as_slice(); ROWS], [[].as_slice(); Q]);
            for (steps, row) in row_steps.iter_mut().zip(rows) {
                // Seeing one length, the compiler leaves out checks.
                *steps = &row.as_chunks().0[..whole];
            }
            for (steps, query) in query_steps.iter_mut().zip(queries) {
                *steps = &query.as_chunks().0[..whole];
            }
            let mut sums = [[vdupq_n_s32(0); ROWS]; Q];
            for at in 0..whole {
                add(&mut sums, row_steps.map(|steps| &steps[at]), query_steps.map(|steps| &steps[at]));
            }
            if !rows[0].len().is_multiple_of(STEP) {
                let rows = rows.map(|row| padded(&row[whole * STEP..]));
                let queries = queries.map(|query| padded(&query[whole * STEP..]));
                add(&mut sums, rows.each_ref(), queries.each_ref());
            }
            sums.map(|sums| fold(sums))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add<const Q: usize>(
            sums: &mut [[int32x4_t; ROWS]; Q],
            rows: [&[i8; STEP]; ROWS],
            queries: [&[i8; STEP]; Q],
        ) {
            let mut registers = [vdupq_n_s8(0); ROWS];
            for (register, row) in registers.iter_mut().zip(rows) {
                *register = load_signed(row);
            }
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = load_signed(query);
                for (sum, row) in sums.iter_mut().zip(registers) {
                    *sum = $add(*sum, query, row);
                }
            }
        }

        /// The squared norms of four rows, and with `BOTH` the products with a query.
        #[inline]
        #[target_feature(enable = $features)]
        fn products_and_norms<const BOTH: bool>(rows: [&[i8]; ROWS], query: &[i8]) -> [int32x4_t; 2] {
            let (mut sums, mut squares) = ([vdupq_n_s32(0); ROWS], [vdupq_n_s32(0); ROWS]);
            let (query_steps, query_tail) = query.as_chunks::<STEP>();
            let query_tail = padded(query_tail);
            for ((sum, square), row) in sums.iter_mut().zip(&mut squares).zip(rows) {
                let (steps, tail) = row.as_chunks::<STEP>();
                let tail = (!tail.is_empty()).then(|| padded(tail));
                let ends = tail.iter().zip([&query_tail]);
                for (row, query) in steps.iter().zip(query_steps).chain(ends) {
                    let row = load_signed(row);
                    if BOTH {
                        *sum = $add(*sum, load_signed(query), row);
                    }
                    *square = $add_squares(*square, row);
                }
            }
            [fold(sums), fold(squares)]
        }
    };
}

/// With dotprod, for any query.
pub(super) mod dotprod {
    kernels!("neon,dotprod", sdot, sdot_squares);
}

/// For queries without -128.
pub(super) mod plain {
    kernels!("neon", add_in_pairs, add_squares);
}

/// For queries with -128.
#[expect(dead_code, reason = "norms have no query")]
pub(super) mod wide {
    kernels!("neon", add_each, add_squares);
}

/// Whether an element is -128.
#[target_feature(enable = "neon")]
pub(super) fn has_least(query: &[i8]) -> bool {
    let (steps, tail) = query.as_chunks::<STEP>();
    let least = steps.iter().fold(vdupq_n_s8(0), |least, step| vminq_s8(least, load_signed(step)));
    vminvq_s8(least) == i8::MIN || tail.contains(&i8::MIN)
}

/// Squared norms are below 2^31, and written as scores are.
fn unsigned(norms: &mut [u32]) -> &mut [i32] {
    crate::similarity::neon::as_signed(norms)
}

/// The sum of the lanes of each register.
#[inline]
#[target_feature(enable = "neon")]
fn fold([a, b, c, d]: [int32x4_t; ROWS]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_squares(sums: int32x4_t, values: int8x16_t) -> int32x4_t {
    sdot(sums, values, values)
}

/// Sums of two products fit in 16 bits: 2 * 127 * 128 = 32,512.
#[inline]
#[target_feature(enable = "neon")]
fn add_in_pairs(sums: int32x4_t, query: int8x16_t, row: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(query), vget_low_s8(row));
    vpadalq_s16(sums, vmlal_high_s8(low, query, row))
}

#[inline]
#[target_feature(enable = "neon")]
fn add_each(sums: int32x4_t, query: int8x16_t, row: int8x16_t) -> int32x4_t {
    let sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(query), vget_low_s8(row)));
    vpadalq_s16(sums, vmull_high_s8(query, row))
}

/// Two squares of -128 are 32,768, which fits in 16 bits without a sign.
#[inline]
#[target_feature(enable = "neon")]
fn add_squares(sums: int32x4_t, values: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(values), vget_low_s8(values));
    let pairs = vreinterpretq_u16_s16(vmlal_high_s8(low, values, values));
    vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sums), pairs))
}
