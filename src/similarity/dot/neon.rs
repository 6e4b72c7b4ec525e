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
use crate::similarity::neon::{
    Fours, QUERIES, ROWS, STEP, as_signed, blocks, bytes, each, load_signed, padded, sdot, store,
};
use crate::similarity::{BATCH, Interleaved, Matrix};

/// Registers of a row that a single query loads at once, and several.
const ALONE: usize = 4;
const TOGETHER: usize = 2;

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
        #[target_feature(enable = $features)]
        pub(crate) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
            for (four, out) in Fours::of(&rows).zip(out.chunks_mut(ROWS)) {
                let [scores] = products::<1, ALONE, { 2 * ALONE }>(four, [query]);
                store(scores, out);
            }
        }

        #[target_feature(enable = $features)]
        pub(crate) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
            for (four, out) in Fours::of(&rows).zip(as_signed(out).chunks_mut(ROWS)) {
                let [_, norms] = products_and_norms::<false>(four, four[0]);
                store(norms, out);
            }
        }

        #[target_feature(enable = $features)]
        pub(crate) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
            let out = out.chunks_mut(ROWS).zip(as_signed(norms).chunks_mut(ROWS));
            for (four, (out, norms)) in Fours::of(&rows).zip(out) {
                let [scores, squares] = products_and_norms::<true>(four, query);
                store(scores, out);
                store(squares, norms);
            }
        }

        /// Scores of a batch of queries, one after another in `words`, with all rows.
        #[target_feature(enable = $features)]
        pub(crate) fn panel(rows: Matrix<'_, i8>, words: &[Word], count: usize, out: &mut [i32], stride: usize) {
            let query = |q: usize| &bytes(words)[q * words.len() * WORD..][..rows.width()];
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
        #[target_feature(enable = $features)]
        fn tile<const Q: usize>(rows: Matrix<'_, i8>, queries: [&[i8]; Q], out: &mut [i32], stride: usize) {
            for (at, four) in Fours::of(&rows).enumerate() {
                for (q, scores) in products::<Q, TOGETHER, { 2 * TOGETHER }>(four, queries).into_iter().enumerate() {
                    store(scores, &mut out[q * stride + at * ROWS..][..ROWS]);
                }
            }
        }

        /// The products of each query with four rows, of which `N` registers each are loaded at once, and `B` a round.
        #[inline]
        #[target_feature(enable = $features)]
        fn products<const Q: usize, const N: usize, const B: usize>(
            rows: [&[i8]; ROWS],
            queries: [&[i8]; Q],
        ) -> [int32x4_t; Q] {
            let count = rows[0].len() / (B * STEP);
            let (row_blocks, query_blocks) = (blocks::<_, B, ROWS>(rows, count), blocks::<_, B, Q>(queries, count));
            let mut sums = [[vdupq_n_s32(0); ROWS]; Q];
            for at in 0..count {
                for part in 0..B / N {
                    let rows = each(row_blocks, at).map(|row| &row.as_chunks::<N>().0[part]);
                    add(&mut sums, rows, each(query_blocks, at).map(|query| &query.as_chunks::<N>().0[part]));
                }
            }
            let done = count * B * STEP;
            if done < rows[0].len() {
                sums = add_rest(sums, rows.map(|row| &row[done..]), queries.map(|query| &query[done..]));
            }
            sums.map(|sums| fold(sums))
        }

        /// A call of its own, so that what few vectors need takes no registers from what all do.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn add_rest<const Q: usize>(
            mut sums: [[int32x4_t; ROWS]; Q],
            rows: [&[i8]; ROWS],
            queries: [&[i8]; Q],
        ) -> [[int32x4_t; ROWS]; Q] {
            let steps = rows[0].len() / STEP;
            let (row_blocks, query_blocks) = (blocks::<_, 1, ROWS>(rows, steps), blocks::<_, 1, Q>(queries, steps));
            for at in 0..steps {
                add(&mut sums, each(row_blocks, at), each(query_blocks, at));
            }
            if steps * STEP < rows[0].len() {
                let (rows, queries) = (rows.map(|row| padded(row, steps)), queries.map(|query| padded(query, steps)));
                add(&mut sums, rows.each_ref(), queries.each_ref());
            }
            sums
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add<const Q: usize, const N: usize>(
            sums: &mut [[int32x4_t; ROWS]; Q],
            rows: [&[[i8; STEP]; N]; ROWS],
            queries: [&[[i8; STEP]; N]; Q],
        ) {
            let mut registers = [[vdupq_n_s8(0); N]; ROWS];
            for (registers, row) in registers.iter_mut().zip(rows) {
                *registers = load_signed(row);
            }
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = load_signed(query);
                for (sum, row) in sums.iter_mut().zip(registers) {
                    for (query, row) in query.into_iter().zip(row) {
                        *sum = $add(*sum, query, row);
                    }
                }
            }
        }

        /// The squared norms of four rows, and with `BOTH` the products with a query.
        #[inline]
        #[target_feature(enable = $features)]
        fn products_and_norms<const BOTH: bool>(rows: [&[i8]; ROWS], query: &[i8]) -> [int32x4_t; 2] {
            let count = rows[0].len() / (ALONE * STEP);
            let mut sums = [[vdupq_n_s32(0); 2]; ROWS];
            let (row_blocks, [query_blocks]) = (blocks(rows, count), blocks([query], count));
            for (at, query) in query_blocks.iter().enumerate() {
                add_both::<BOTH, ALONE>(&mut sums, each(row_blocks, at), query);
            }
            let done = count * ALONE * STEP;
            if done < rows[0].len() {
                sums = add_rest_of_both::<BOTH>(sums, rows.map(|row| &row[done..]), &query[done..]);
            }
            [fold(sums.map(|[sum, _]| sum)), fold(sums.map(|[_, squares]| squares))]
        }

        #[inline(never)]
        #[target_feature(enable = $features)]
        fn add_rest_of_both<const BOTH: bool>(
            mut sums: [[int32x4_t; 2]; ROWS],
            rows: [&[i8]; ROWS],
            query: &[i8],
        ) -> [[int32x4_t; 2]; ROWS] {
            let steps = query.len() / STEP;
            let (row_blocks, [query_blocks]) = (blocks(rows, steps), blocks([query], steps));
            for (at, query) in query_blocks.iter().enumerate() {
                add_both::<BOTH, 1>(&mut sums, each(row_blocks, at), query);
            }
            if steps * STEP < query.len() {
                let rows = rows.map(|row| padded(row, steps));
                add_both::<BOTH, 1>(&mut sums, rows.each_ref(), &padded(query, steps));
            }
            sums
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add_both<const BOTH: bool, const N: usize>(
            sums: &mut [[int32x4_t; 2]; ROWS],
            rows: [&[[i8; STEP]; N]; ROWS],
            query: &[[i8; STEP]; N],
        ) {
            let query = load_signed(query);
            for ([sum, squares], row) in sums.iter_mut().zip(rows) {
                for (query, row) in query.into_iter().zip(load_signed(row)) {
                    *squares = $add_squares(*squares, row);
                    if BOTH {
                        *sum = $add(*sum, query, row);
                    }
                }
            }
        }
    };
}

/// With dotprod, for any query.
pub(super) mod dotprod {
    use super::*;

    kernels!("neon,dotprod", sdot, sdot_squares);
}

/// For queries without -128.
pub(super) mod plain {
    use super::*;

    kernels!("neon", add_in_pairs, add_squares);
}

/// For queries with -128.
#[expect(dead_code, reason = "norms have no query")]
pub(super) mod wide {
    use super::*;

    kernels!("neon", add_each, add_squares);
}

/// Whether an element is -128.
#[target_feature(enable = "neon")]
pub(super) fn has_least(query: &[i8]) -> bool {
    let (steps, tail) = query.as_chunks::<STEP>();
    let least = steps.as_chunks().0.iter().fold(vdupq_n_s8(0), |least, step| {
        let [step] = load_signed(step);
        vminq_s8(least, step)
    });
    vminvq_s8(least) == i8::MIN || tail.contains(&i8::MIN)
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
