//! AVX-512 with VNNI: VPDPBUSD adds four products of an unsigned and a signed byte to each 32-bit lane. A product is
//! at most 255 * 128, four of them fit the lane, and the lane's sum wraps (the saturating twin is VPDPBUSDS).
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::layout::{BIAS, WORD, Word, sum};
use crate::similarity::line::{GROUP, Line};
use crate::similarity::transpose::transpose_words;
use crate::similarity::{BATCH, Matrix, prefetch_ahead};

/// Bytes in a register.
const STEP: usize = 64;

/// Rows that share the loads of a query.
const FOUR: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
    let (bias, ahead) = (128 * sum(query), rows.ahead());
    let (groups, rest) = rows.groups::<FOUR>();
    let (fours, out_rest) = out.as_chunks_mut::<FOUR>();
    for (group, out) in groups.zip(fours) {
        *out = sums(query, group, ahead).map(|sum| add_lanes(sum).wrapping_sub(bias));
    }
    for (row, out) in rest.iter().zip(out_rest) {
        *out = add_lanes(sums(query, [row], ahead)[0]).wrapping_sub(bias);
    }
}

/// The sums of `(row + 128) * query` over `R` rows, in sixteen lanes a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums<const R: usize>(query: &[i8], mut rows: [&[i8]; R], ahead: usize) -> [__m512i; R] {
    for row in &mut rows {
        // Seeing one length, the compiler leaves out the checks below.
        *row = &row[..query.len()];
    }
    let bias = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_si512(); R];
    let whole = query.len() / STEP * STEP;
    // Row after row, as they lie in memory: read side by side, they hide that from the CPU's prefetchers.
    for (sum, row) in sums.iter_mut().zip(rows) {
        for at in (0..whole).step_by(STEP) {
            prefetch_ahead(&row[at], ahead);
            let q = load(&query[at..at + STEP]);
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load(&row[at..at + STEP]), bias), q);
        }
    }
    if whole < query.len() {
        // Beyond the vectors' ends the query is zero, and scores nothing.
        let q = load_tail(&query[whole..]);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load_tail(&row[whole..]), bias), q);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_lanes(sum: __m512i) -> i32 {
    _mm512_reduce_add_epi32(sum)
}

/// The squared norm of each of the `out.len()` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
    let ahead = rows.ahead();
    let (groups, rest) = rows.groups::<FOUR>();
    let (fours, out_rest) = out.as_chunks_mut::<FOUR>();
    for (group, out) in groups.zip(fours) {
        *out = products_and_norms(group[0], group, ahead).map(|both| norm(&both));
    }
    for (row, out) in rest.iter().zip(out_rest) {
        *out = norm(&products_and_norms(row, [row], ahead)[0]);
    }
}

/// [`rows`] and [`squared_norms`] in one pass.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
    let (bias, ahead) = (128 * sum(query), rows.ahead());
    let (groups, rest) = rows.groups::<FOUR>();
    let ((fours, out_rest), (norms, norms_rest)) = (out.as_chunks_mut::<FOUR>(), norms.as_chunks_mut::<FOUR>());
    for ((group, out), norms) in groups.zip(fours).zip(norms) {
        let both = products_and_norms(query, group, ahead);
        *norms = both.map(|both| norm(&both));
        *out = both.map(|both| add_lanes(both[0]).wrapping_sub(bias));
    }
    for ((row, out), norms) in rest.iter().zip(out_rest).zip(norms_rest) {
        let [both] = products_and_norms(query, [row], ahead);
        (*out, *norms) = (add_lanes(both[0]).wrapping_sub(bias), norm(&both));
    }
}

/// Of `R` rows, the sums of `(x + 128) * query`, of `(x + 128) * x` and of `x`, in sixteen lanes each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn products_and_norms<const R: usize>(query: &[i8], mut rows: [&[i8]; R], ahead: usize) -> [[__m512i; 3]; R] {
    for row in &mut rows {
        *row = &row[..query.len()];
    }
    let (bias, ones) = (_mm512_set1_epi8(-128), _mm512_set1_epi8(1));
    let mut sums = [[_mm512_setzero_si512(); 3]; R];
    let whole = query.len() / STEP * STEP;
    for ([products, squares, plain], row) in sums.iter_mut().zip(rows) {
        for at in (0..whole).step_by(STEP) {
            prefetch_ahead(&row[at], ahead);
            let q = load(&query[at..at + STEP]);
            let x = load(&row[at..at + STEP]);
            let unsigned = _mm512_xor_si512(x, bias);
            *products = _mm512_dpbusd_epi32(*products, unsigned, q);
            *squares = _mm512_dpbusd_epi32(*squares, unsigned, x);
            *plain = _mm512_dpbusd_epi32(*plain, ones, x);
        }
    }
    if whole < query.len() {
        let q = load_tail(&query[whole..]);
        for ([products, squares, plain], row) in sums.iter_mut().zip(rows) {
            let x = load_tail(&row[whole..]);
            let unsigned = _mm512_xor_si512(x, bias);
            *products = _mm512_dpbusd_epi32(*products, unsigned, q);
            *squares = _mm512_dpbusd_epi32(*squares, unsigned, x);
            *plain = _mm512_dpbusd_epi32(*plain, ones, x);
        }
    }
    sums
}

