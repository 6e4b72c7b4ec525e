//! AVX-512 with VPOPCNTDQ: one instruction counts the bits of eight 64-bit lanes.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::layout::{GROUP, LANES, Line, WORD, Word};
use crate::similarity::transpose::transpose_quarters;
use crate::similarity::{Matrix, prefetch_ahead};

/// Bytes in a register.
const STEP: usize = 64;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    let ahead = rows.ahead();
    let (groups, rest) = rows.groups::<LANES>();
    let (eights, out_rest) = out.as_chunks_mut::<LANES>();
    for (group, out) in groups.zip(eights) {
        *out = add_lanes(&sums(query, group, ahead));
    }
    for (row, out) in rest.iter().zip(out_rest) {
        let [sum] = sums(query, [row], ahead);
        *out = _mm512_reduce_add_epi64(sum) as i32;
    }
}

/// The number of bits in which `R` rows differ from a query, in eight lanes a row. The rows share the loads of the query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
fn sums<const R: usize>(query: &[u8], mut rows: [&[u8]; R], ahead: usize) -> [__m512i; R] {
    for row in &mut rows {
        // Seeing one length, the compiler leaves out the checks below.
        *row = &row[..query.len()];
    }
    let mut sums = [_mm512_setzero_si512(); R];
    let whole = query.len() / STEP * STEP;
    // Row after row, as they lie in memory: read side by side, they hide that from the CPU's prefetchers.
    for (sum, row) in sums.iter_mut().zip(rows) {
        for at in (0..whole).step_by(STEP) {
            prefetch_ahead(&row[at], ahead);
            let q = load(&query[at..at + STEP]);
            let different = _mm512_xor_si512(q, load(&row[at..at + STEP]));
            *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(different));
        }
    }
    if whole < query.len() {
        let q = load_tail(&query[whole..]);
        for (sum, row) in sums.iter_mut().zip(rows) {
            let different = _mm512_xor_si512(q, load_tail(&row[whole..]));
            *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(different));
        }
    }
    sums
}

/// The sum of the lanes of each of eight registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
fn add_lanes(rows: &[__m512i; LANES]) -> [i32; LANES] {
    let mut pairs = [_mm512_setzero_si512(); 4];
    for (pair, two) in pairs.iter_mut().zip(rows.as_chunks::<2>().0) {
        // Within each quarter: the sums of rows 2 j and 2 j + 1.
        *pair = _mm512_add_epi64(_mm512_unpacklo_epi64(two[0], two[1]), _mm512_unpackhi_epi64(two[0], two[1]));
    }
    // Quarter j of all four: rows 2 j and 2 j + 1, of what was one quarter of each.
    let [a, b, c, d] = transpose_quarters(pairs);
    let sums = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    let mut out = [0; LANES];
    // SAFETY: `out` is eight i32, 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(sums)) };
    out
}

/// A register from 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8]) -> __m512i {
    debug_assert_eq!(bytes.len(), STEP);
    let bytes: &[u8; STEP] = bytes.first_chunk().unwrap_or(&[0; STEP]);
    // SAFETY: the array is 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// A register from 1 to 63 bytes, the rest zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_tail(bytes: &[u8]) -> __m512i {
    let mask = !(u64::MAX << bytes.len().min(63));
    // SAFETY: the mask has no more bits than the slice has bytes, and a masked load touches no other byte.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

/// Interleave the whole registers of a full group of rows, and give the number of words that were written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
pub(super) fn pack(group: [&[u8]; LANES], lines: &mut [Line]) -> usize {
    let (blocks, _) = lines.as_chunks_mut::<{ STEP / WORD }>();
    let blocks = &mut blocks[..group[0].len() / STEP];
    for (at, lines) in blocks.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (register, row) in rows.iter_mut().zip(group) {
            *register = load(&row[at * STEP..(at + 1) * STEP]);
        }
        // Within each quarter L of the registers: words 2 L and 2 L + 1 of rows 2 j and 2 j + 1, a word a register.
        let mut fours = [[_mm512_setzero_si512(); 4]; 2];
        for (j, two) in rows.as_chunks::<2>().0.iter().enumerate() {
            fours[0][j] = _mm512_unpacklo_epi64(two[0], two[1]);
            fours[1][j] = _mm512_unpackhi_epi64(two[0], two[1]);
        }
        for (i, four) in fours.into_iter().enumerate() {
            for (quarter, words) in transpose_quarters(four).into_iter().enumerate() {
                let line = &mut lines[2 * quarter + i];
                // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), words) };
            }
        }
    }
    blocks.len() * (STEP / WORD)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
pub(super) fn panel(panel: &[Line], words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    match count {
        1 => batch::<1>(panel, words, out, stride),
        2 => batch::<2>(panel, words, out, stride),
        3 | 4 => batch::<4>(panel, words, out, stride),
        5 | 6 => batch::<6>(panel, words, out, stride),
        _ => batch::<8>(panel, words, out, stride),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
fn batch<const Q: usize>(panel: &[Line], words: &[Word], out: &mut [i32], stride: usize) {
    let length = words.len();
    for (group, lines) in panel.chunks_exact(2 * length).enumerate() {
        let (a, b) = lines.split_at(length);
        tile::<2, Q>([a, b], words, &mut out[group * GROUP..], stride);
    }
}

/// `R` times eight rows against `Q` queries: every line is loaded once, every word broadcast once, all sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
fn tile<const R: usize, const Q: usize>(mut groups: [&[Line]; R], words: &[Word], out: &mut [i32], stride: usize) {
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
        for (q, word) in word.as_chunks().0.iter().enumerate().take(Q) {
            let word = _mm512_set1_epi64(i64::from_ne_bytes(*word));
            for (sums, line) in sums.iter_mut().zip(lines) {
                sums[q] = _mm512_add_epi64(sums[q], _mm512_popcnt_epi64(_mm512_xor_si512(line, word)));
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (q, sum) in sums.into_iter().enumerate() {
            let out = &mut out[q * stride + r * LANES..][..LANES];
            // SAFETY: `out` is eight i32, 32 bytes, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(sum)) };
        }
    }
}
