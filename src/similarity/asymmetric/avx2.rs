//! AVX2: a bit becomes a byte of all ones or zeros, which keeps or clears the query's value.
#![expect(unsafe_code, reason = "loads through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::scalar::signed;
use crate::similarity::Matrix;
use crate::similarity::dot::sum;

/// Elements of the query in a register.
const STEP: usize = 32;

#[target_feature(enable = "avx2")]
pub(super) fn rows(query: &[i8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    let (steps, tail) = query.as_chunks::<STEP>();
    let whole = sum(steps.as_flattened());
    for (row, out) in rows.iter().zip(out) {
        let (words, bytes) = row.as_chunks::<4>();
        let ends: i32 = bytes.iter().zip(tail.as_chunks::<8>().0).map(|(&byte, eight)| signed(eight, byte)).sum();
        *out = 2 * chosen(steps, words) - whole + ends;
    }
}

/// The sum of the values whose bits are set.
#[inline]
#[target_feature(enable = "avx2")]
fn chosen(query: &[[i8; STEP]], row: &[[u8; 4]]) -> i32 {
    // Lane i of a 128-bit half gets byte i / 8 of that half's two, and keeps its bit i % 8.
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let (ones, wide_ones) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let mut sums = _mm256_setzero_si256();
    for (values, word) in query.iter().zip(row) {
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*word)), spread);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        // SAFETY: `values` is 32 bytes, and the load needs no alignment.
        let kept = _mm256_and_si256(set, unsafe { _mm256_loadu_si256(values.as_ptr().cast()) });
        // Pairs are within 2 * 128 and fit 16 bits; fours of them go to 32.
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, kept), wide_ones));
    }
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    _mm_cvtsi128_si32(sum).wrapping_add(_mm_extract_epi32::<1>(sum))
}
