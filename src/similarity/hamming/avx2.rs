//! AVX2: bits are counted by table look-ups of nibbles.
//!
//! Row by row, the nibbles of `query ^ row` look up their number of bits (Muła, Kurz, Lemire, "Faster population counts
//! using AVX2 instructions", 2018). In panels the nibbles of the query choose the tables, and the rows' nibbles look up
//! the distance itself (the fast scan of André, Kermarrec, Le Scouarnec, "Cache locality is not enough", 2015): a pair
//! then costs one look-up and one addition a nibble.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::layout::{AHEAD, GROUP, Line, WORD, Word};
use super::scalar;
use crate::similarity::{Matrix, prefetch_ahead};

/// Bytes in a register.
const STEP: usize = 32;
/// Counts of 0 to 8 that a byte holds: 31 * 8 = 248 <= 255.
const BYTE_SUMS: usize = 31;
/// Rows that share the loads of a query.
const ROWS: usize = 4;

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn rows(query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    let ahead = rows.ahead();
    let (groups, rest) = rows.groups::<ROWS>();
    let (fours, out_rest) = out.as_chunks_mut::<ROWS>();
    for (group, out) in groups.zip(fours) {
        let [a, b, c, d] = sums(query, group, ahead);
        // Within each half: the sums of two rows, of a row a half of its lanes.
        let ab = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let cd = _mm256_add_epi64(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
        // Even 32-bit lanes hold the sums: a, b, c, d of either half.
        let four =
            _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(ab), _mm256_castsi256_ps(cd)));
        let four = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
        // SAFETY: `out` is four i32, 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), four) };
        let whole = query.len() / STEP * STEP;
        if whole < query.len() {
            for (out, row) in out.iter_mut().zip(group) {
                *out += scalar::distance(&query[whole..], &row[whole..]);
            }
        }
    }
    for (row, out) in rest.iter().zip(out_rest) {
        *out = scalar::distance(query, row);
    }
}

