//! Rows as they lie in memory.
//!
//! The byte product VPMADDUBSW takes one side without a sign: the row's absolute values, while the query takes the
//! row's signs. Its sums of two products then fit in 16 bits, 2 * 128 * 127 = 32,512, unless an element of the query is
//! -128, which has no negation either: such a query is widened to 16 bits.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::super::super::{Matrix, prefetch_ahead};
use super::super::scalar;

/// Bytes in a register.
const STEP: usize = 32;
/// Registers whose lanes are summed together.
const EIGHT: usize = 8;

#[target_feature(enable = "avx2")]
pub(in super::super) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
    if !has_negations(query) {
        let ahead = rows.ahead();
        for (row, out) in rows.iter().zip(out) {
            *out = widened_product(query, row, ahead);
        }
        return;
    }
    let (end, ahead) = (End::of(query), rows.ahead());
    let (groups, rest) = rows.groups::<EIGHT>();
    let (eights, out_rest) = out.as_chunks_mut::<EIGHT>();
    for (group, out) in groups.zip(eights) {
        // Row after row, as they lie in memory.
        *out = add_lanes(group.map(|row| end.finish(row, product(query, row, ahead))));
    }
    for (row, out) in rest.iter().zip(out_rest) {
        *out = add_lane(end.finish(row, product(query, row, ahead)));
    }
}

#[target_feature(enable = "avx2")]
pub(in super::super) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
    let ahead = rows.ahead();
    for (row, out) in rows.iter().zip(out) {
        *out = squared_norm(row, ahead);
    }
}

/// [`rows`] and [`squared_norms`] in one pass.
#[target_feature(enable = "avx2")]
pub(in super::super) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
    let ahead = rows.ahead();
    if !has_negations(query) {
        for ((row, out), norm) in rows.iter().zip(out).zip(norms) {
            (*norm, *out) = (squared_norm(row, ahead), widened_product(query, row, ahead));
        }
        return;
    }
    let end = End::of(query);
    for ((row, out), norm) in rows.iter().zip(out).zip(norms) {
        let (steps, tail) = row.as_chunks::<STEP>();
        let mut sum = _mm256_setzero_si256();
        let mut squares = [_mm256_setzero_si256(); 2];
        for (query, step) in query.as_chunks::<STEP>().0.iter().zip(steps) {
            prefetch_ahead(step, ahead);
            let value = load(step);
            sum = add_product(sum, load(query), value);
            squares = add_squares(squares, _mm256_abs_epi8(value));
        }
        *out = add_lane(end.finish(row, sum));
        *norm = (add_lane(_mm256_add_epi32(squares[0], squares[1])) + scalar::product(tail, tail)).cast_unsigned();
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn squared_norm(row: &[i8], ahead: usize) -> u32 {
    let (steps, tail) = row.as_chunks::<STEP>();
    let mut squares = [_mm256_setzero_si256(); 2];
    for step in steps {
        prefetch_ahead(step, ahead);
        squares = add_squares(squares, _mm256_abs_epi8(load(step)));
    }
    (add_lane(_mm256_add_epi32(squares[0], squares[1])) + scalar::product(tail, tail)).cast_unsigned()
}

/// Add the squares of 32 absolute values, 0 to 128, those at even places and those at odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn add_squares(sums: [__m256i; 2], sizes: __m256i) -> [__m256i; 2] {
    let even = _mm256_and_si256(sizes, _mm256_set1_epi16(255));
    let odd = _mm256_srli_epi16::<8>(sizes);
    [_mm256_add_epi32(sums[0], _mm256_madd_epi16(even, even)), _mm256_add_epi32(sums[1], _mm256_madd_epi16(odd, odd))]
}

/// Whether every element's negation is a byte too: none is -128.
#[inline]
#[target_feature(enable = "avx2")]
fn has_negations(query: &[i8]) -> bool {
    let (steps, tail) = query.as_chunks::<STEP>();
    let least = _mm256_set1_epi8(i8::MIN);
    let found = steps
        .iter()
        .fold(_mm256_setzero_si256(), |found, step| _mm256_or_si256(found, _mm256_cmpeq_epi8(load(step), least)));
    _mm256_testz_si256(found, found) == 1 && !tail.contains(&i8::MIN)
}

