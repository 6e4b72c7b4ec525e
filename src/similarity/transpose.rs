//! Transposing registers, which several AVX-512 kernels share.
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

/// Transpose a four by four matrix whose elements are quarters of a register: `[a0 a1 a2 a3]`, `[b0 ..` become
/// `[a0 b0 c0 d0]`, `[a1 ..`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let ab_even = _mm512_shuffle_i32x4::<EVEN>(a, b); // a0 a2 b0 b2
    let ab_odd = _mm512_shuffle_i32x4::<ODD>(a, b); // a1 a3 b1 b3
    let cd_even = _mm512_shuffle_i32x4::<EVEN>(c, d); // c0 c2 d0 d2
    let cd_odd = _mm512_shuffle_i32x4::<ODD>(c, d); // c1 c3 d1 d3
    [
        _mm512_shuffle_i32x4::<EVEN>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<EVEN>(ab_odd, cd_odd),
        _mm512_shuffle_i32x4::<ODD>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<ODD>(ab_odd, cd_odd),
    ]
}

/// Transpose a sixteen by sixteen matrix of 32-bit words, a row a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_words(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // Within each quarter L of the registers: words 4 L .. 4 L + 4 of rows 4 j .. 4 j + 4, a word a register.
    let mut fours = [[_mm512_setzero_si512(); 4]; 4];
    for (j, four) in rows.as_chunks::<4>().0.iter().enumerate() {
        let low = (_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpacklo_epi32(four[2], four[3]));
        let high = (_mm512_unpackhi_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[2], four[3]));
        fours[0][j] = _mm512_unpacklo_epi64(low.0, low.1);
        fours[1][j] = _mm512_unpackhi_epi64(low.0, low.1);
        fours[2][j] = _mm512_unpacklo_epi64(high.0, high.1);
        fours[3][j] = _mm512_unpackhi_epi64(high.0, high.1);
    }
    let mut words = [_mm512_setzero_si512(); 16];
    for (i, four) in fours.into_iter().enumerate() {
        for (quarter, word) in transpose_quarters(four).into_iter().enumerate() {
            words[4 * quarter + i] = word;
        }
    }
    words
}
