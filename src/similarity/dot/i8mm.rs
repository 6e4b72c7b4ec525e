//! I8mm: SMMLA multiplies eight elements of two queries with those of two rows and adds to the four sums.
//!
//! Panels hold eight elements of each of sixteen rows, then the next eight, and batches the same of eight queries. A
//! tile is eight queries by eight rows: sixteen registers of sums, four of rows and four of queries.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;
use std::collections::TryReserveError;

use super::layout::{WORD, Word, each_word};
use crate::memory::resize;
use crate::similarity::line::{GROUP, Line};
use crate::similarity::neon::{ROWS, STEP, load_signed, smmla};
use crate::similarity::{BATCH, Matrix};

/// Elements of a vector that lie together.
const CHUNK: usize = 8;
/// Chunks of a round of a tile's loop.
const ROUND: usize = 8;
/// Rows of a tile.
const TILE: usize = 8;
/// Lines of a group that hold [`CHUNK`] elements of each row.
pub(in crate::similarity) const CHUNK_LINES: usize = GROUP * CHUNK / size_of::<Line>();
/// Words of a batch that hold [`CHUNK`] elements of each query.
const CHUNK_WORDS: usize = BATCH * CHUNK / size_of::<Word>();

/// Where a word of a vector lies among those of `vectors` vectors.
fn place(word: usize, vector: usize, vectors: usize) -> usize {
    const WORDS: usize = CHUNK / WORD;
    (word / WORDS * vectors + vector) * WORDS + word % WORDS
}

/// Where a word of a query lies in its batch.
pub(in crate::similarity) fn query_place(word: usize, q: usize, _: usize) -> usize {
    place(word, q, BATCH)
}

/// Room for all groups of rows of `width` elements, whole registers of each, and the lines of a group.
pub(in crate::similarity) fn resize_panel(
    panel: &mut Vec<Line>,
    rows: usize,
    width: usize,
) -> Result<usize, TryReserveError> {
    let length = width.div_ceil(STEP) * (STEP / CHUNK) * CHUNK_LINES;
    resize(panel, rows.div_ceil(GROUP) * length, Line([0; GROUP]))?;
    Ok(length)
}

/// Interleave all rows, the last group filled up with any.
#[target_feature(enable = "neon")]
pub(super) fn pack_rows(rows: Matrix<'_, i8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
    // What an earlier block left beyond the ends of rows meets zeros of the queries, and scores nothing.
    let length = resize_panel(panel, rows.len(), rows.width())?;
    let (groups, rest) = rows.groups::<GROUP>();
    let (full, last) = panel.split_at_mut(groups.len() * length);
    for (group, lines) in groups.zip(full.chunks_exact_mut(length)) {
        pack(group, lines);
    }
    for (lane, row) in rest.iter().enumerate() {
        pack_from(row, 0, lane, last);
    }
    Ok(())
}

