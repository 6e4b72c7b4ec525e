//! Panels: bytes are widened to 16 bits and multiplied by VPMADDWD, which is exact. The byte product VPMADDUBSW would
//! saturate: 2 * 255 * 128 does not fit in 16 bits. Where a CPU without AVX-512 has AVX-VNNI, panels use its VPDPBUSD.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::super::{BATCH, BIAS, GROUP, Line, WORD};

/// Rows that a register holds a word of.
const HALF: usize = GROUP / 2;
/// Bytes in a register.
const BYTES: usize = 32;
/// Queries that share the loads of a group.
const FOUR: usize = 4;

/// Interleave the whole registers of a full group of rows, and give the number of words that were written.
#[target_feature(enable = "avx2")]
pub(in super::super) fn pack(group: [&[i8]; GROUP], lines: &mut [Line]) -> usize {
    let bias = _mm256_set1_epi32(BIAS.cast_signed());
    let (blocks, _) = lines.as_chunks_mut::<{ BYTES / WORD }>();
    let blocks = &mut blocks[..group[0].len() / BYTES];
    for (half, rows) in group.as_chunks::<HALF>().0.iter().enumerate() {
        let rows = rows.map(|row| row.as_chunks::<BYTES>().0);
        for (at, lines) in blocks.iter_mut().enumerate() {
            let mut words = [_mm256_setzero_si256(); HALF];
            for (word, row) in words.iter_mut().zip(rows) {
                // SAFETY: the array is 32 bytes, and the load asks for no alignment.
                *word = unsafe { _mm256_loadu_si256(row[at].as_ptr().cast()) };
            }
            for (line, words) in lines.iter_mut().zip(transpose(words)) {
                let line = &mut line.0[half * HALF..][..HALF];
                // SAFETY: half a line is 32 bytes, and the store asks for no alignment.
                unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), _mm256_xor_si256(words, bias)) };
            }
        }
    }
    blocks.len() * (BYTES / WORD)
}

/// Transpose eight registers of eight 32-bit words.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose([a, b, c, d, e, f, g, h]: [__m256i; HALF]) -> [__m256i; HALF] {
    // Within each half L of the registers: words 4 L and 4 L + 1, or 4 L + 2 and 4 L + 3, of two rows each.
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ef, gh) = (_mm256_unpacklo_epi32(e, f), _mm256_unpacklo_epi32(g, h));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    let (ef_high, gh_high) = (_mm256_unpackhi_epi32(e, f), _mm256_unpackhi_epi32(g, h));
    // Word 4 L + i of the first four rows, and of the last four.
    let first = [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ];
    let last = [
        _mm256_unpacklo_epi64(ef, gh),
        _mm256_unpackhi_epi64(ef, gh),
        _mm256_unpacklo_epi64(ef_high, gh_high),
        _mm256_unpackhi_epi64(ef_high, gh_high),
    ];
    let mut words = [_mm256_setzero_si256(); HALF];
    for (i, (first, last)) in first.into_iter().zip(last).enumerate() {
        words[i] = _mm256_permute2x128_si256::<0x20>(first, last);
        words[i + 4] = _mm256_permute2x128_si256::<0x31>(first, last);
    }
    words
}

#[target_feature(enable = "avx2,avxvnni")]
fn vnni_panel(
    panel: &[Line],
    words: &[[u32; BATCH]],
    bias: &[i32; BATCH],
    count: usize,
    out: &mut [i32],
    stride: usize,
) {
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for first in (0..count).step_by(FOUR) {
            // Queries of the batch that are not there are zeros, whose scores go where nobody looks.
            vnni_tile(lines, words, bias, first, &mut out[group * GROUP..], stride);
        }
    }
}

/// One group, eight rows a register, against four queries from `first`.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn vnni_tile(
    lines: &[Line],
    words: &[[u32; BATCH]],
    bias: &[i32; BATCH],
    first: usize,
    out: &mut [i32],
    stride: usize,
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; FOUR];
    for (line, word) in lines.iter().zip(words) {
        let mut rows = [_mm256_setzero_si256(); 2];
        for (rows, half) in rows.iter_mut().zip(line.0.as_chunks::<HALF>().0) {
            // SAFETY: half a line is 32 bytes at an address that is a multiple of 32.
            *rows = unsafe { _mm256_load_si256(half.as_ptr().cast()) };
        }
        let Some(word) = word[first..].first_chunk::<FOUR>() else { continue };
        for (sums, &word) in sums.iter_mut().zip(word) {
            let word = _mm256_set1_epi32(word.cast_signed());
            for (sum, rows) in sums.iter_mut().zip(rows) {
                *sum = _mm256_dpbusd_avx_epi32(*sum, rows, word);
            }
        }
    }
    store(sums, bias, first, out, stride);
}

/// Whether panels run on VPDPBUSD, which AVX-VNNI brings to CPUs without AVX-512.
pub(in super::super) fn vnni() -> bool {
    std::arch::is_x86_feature_detected!("avxvnni")
}