/// A squared norm as `sum((x + 128) * x) - 128 * sum(x)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn norm([_, squares, plain]: &[__m512i; 3]) -> u32 {
    let lanes = _mm512_sub_epi32(*squares, _mm512_slli_epi32::<7>(*plain));
    add_lanes(lanes).cast_unsigned()
}

/// A register from 64 elements.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(elements: &[i8]) -> __m512i {
    debug_assert_eq!(elements.len(), STEP);
    let elements: &[i8; STEP] = elements.first_chunk().unwrap_or(&[0; STEP]);
    // SAFETY: the array is 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(elements.as_ptr().cast()) }
}

/// A register from 1 to 63 elements, the rest zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_tail(elements: &[i8]) -> __m512i {
    let mask = !(u64::MAX << elements.len().min(63));
    // SAFETY: the mask has no more bits than the slice has elements, and a masked load touches no other byte.
    unsafe { _mm512_maskz_loadu_epi8(mask, elements.as_ptr()) }
}

/// Interleave the whole registers of a full group of rows, and give the number of words that were written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn pack(group: [&[i8]; GROUP], lines: &mut [Line]) -> usize {
    let bias = _mm512_set1_epi32(BIAS.cast_signed());
    let (blocks, _) = lines.as_chunks_mut::<{ STEP / WORD }>();
    let blocks = &mut blocks[..group[0].len() / STEP];
    for (at, lines) in blocks.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_si512(); GROUP];
        for (register, row) in rows.iter_mut().zip(group) {
            *register = load(&row[at * STEP..(at + 1) * STEP]);
        }
        for (line, words) in lines.iter_mut().zip(transpose_words(&rows)) {
            // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), _mm512_xor_si512(words, bias)) };
        }
    }
    blocks.len() * (STEP / WORD)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn panel(panel: &[Line], words: &[Word], bias: &[i32; BATCH], count: usize, out: &mut [i32], stride: usize) {
    match count {
        1 => batch::<1>(panel, words, bias, out, stride),
        2 => batch::<2>(panel, words, bias, out, stride),
        3 | 4 => batch::<4>(panel, words, bias, out, stride),
        5 | 6 => batch::<6>(panel, words, bias, out, stride),
        _ => batch::<8>(panel, words, bias, out, stride),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn batch<const Q: usize>(panel: &[Line], words: &[Word], bias: &[i32; BATCH], out: &mut [i32], stride: usize) {
    let length = words.len();
    let mut pairs = panel.chunks_exact(2 * length);
    let mut at = 0;
    for pair in &mut pairs {
        let (a, b) = pair.split_at(length);
        tile::<2, Q>([a, b], words, bias, &mut out[at..], stride);
        at += 2 * GROUP;
    }
    if !pairs.remainder().is_empty() {
        tile::<1, Q>([pairs.remainder()], words, bias, &mut out[at..], stride);
    }
}

/// `R` groups against `Q` queries: every line is loaded once, every word broadcast once, all sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const R: usize, const Q: usize>(
    mut groups: [&[Line]; R],
    words: &[Word],
    bias: &[i32; BATCH],
    out: &mut [i32],
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_si512(); Q]; R];
    for group in &mut groups {
        // Seeing one length, the compiler leaves out the checks below.
        *group = &group[..words.len()];
    }
    for (at, word) in words.iter().enumerate() {
        let mut lines = [_mm512_setzero_si512(); R];
        for (line, group) in lines.iter_mut().zip(groups) {
            // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
            *line = unsafe { _mm512_load_si512(group[at].0.as_ptr().cast()) };
        }
        for (q, &word) in word.iter().enumerate().take(Q) {
            let word = _mm512_set1_epi32(word.cast_signed());
            for (sums, line) in sums.iter_mut().zip(lines) {
                sums[q] = _mm512_dpbusd_epi32(sums[q], line, word);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (q, (sum, &bias)) in sums.into_iter().zip(bias).enumerate() {
            let out = &mut out[q * stride + r * GROUP..][..GROUP];
            let scores = _mm512_sub_epi32(sum, _mm512_set1_epi32(bias));
            // SAFETY: `out` is sixteen i32, 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), scores) };
        }
    }
}
