//! AVX2: rows as they lie in memory, and panels.
//!
//! Rows: the byte product VPMADDUBSW takes one side without a sign: the row's absolute values, while the query takes the
//! row's signs. Its sums of two products then fit in 16 bits, 2 * 128 * 127 = 32,512, unless an element of the query is
//! -128, which has no negation either: such a query is widened to 16 bits.
//!
//! Panels: bytes are widened to 16 bits and multiplied by VPMADDWD, which is exact. VPMADDUBSW would saturate:
//! 2 * 255 * 128 does not fit in 16 bits. Where a CPU without AVX-512 has AVX-VNNI, panels use its VPDPBUSD.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;
use std::collections::TryReserveError;

use super::layout::{BIAS, WORD, Word};
use super::scalar;
use crate::similarity::line::{GROUP, Line};
use crate::similarity::{BATCH, Matrix, prefetch_ahead};

/// Bytes in a register.
const STEP: usize = 32;
/// Registers whose lanes are summed together.
const EIGHT: usize = 8;
/// Rows that a register holds a word of.
const HALF: usize = GROUP / 2;
/// Queries that share the loads of a group.
const FOUR: usize = 4;

#[target_feature(enable = "avx2")]
pub(super) fn rows(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
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
pub(super) fn squared_norms(rows: Matrix<'_, i8>, out: &mut [u32]) {
    let ahead = rows.ahead();
    for (row, out) in rows.iter().zip(out) {
        *out = squared_norm(row, ahead);
    }
}

/// [`rows`] and [`squared_norms`] in one pass.
#[target_feature(enable = "avx2")]
pub(super) fn rows_and_norms(query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
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

/// Whether every element has a negation that fits in a byte: none is -128.
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

/// The products of the whole registers of a row with a query that [`has_negations`], in eight lanes.
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

/// The end of a query, beyond its whole registers.
struct End<'a> {
    tail: &'a [i8],
    /// The query's last register, with zeros for elements of the one before; none where no register is whole.
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

    /// Add the products of the row's end to the sum of its whole registers.
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
    // SAFETY: the array is 16 bytes, and the load needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(elements.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(elements: &[i8; STEP]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load needs no alignment.
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
    // SAFETY: the array is 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi32(low, high)) };
    sums
}

/// Interleave the whole registers of a full group of rows, and give the number of words that were written.
#[target_feature(enable = "avx2")]
pub(super) fn pack(group: [&[i8]; GROUP], lines: &mut [Line]) -> usize {
    let bias = _mm256_set1_epi32(BIAS.cast_signed());
    let (blocks, _) = lines.as_chunks_mut::<{ STEP / WORD }>();
    let blocks = &mut blocks[..group[0].len() / STEP];
    for (half, rows) in group.as_chunks::<HALF>().0.iter().enumerate() {
        let rows = rows.map(|row| row.as_chunks::<STEP>().0);
        for (at, lines) in blocks.iter_mut().enumerate() {
            let mut words = [_mm256_setzero_si256(); HALF];
            for (word, row) in words.iter_mut().zip(rows) {
                // SAFETY: the array is 32 bytes, and the load needs no alignment.
                *word = unsafe { _mm256_loadu_si256(row[at].as_ptr().cast()) };
            }
            for (line, words) in lines.iter_mut().zip(transpose(words)) {
                let line = &mut line.0[half * HALF..][..HALF];
                // SAFETY: half a line is 32 bytes, and the store needs no alignment.
                unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), _mm256_xor_si256(words, bias)) };
            }
        }
    }
    blocks.len() * (STEP / WORD)
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
fn vnni_panel(panel: &[Line], words: &[Word], bias: &[i32; BATCH], count: usize, out: &mut [i32], stride: usize) {
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for first in (0..count).step_by(FOUR) {
            // A batch is filled up with queries of zeros, whose scores nobody reads.
            vnni_tile(lines, words, bias, first, &mut out[group * GROUP..], stride);
        }
    }
}

/// One group, eight rows a register, against four queries from `first`.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn vnni_tile(lines: &[Line], words: &[Word], bias: &[i32; BATCH], first: usize, out: &mut [i32], stride: usize) {
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

/// Whether panels use VPDPBUSD, which AVX-VNNI brings to CPUs without AVX-512.
pub(super) fn vnni() -> bool {
    std::arch::is_x86_feature_detected!("avxvnni")
}