/// For panels without VPDPBUSD, which take a word's four elements as 16-bit pairs: the even ones, then the odd ones.
pub(in super::super) fn widen_queries(words: &[[u32; BATCH]]) -> Vec<[u32; BATCH]> {
    let pair = |low: u8, high: u8| {
        let [low, high] = [low, high].map(|x| i16::from(x.cast_signed()).to_le_bytes());
        u32::from_le_bytes([low[0], low[1], high[0], high[1]])
    };
    let wide = words.iter().flat_map(|word| {
        let bytes = word.map(u32::to_ne_bytes);
        [bytes.map(|[a, _, c, _]| pair(a, c)), bytes.map(|[_, b, _, d]| pair(b, d))]
    });
    wide.collect()
}

#[target_feature(enable = "avx2")]
pub(in super::super) fn panel(
    panel: &[Line],
    words: &[[u32; BATCH]],
    bias: &[i32; BATCH],
    count: usize,
    out: &mut [i32],
    stride: usize,
) {
    if vnni() {
        // SAFETY: AVX-VNNI was detected a line above, and AVX2 by the caller.
        return unsafe { vnni_panel(panel, words, bias, count, out, stride) };
    }
    plain_panel(panel, words, bias, count, out, stride);
}

/// The queries are [`widen_queries`]'.
#[target_feature(enable = "avx2")]
fn plain_panel(
    panel: &[Line],
    words: &[[u32; BATCH]],
    bias: &[i32; BATCH],
    count: usize,
    out: &mut [i32],
    stride: usize,
) {
    let (words, _) = words.as_chunks::<2>();
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for first in (0..count).step_by(FOUR) {
            // Queries of the batch that are not there are zeros, whose scores go where nobody looks.
            plain_tile(lines, words, bias, first, &mut out[group * GROUP..], stride);
        }
    }
}

/// One group, eight rows a register, against four queries from `first`.
#[inline]
#[target_feature(enable = "avx2")]
fn plain_tile(
    lines: &[Line],
    words: &[[[u32; BATCH]; 2]],
    bias: &[i32; BATCH],
    first: usize,
    out: &mut [i32],
    stride: usize,
) {
    let low = _mm256_set1_epi16(255);
    let mut sums = [[_mm256_setzero_si256(); 2]; FOUR];
    for (line, words) in lines.iter().zip(words) {
        // The even elements of eight rows, and the odd ones, in 16 bits each.
        let mut rows = [[_mm256_setzero_si256(); 2]; 2];
        for (half, bytes) in line.0.as_chunks::<HALF>().0.iter().enumerate() {
            // SAFETY: half a line is 32 bytes at an address that is a multiple of 32.
            let bytes = unsafe { _mm256_load_si256(bytes.as_ptr().cast()) };
            rows[0][half] = _mm256_and_si256(bytes, low);
            rows[1][half] = _mm256_srli_epi16::<8>(bytes);
        }
        for (rows, word) in rows.iter().zip(words) {
            let Some(word) = word[first..].first_chunk::<FOUR>() else { continue };
            for (sums, &word) in sums.iter_mut().zip(word) {
                let word = _mm256_set1_epi32(word.cast_signed());
                for (sum, &rows) in sums.iter_mut().zip(rows) {
                    // 2 * 255 * 128 at most beside the running sum, which wraps.
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(rows, word));
                }
            }
        }
    }
    store(sums, bias, first, out, stride);
}

/// Hand over the scores of four queries from `first` with the rows of a group.
#[inline]
#[target_feature(enable = "avx2")]
fn store(sums: [[__m256i; 2]; FOUR], bias: &[i32; BATCH], first: usize, out: &mut [i32], stride: usize) {
    for (q, sums) in sums.into_iter().enumerate() {
        let bias = _mm256_set1_epi32(bias[first + q]);
        let out = out[(first + q) * stride..][..GROUP].as_chunks_mut::<HALF>().0;
        for (out, sum) in out.iter_mut().zip(sums) {
            // SAFETY: `out` is eight i32, 32 bytes, and the store asks for no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_sub_epi32(sum, bias)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::{Kernels, Matrix};
    use super::super::super::{Dot, scalar};
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::testing::Random;

    /// The tests of the family see what the dispatch chooses; on a CPU with AVX-VNNI, that is never the plain panel.
    #[test]
    fn both_panels_give_the_same_at_the_extremes_too() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut random = Random(9);
        for (width, extreme) in [(4, false), (100, false), (1024, false), (1000, true)] {
            let value =
                |values: Vec<i8>| values.into_iter().map(|x| if extreme { -128 } else { x }).collect::<Vec<i8>>();
            let (queries, rows) = (value(random.int8(7 * width)), value(random.int8(40 * width)));
            let packed = Dot::pack_queries(Isa::Scalar, &queries, width);
            let mut panel = vec![];
            Dot::pack_rows(Isa::Avx2, Matrix::whole(&rows, width), &mut panel);
            let (words, count, bias) = packed.batch(0);
            let mut outs = [vec![0; BATCH * 48], vec![0; BATCH * 48]];
            scalar::panel(&panel, words, bias, count, &mut outs[0], 48);
            // SAFETY: AVX2 was detected above.
            unsafe { plain_panel(&panel, &widen_queries(words), bias, count, &mut outs[1], 48) };
            assert_eq!(outs[0][..count * 48], outs[1][..count * 48]);
        }
    }
}
