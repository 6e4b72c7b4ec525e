//! AVX2: bits are counted by two table look-ups a byte (Muła, Kurz, Lemire, "Faster population counts using AVX2
//! instructions", 2018), and bytes are summed into 64-bit lanes before they can overflow.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::super::Matrix;
use super::{BATCH, GROUP, Line, scalar};

/// Bytes in a register.
const STEP: usize = 32;
/// Counts of 0 to 8 that a byte holds: 31 * 8 = 248 <= 255.
const BYTE_SUMS: usize = 31;

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = distance(query, row);
    }
}

#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn distance(query: &[u8], row: &[u8]) -> i32 {
    let (queries, query_tail) = query.as_chunks::<STEP>();
    let (rows, row_tail) = row.as_chunks::<STEP>();
    let mut sums = _mm256_setzero_si256();
    for (queries, rows) in queries.chunks(BYTE_SUMS).zip(rows.chunks(BYTE_SUMS)) {
        let mut bytes = _mm256_setzero_si256();
        for (q, r) in queries.iter().zip(rows) {
            bytes = _mm256_add_epi8(bytes, counts(_mm256_xor_si256(load(q), load(r))));
        }
        // Eight bytes to each 64-bit lane.
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = _mm_cvtsi128_si64(halves) + _mm_extract_epi64::<1>(halves);
    sum as i32 + scalar::distance(query_tail, row_tail)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; STEP]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The number of bits of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn counts(bytes: __m256i) -> __m256i {
    let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let nibble = _mm256_set1_epi8(15);
    let low = _mm256_and_si256(bytes, nibble);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
    _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high))
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn panel(panel: &[Line], words: &[[u64; BATCH]], count: usize, out: &mut [i32], stride: usize) {
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for first in (0..count).step_by(2) {
            // A last odd query is paired with its neighbour in the batch, a real one or a zero, whose scores go where
            // nobody looks.
            tile::<2>(lines, words, first, &mut out[group * GROUP..], stride);
        }
    }
}

/// One group, in two registers, against the `Q` queries from `first`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn tile<const Q: usize>(lines: &[Line], words: &[[u64; BATCH]], first: usize, out: &mut [i32], stride: usize) {
    let zero = _mm256_setzero_si256();
    let mut sums = [[zero; 2]; Q];
    for (lines, words) in lines.chunks(BYTE_SUMS).zip(words.chunks(BYTE_SUMS)) {
        let mut bytes = [[zero; 2]; Q];
        for (line, word) in lines.iter().zip(words) {
            let [low, high] = line.0.as_chunks::<4>().0 else { continue };
            // SAFETY: each half of a line is 32 bytes at an address that is a multiple of 32.
            let (low, high) =
                unsafe { (_mm256_load_si256(low.as_ptr().cast()), _mm256_load_si256(high.as_ptr().cast())) };
            let Some(word) = word[first..].first_chunk::<Q>() else { continue };
            for (bytes, &word) in bytes.iter_mut().zip(word) {
                let word = _mm256_set1_epi64x(word.cast_signed());
                bytes[0] = _mm256_add_epi8(bytes[0], counts(_mm256_xor_si256(low, word)));
                bytes[1] = _mm256_add_epi8(bytes[1], counts(_mm256_xor_si256(high, word)));
            }
        }
        for (sums, bytes) in sums.iter_mut().zip(bytes) {
            // The eight bytes of a lane belong to one row.
            sums[0] = _mm256_add_epi64(sums[0], _mm256_sad_epu8(bytes[0], zero));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_sad_epu8(bytes[1], zero));
        }
    }
    for (q, [low, high]) in sums.into_iter().enumerate() {
        // Even 32-bit lanes hold the sums, which the shuffle gathers half by half.
        let pairs = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(
            _mm256_castsi256_ps(low),
            _mm256_castsi256_ps(high),
        ));
        // Lanes are now low 0, 1, high 0, 1 | low 2, 3, high 2, 3.
        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        let out = &mut out[(first + q) * stride..][..GROUP];
        // SAFETY: `out` is eight i32, 32 bytes, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), ordered) };
    }
}