/// For panels without VPDPBUSD, which take a word's four elements as 16-bit pairs: the even ones, then the odd ones.
pub(super) fn widen_queries(words: &[Word]) -> Result<Vec<Word>, TryReserveError> {
    let pair = |low: u8, high: u8| {
        let [low, high] = [low, high].map(|x| i16::from(x.cast_signed()).to_le_bytes());
        u32::from_le_bytes([low[0], low[1], high[0], high[1]])
    };
    let wide = words.iter().flat_map(|word| {
        let bytes = word.map(u32::to_ne_bytes);
        [bytes.map(|[a, _, c, _]| pair(a, c)), bytes.map(|[_, b, _, d]| pair(b, d))]
    });
    let mut all = vec![];
    all.try_reserve_exact(2 * words.len())?;
    all.extend(wide);
    Ok(all)
}

#[target_feature(enable = "avx2")]
pub(super) fn panel(panel: &[Line], words: &[Word], bias: &[i32; BATCH], count: usize, out: &mut [i32], stride: usize) {
    if vnni() {
        // SAFETY: AVX-VNNI was detected a line above, and AVX2 by the caller.
        return unsafe { vnni_panel(panel, words, bias, count, out, stride) };
    }
    plain_panel(panel, words, bias, count, out, stride);
}

/// The panel for queries of [`widen_queries`].
#[target_feature(enable = "avx2")]
fn plain_panel(panel: &[Line], words: &[Word], bias: &[i32; BATCH], count: usize, out: &mut [i32], stride: usize) {
    let (words, _) = words.as_chunks::<2>();
    for (group, lines) in panel.chunks_exact(words.len()).enumerate() {
        for first in (0..count).step_by(FOUR) {
            // A batch is filled up with queries of zeros, whose scores nobody reads.
            plain_tile(lines, words, bias, first, &mut out[group * GROUP..], stride);
        }
    }
}

/// One group, eight rows a register, against four queries from `first`.
#[inline]
#[target_feature(enable = "avx2")]
fn plain_tile(lines: &[Line], words: &[[Word; 2]], bias: &[i32; BATCH], first: usize, out: &mut [i32], stride: usize) {
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

/// Write the scores of four queries from `first` with the rows of a group.
#[inline]
#[target_feature(enable = "avx2")]
fn store(sums: [[__m256i; 2]; FOUR], bias: &[i32; BATCH], first: usize, out: &mut [i32], stride: usize) {
    for (q, sums) in sums.into_iter().enumerate() {
        let bias = _mm256_set1_epi32(bias[first + q]);
        let out = out[(first + q) * stride..][..GROUP].as_chunks_mut::<HALF>().0;
        for (out, sum) in out.iter_mut().zip(sums) {
            // SAFETY: `out` is eight i32, 32 bytes, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_sub_epi32(sum, bias)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dot, pack_queries};
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::Kernels;
    use crate::similarity::testing::Random;

    /// The family's tests see what the dispatch chooses; on a CPU with AVX-VNNI, that is never the plain panel.
    #[test]
    fn the_plain_panel_equals_the_portable_one_at_the_extremes_too() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut random = Random(9);
        for (width, extreme) in [(4, false), (100, false), (1024, false), (1000, true)] {
            let value =
                |values: Vec<i8>| values.into_iter().map(|x| if extreme { -128 } else { x }).collect::<Vec<i8>>();
            let (queries, rows) = (value(random.int8(7 * width)), value(random.int8(40 * width)));
            let packed = pack_queries(Isa::Scalar, &queries, width, 128).expect("memory");
            let mut panel = vec![];
            Dot::pack_rows(Isa::Avx2, Matrix::whole(&rows, width), &mut panel).expect("memory");
            let (words, count, bias) = packed.batch(0);
            let mut outs = [vec![0; BATCH * 48], vec![0; BATCH * 48]];
            scalar::panel(&panel, words, bias, count, &mut outs[0], 48);
            // SAFETY: AVX2 was detected above.
            unsafe { plain_panel(&panel, &widen_queries(words).expect("memory"), bias, count, &mut outs[1], 48) };
            assert_eq!(outs[0][..count * 48], outs[1][..count * 48]);
        }
    }
}