/// The number of bits in which the whole registers of `R` rows differ from a query, in four lanes a row. The rows share
/// the loads of the query.
#[inline]
#[target_feature(enable = "avx2")]
fn sums<const R: usize>(query: &[u8], rows: [&[u8]; R], ahead: usize) -> [__m256i; R] {
    let zero = _mm256_setzero_si256();
    let query = query.as_chunks::<STEP>().0;
    let mut registers = [query; R];
    for (registers, row) in registers.iter_mut().zip(rows) {
        // Seeing one length, the compiler leaves out checks.
        *registers = &row.as_chunks::<STEP>().0[..query.len()];
    }
    let mut sums = [zero; R];
    let mut start = 0;
    for queries in query.chunks(BYTE_SUMS) {
        let mut bytes = [zero; R];
        for (at, q) in queries.iter().enumerate() {
            let q = load(q);
            for (bytes, row) in bytes.iter_mut().zip(registers) {
                prefetch_ahead(&row[start + at], ahead);
                *bytes = _mm256_add_epi8(*bytes, counts(_mm256_xor_si256(q, load(&row[start + at]))));
            }
        }
        for (sum, bytes) in sums.iter_mut().zip(bytes) {
            // Eight bytes to each 64-bit lane.
            *sum = _mm256_add_epi64(*sum, _mm256_sad_epu8(bytes, zero));
        }
        start += queries.len();
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; STEP]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load needs no alignment.
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

/// Bytes that a line holds of each of a group's rows: the low nibbles of one byte fill a half of a register, its high
/// nibbles the other.
const BYTES: usize = 2;
/// Lines that hold a word of each of a group's rows.
pub(super) const LINES: usize = WORD / BYTES;

/// Interleave all rows, the last group filled up with zeros.
#[target_feature(enable = "avx2")]
pub(super) fn pack(rows: Matrix<'_, u8>, panel: &mut [Line]) {
    let zeros = vec![0; rows.width()];
    let (groups, rest) = rows.groups::<GROUP>();
    let length = rows.width().div_ceil(WORD) * LINES;
    let (full, last) = panel.split_at_mut(groups.len() * length);
    for (at, (group, lines)) in groups.zip(full.chunks_exact_mut(length)).enumerate() {
        rows.prefetch((at + AHEAD) * GROUP..(at + AHEAD + 1) * GROUP);
        pack_group(group, lines);
    }
    if !rest.is_empty() {
        let mut group = [zeros.as_slice(); GROUP];
        for (row, lane) in rest.iter().zip(&mut group) {
            *lane = row;
        }
        pack_group(group, last);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn pack_group(group: [&[u8]; GROUP], lines: &mut [Line]) {
    let whole = group[0].len() / STEP;
    let mut steps = [[].as_slice(); GROUP];
    for (steps, row) in steps.iter_mut().zip(group) {
        // Seeing one length, the compiler leaves out checks.
        *steps = &row.as_chunks().0[..whole];
    }
    let (full, last) = lines.split_at_mut(whole * (STEP / BYTES));
    for (at, lines) in full.chunks_exact_mut(STEP / BYTES).enumerate() {
        let mut rows = [_mm256_setzero_si256(); GROUP];
        for (register, steps) in rows.iter_mut().zip(steps) {
            *register = load(&steps[at]);
        }
        pack_step(rows, lines);
    }
    if !last.is_empty() {
        let mut rows = [_mm256_setzero_si256(); GROUP];
        for (register, row) in rows.iter_mut().zip(group) {
            let (mut step, tail) = ([0; STEP], row.as_chunks::<STEP>().1);
            step[..tail.len()].copy_from_slice(tail);
            *register = load(&step);
        }
        pack_step(rows, last);
    }
}

/// Turn a register of each row into a register of each byte's nibbles, and store as many as there are lines for.
#[inline]
#[target_feature(enable = "avx2")]
fn pack_step(mut square: [__m256i; GROUP], lines: &mut [Line]) {
    for _ in 0..GROUP.ilog2() {
        // A perfect shuffle of the 256 bytes of each half; four of them turn rows into columns.
        let rows = square;
        for (i, pair) in square.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (a, b) = (rows[i], rows[i + GROUP / 2]);
            *pair = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
        }
    }
    let nibble = _mm256_set1_epi8(15);
    let (first, second) = lines.split_at_mut(lines.len().min(GROUP / BYTES));
    for (at, pair) in square.as_chunks::<BYTES>().0.iter().enumerate() {
        for (half, &bytes) in pair.iter().enumerate() {
            let low = _mm256_and_si256(bytes, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
            if let Some(line) = first.get_mut(at) {
                store(&mut line.0.as_chunks_mut().0[half], _mm256_permute2x128_si256::<0x20>(low, high));
            }
            if let Some(line) = second.get_mut(at) {
                store(&mut line.0.as_chunks_mut().0[half], _mm256_permute2x128_si256::<0x31>(low, high));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; STEP], register: __m256i) {
    // SAFETY: the array is 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), register) };
}

/// For a byte of a query: in how many bits its low nibble differs from each of the sixteen, and its high nibble.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Table([u8; STEP]);

static TABLES: [Table; 256] = {
    let mut tables = [Table([0; STEP]); 256];
    let mut byte = 0;
    while byte < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            tables[byte].0[nibble] = (nibble ^ byte & 15).count_ones() as u8;
            tables[byte].0[nibble + 16] = (nibble ^ byte >> 4).count_ones() as u8;
            nibble += 1;
        }
        byte += 1;
    }
    tables
};

/// Lines whose distances fit in a byte a nibble: 31 * 2 * 4 <= 255.
const BYTE_LINES: usize = 31;
/// Lines whose distances fit in 16 bits: 8,184 * 2 * 4 <= 65,535.
const SHORT_LINES: usize = 264 * BYTE_LINES;
/// Groups that share a query's tables.
const GROUPS: usize = 4;
/// Queries that share the loads of rows.
const QUERIES: usize = 2;

/// Interleave the queries of a batch by pairs: byte by byte, the pairs one after another.
pub(super) fn pack_query(query: &[u8], q: usize, batch: &mut [Word]) {
    let positions = batch.len() * WORD;
    let pair = &mut batch.as_flattened_mut()[q / QUERIES * QUERIES * positions..];
    for (bytes, &byte) in pair.as_chunks_mut::<QUERIES>().0.iter_mut().zip(query) {
        bytes[q % QUERIES] = byte;
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn panel(panel: &[Line], words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    let length = words.len() * LINES;
    let mut groups = panel.chunks_exact(length * GROUPS);
    let mut at = 0;
    for lines in &mut groups {
        tiles::<GROUPS>(lines, words, count, &mut out[at..], stride);
        at += GROUPS * GROUP;
    }
    for lines in groups.remainder().chunks_exact(length) {
        tiles::<1>(lines, words, count, &mut out[at..], stride);
        at += GROUP;
    }
}

/// `R` groups against all queries of a batch.
#[inline]
#[target_feature(enable = "avx2")]
fn tiles<const R: usize>(lines: &[Line], words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    let length = words.len() * LINES;
    let mut groups = [lines; R];
    for (r, group) in groups.iter_mut().enumerate() {
        *group = &lines[r * length..][..length];
    }
    // A last odd query is paired with zeros, whose scores nobody reads.
    let pairs = words.as_flattened().chunks_exact(words.len() * WORD * QUERIES);
    for (pair, pairs) in pairs.take(count.div_ceil(QUERIES)).enumerate() {
        let (queries, _) = pairs.as_chunks::<BYTES>().0.as_chunks::<QUERIES>();
        for start in (0..length).step_by(SHORT_LINES) {
            let range = start..length.min(start + SHORT_LINES);
            let mut some = groups;
            for group in &mut some {
                *group = &group[range.clone()];
            }
            tile(some, &queries[range], &mut out[pair * QUERIES * stride..], stride, start > 0);
        }
    }
}

/// `R` groups against a pair of queries, whose bytes alternate; `more` adds to what `out` holds.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const R: usize>(
    groups: [&[Line]; R],
    queries: &[[[u8; QUERIES]; BYTES]],
    out: &mut [i32],
    stride: usize,
    more: bool,
) {
    let zero = _mm256_setzero_si256();
    // Of the first eight rows and of the last eight, each the low nibbles' and the high nibbles'.
    let mut sums = [[[zero; 2]; R]; QUERIES];
    for start in (0..queries.len()).step_by(BYTE_LINES) {
        let queries = &queries[start..queries.len().min(start + BYTE_LINES)];
        let mut lines = groups;
        for lines in &mut lines {
            // Seeing one length, the compiler leaves out checks.
            *lines = &lines[start..][..queries.len()];
        }
        let mut bytes = [[zero; R]; QUERIES];
        for (at, queries) in queries.iter().enumerate() {
            for (half, queries) in queries.iter().enumerate() {
                let mut rows = [zero; R];
                for (row, lines) in rows.iter_mut().zip(lines) {
                    // SAFETY: half a line is 32 bytes at an address that is a multiple of 32.
                    *row = unsafe { _mm256_load_si256(lines[at].0.as_chunks::<STEP>().0[half].as_ptr().cast()) };
                }
                for (bytes, &query) in bytes.iter_mut().zip(queries) {
                    // SAFETY: a table is 32 bytes at an address that is a multiple of 32.
                    let table = unsafe { _mm256_load_si256(TABLES[usize::from(query)].0.as_ptr().cast()) };
                    for (bytes, row) in bytes.iter_mut().zip(rows) {
                        *bytes = _mm256_add_epi8(*bytes, _mm256_shuffle_epi8(table, row));
                    }
                }
            }
        }
        for (sums, bytes) in sums.as_flattened_mut().iter_mut().zip(bytes.as_flattened()) {
            sums[0] = _mm256_add_epi16(sums[0], _mm256_unpacklo_epi8(*bytes, zero));
            sums[1] = _mm256_add_epi16(sums[1], _mm256_unpackhi_epi8(*bytes, zero));
        }
    }
    for (q, sums) in sums.iter().enumerate() {
        let out = out[q * stride..][..R * GROUP].as_chunks_mut::<{ GROUP / 2 }>().0;
        for (out, sums) in out.iter_mut().zip(sums.as_flattened()) {
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(*sums));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(*sums));
            let mut sum = _mm256_add_epi32(low, high);
            // SAFETY: `out` is eight i32, 32 bytes, and neither needs alignment.
            unsafe {
                if more {
                    sum = _mm256_add_epi32(sum, _mm256_loadu_si256(out.as_ptr().cast()));
                }
                _mm256_storeu_si256(out.as_mut_ptr().cast(), sum);
            }
        }
    }
}