/// Interleave a full group of rows.
#[inline]
#[target_feature(enable = "neon")]
fn pack(group: [&[i8]; GROUP], lines: &mut [Line]) {
    let whole = group[0].len() / STEP;
    for (pair, [a, b]) in group.as_chunks().0.iter().enumerate() {
        let (a, b) = (&a.as_chunks().0.as_chunks().0[..whole], &b.as_chunks().0.as_chunks().0[..whole]);
        for ((a, b), lines) in a.iter().zip(b).zip(lines.as_chunks_mut().0.as_chunks_mut().0) {
            let [a, b] = [load_signed(a), load_signed(b)].map(|[row]| vreinterpretq_s64_s8(row));
            let [first, second]: &mut [_; STEP / CHUNK] = lines;
            store_pair(first, pair, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
            store_pair(second, pair, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
        }
    }
    for (lane, row) in group.into_iter().enumerate() {
        pack_from(row, whole * STEP, lane, lines);
    }
}

/// Write a row's elements from `start` on, a multiple of [`STEP`], to its place in a group.
fn pack_from(row: &[i8], start: usize, lane: usize, lines: &mut [Line]) {
    each_word(&row[start..], |word, value| {
        let at = place(start / WORD + word, lane, GROUP);
        lines[at / GROUP].0[at % GROUP] = value;
    });
}

/// Write a chunk of a pair of rows to the lines of a group's chunk.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::similarity) fn store_pair(lines: &mut [Line; CHUNK_LINES], pair: usize, elements: int8x16_t) {
    const PAIRS: usize = size_of::<Line>() / STEP;
    let place = &mut lines[pair / PAIRS].0.as_chunks_mut::<{ STEP / WORD }>().0[pair % PAIRS];
    // SAFETY: the place is four words, 16 bytes, and the store needs no alignment.
    unsafe { vst1q_s8(place.as_mut_ptr().cast(), elements) };
}

/// Scores of a batch of queries with interleaved rows.
#[target_feature(enable = "neon,i8mm")]
pub(in crate::similarity) fn panel(panel: &[Line], words: &[Word], count: usize, out: &mut [i32], stride: usize) {
    let length = words.len() / CHUNK_WORDS * CHUNK_LINES;
    for (group, lines) in panel.chunks_exact(length).enumerate() {
        for half in 0..GROUP / TILE {
            let out = &mut out[group * GROUP + half * TILE..];
            // Zeros fill a batch up, whose scores nobody reads.
            match count {
                1 | 2 => tile::<1>(lines, half, words, out, stride),
                3 | 4 => tile::<2>(lines, half, words, out, stride),
                5 | 6 => tile::<3>(lines, half, words, out, stride),
                _ => tile::<4>(lines, half, words, out, stride),
            }
        }
    }
}

/// Half of a group against `P` pairs of queries.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn tile<const P: usize>(lines: &[Line], half: usize, words: &[Word], out: &mut [i32], stride: usize) {
    const PAIRS: usize = TILE / 2;
    let mut sums = [[vdupq_n_s32(0); PAIRS]; P];
    let words = words.as_chunks::<CHUNK_WORDS>().0;
    let lines = lines.as_chunks::<CHUNK_LINES>().0;
    // Several chunks a round, since a round costs instructions of its own. Written out: of a loop over eight the compiler
    // makes a loop again.
    let (word_rounds, last_words) = words.as_chunks::<ROUND>();
    let (line_rounds, last_lines) = lines.as_chunks::<ROUND>();
    for (words, lines) in word_rounds.iter().zip(line_rounds) {
        add(&mut sums, &words[0], &lines[0][half]);
        add(&mut sums, &words[1], &lines[1][half]);
        add(&mut sums, &words[2], &lines[2][half]);
        add(&mut sums, &words[3], &lines[3][half]);
        add(&mut sums, &words[4], &lines[4][half]);
        add(&mut sums, &words[5], &lines[5][half]);
        add(&mut sums, &words[6], &lines[6][half]);
        add(&mut sums, &words[7], &lines[7][half]);
    }
    for (words, lines) in last_words.iter().zip(last_lines) {
        add(&mut sums, words, &lines[half]);
    }
    for (pair, sums) in sums.into_iter().enumerate() {
        // Two queries of each pair of rows: the scores of the first query, then those of the second.
        let [a, b, c, d] = sums.map(|sum| vreinterpretq_s64_s32(sum));
        let scores = [[vzip1q_s64(a, b), vzip1q_s64(c, d)], [vzip2q_s64(a, b), vzip2q_s64(c, d)]];
        for (q, scores) in scores.into_iter().enumerate() {
            let out = &mut out[(2 * pair + q) * stride..][..TILE];
            for (four, scores) in out.as_chunks_mut::<ROWS>().0.iter_mut().zip(scores) {
                // SAFETY: `four` is 16 bytes, and the store needs no alignment.
                unsafe { vst1q_s32(four.as_mut_ptr(), vreinterpretq_s32_s64(scores)) };
            }
        }
    }
}

/// Add the products of a chunk.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn add<const P: usize>(sums: &mut [[int32x4_t; TILE / 2]; P], words: &[Word; CHUNK_WORDS], line: &Line) {
    // SAFETY: a line is 64 bytes, and so are the words of a chunk; loads need no alignment.
    let (rows, queries) = unsafe { (vld1q_s8_x4(line.0.as_ptr().cast()), vld1q_s8_x4(words.as_ptr().cast())) };
    let rows = [rows.0, rows.1, rows.2, rows.3];
    for (sums, queries) in sums.iter_mut().zip([queries.0, queries.1, queries.2, queries.3]) {
        for (sum, rows) in sums.iter_mut().zip(rows) {
            *sum = smmla(*sum, queries, rows);
        }
    }
}