/// The sum of the whole registers of a row with a query that [`has_negations`], in eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn product(query: &[i8], row: &[i8], ahead: usize) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); 2];
    let (query, row) = (query.as_chunks::<STEP>().0, row.as_chunks::<STEP>().0);
    let (query_pairs, query_last) = query.as_chunks::<2>();
    let (row_pairs, row_last) = row.as_chunks::<2>();
    for (query, row) in query_pairs.iter().zip(row_pairs) {
        prefetch_ahead(&row[0], ahead);
        for (sum, (query, row)) in sums.iter_mut().zip(query.iter().zip(row)) {
            *sum = add_product(*sum, load(query), load(row));
        }
    }
    for (query, row) in query_last.iter().zip(row_last) {
        sums[0] = add_product(sums[0], load(query), load(row));
    }
    _mm256_add_epi32(sums[0], sums[1])
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_product(sum: __m256i, query: __m256i, row: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(query, row));
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// What a query holds beyond its whole registers.
struct End<'a> {
    tail: &'a [i8],
    /// The last register, in which what was in the one before is zero; none where no register is whole.
    last: Option<[i8; STEP]>,
}

impl<'a> End<'a> {
    fn of(query: &'a [i8]) -> Self {
        let (steps, tail) = query.as_chunks::<STEP>();
        let last = (!steps.is_empty() && !tail.is_empty()).then(|| {
            let mut last = [0; STEP];
            last[STEP - tail.len()..].copy_from_slice(tail);
            last
        });
        Self { tail, last }
    }

    /// Add what the row's end scores to the sum of its whole registers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn finish(&self, row: &[i8], sum: __m256i) -> __m256i {
        match (&self.last, row.last_chunk()) {
            (Some(query), Some(row)) => add_product(sum, load(query), load(row)),
            _ if self.tail.is_empty() => sum,
            // Shorter than a register: the sum so far is zero.
            _ => _mm256_zextsi128_si256(_mm_cvtsi32_si128(scalar::product(self.tail, row))),
        }
    }
}

/// Inner product of a query of any values and a row.
#[inline]
#[target_feature(enable = "avx2")]
fn widened_product(query: &[i8], row: &[i8], ahead: usize) -> i32 {
    let (query_steps, query_tail) = query.as_chunks::<STEP>();
    let (row_steps, row_tail) = row.as_chunks::<STEP>();
    let mut sums = [_mm256_setzero_si256(); 2];
    for (query, row) in query_steps.iter().zip(row_steps) {
        prefetch_ahead(row, ahead);
        let halves = query.as_chunks().0.iter().zip(row.as_chunks().0);
        for (sum, (query, row)) in sums.iter_mut().zip(halves) {
            // At most 2 * 128 * 128 a lane and step.
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(widen(query), widen(row)));
        }
    }
    add_lane(_mm256_add_epi32(sums[0], sums[1])).wrapping_add(scalar::product(query_tail, row_tail))
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(elements: &[i8; STEP / 2]) -> __m256i {
    // SAFETY: the array is 16 bytes, and the load asks for no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(elements.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(elements: &[i8; STEP]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load asks for no alignment.
    unsafe { _mm256_loadu_si256(elements.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_lane(sum: __m256i) -> i32 {
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    _mm_cvtsi128_si32(sum).wrapping_add(_mm_extract_epi32::<1>(sum))
}

/// The sum of each register's lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn add_lanes([a, b, c, d, e, f, g, h]: [__m256i; EIGHT]) -> [i32; EIGHT] {
    // Within each half: a quarter of a, b, c and d; of e, f, g and h.
    let first = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let last = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    let low = _mm256_permute2x128_si256::<0x20>(first, last);
    let high = _mm256_permute2x128_si256::<0x31>(first, last);
    let mut sums = [0; EIGHT];
    // SAFETY: the array is 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi32(low, high)) };
    sums
}
