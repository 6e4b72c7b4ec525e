//! Shuffles that several kernels share.
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
