//! AMX against packed bits: 64 bits of sixteen rows become a tile of bytes, zero or `value`, and TDPBSSD multiplies it
//! with the same 64 elements of sixteen queries.
//!
//! The bytes of 32 rows are made in L1, for all queries of a batch. A tile's lines come from words of sixteen rows, of which
//! a shift and an AND take one bit of each byte, so elements are in an order of their own: line `p` of a word has its bits
//! `p`, `p + 8`, `p + 16` and `p + 24`. Queries have the same order.
//!
//! Queries are the first factor, and sums begin at a number of each query, so that tiles hold scores as they are written.
#![expect(unsafe_code, reason = "instructions without intrinsics, loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::collections::TryReserveError;

use super::Matrix;
use super::line::Line;
use super::tiles::{Configured, Pair, STEP, TILE, Tiles};
use super::transpose::transpose_words;

/// Bytes of a row in a tile.
const BYTES: usize = STEP / 8;
/// Bytes of a row in a word.
const WORD: usize = 4;
/// Bits of a byte, and lines of a word.
const PLANES: usize = 8;
/// Words of a row in a register.
const WORDS: usize = 16;
/// Lines of a tile.
const LINES: usize = TILE;
/// Tiles that are multiplied before the next ones are made, so that those of two groups of rows stay in L1.
const CHUNK: usize = 8;
/// Most queries of a batch: bits become bytes once for all of them, and their scores stay in L2.
const MOST: usize = 256;

/// Queries of `ratio` elements for each of the `width` bytes of a row. `word` gives the four elements of a query that line
/// `p` of word `w` is multiplied with, and `start` the number that its sums begin with.
pub(super) fn pack_queries<Q>(
    queries: &[Q],
    (width, ratio): (usize, usize),
    word: impl Fn(&[Q], usize, usize) -> u32,
    start: impl Fn(&[Q]) -> i32,
) -> Result<Tiles, TryReserveError> {
    let mut tiles = Tiles::new(queries.len() / (width * ratio), width.div_ceil(BYTES), MOST)?;
    for (q, query) in queries.chunks_exact(width * ratio).enumerate() {
        for (step, tile) in tiles.around(q).iter_mut().enumerate() {
            for (line, value) in tile[q % TILE].0.iter_mut().enumerate() {
                *value = word(query, step * (BYTES / WORD) + line / PLANES, line % PLANES);
            }
        }
        tiles.start(q, start(query));
    }
    Ok(tiles)
}

/// See [`Kernels::panel`](super::Kernels::panel): the rows are read where they lie, and a bit that is set counts as
/// `value`, 1 or 2.
///
/// # Safety
/// [`Isa`](crate::isa::Isa) names AMX for the caller's family: the CPU has tiles, the system lets this process use them,
/// and AVX-512 F and BW were detected too.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn panel(
    rows: Matrix<'_, u8>,
    value: u8,
    queries: &Tiles,
    batch: usize,
    out: &mut [i32],
    stride: usize,
) {
    let steps = rows.width().div_ceil(BYTES);
    let mut lines = [Line([0; TILE]); 2 * CHUNK * LINES];
    // SAFETY: the caller vouches for tiles, and nothing below configures them again.
    let configured = unsafe { Configured::new() };
    for start in (0..rows.len()).step_by(2 * TILE) {
        if batch == 0 {
            rows.prefetch(start + 2 * TILE..start + 4 * TILE);
        }
        let groups = [start, start + TILE].map(|first| group(rows, first));
        for first in (0..steps).step_by(CHUNK) {
            let chunk = first..steps.min(first + CHUNK);
            let (low, rest) = lines.split_at_mut(chunk.len() * LINES);
            spread(groups[0], first, value, low);
            let mut factors = ([&*low; 2], 0);
            // Where the last group has no other, it is multiplied twice, and the same sums are written twice.
            if start + TILE < rows.len() {
                let high = &mut rest[..chunk.len() * LINES];
                spread(groups[1], first, value, high);
                factors = ([low, high], TILE);
            }
            let (rows, distance) = factors;
            for Pair { query, tiles, starts } in queries.pairs(batch) {
                let queries = tiles.map(|tiles| tiles.get(chunk.clone()).unwrap_or_default());
                let out = Out { scores: &mut out[query * stride + start..], distance, stride };
                multiply(&configured, queries, rows, if chunk.start == 0 { Some(starts) } else { None }, out);
            }
        }
    }
}

/// Sixteen rows, with empty ones after the last.
fn group(rows: Matrix<'_, u8>, first: usize) -> [&[u8]; TILE] {
    std::array::from_fn(|lane| if first + lane < rows.len() { rows.row(first + lane) } else { &[] })
}

/// Write tiles of a group from number `first` on: `value` for each bit that is set, and zeros after the end of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn spread(group: [&[u8]; TILE], first: usize, value: u8, lines: &mut [Line]) {
    let mask = _mm512_set1_epi8(value.cast_signed());
    for (at, lines) in lines.chunks_mut(WORDS * PLANES).enumerate() {
        let rows = group.map(|row| load(row.get(first * BYTES + at * STEP..).unwrap_or_default()));
        for (mut bits, lines) in transpose_words(&rows).into_iter().zip(lines.as_chunks_mut::<PLANES>().0) {
            if value == 2 {
                bits = _mm512_rol_epi32::<1>(bits);
            }
            for line in lines {
                // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), _mm512_and_si512(bits, mask)) };
                bits = _mm512_ror_epi32::<1>(bits);
            }
        }
    }
}

/// A register from the first 64 bytes, filled up with zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(bytes: &[u8]) -> __m512i {
    if let Some(bytes) = bytes.first_chunk::<STEP>() {
        // SAFETY: the array is 64 bytes, and the load needs no alignment.
        return unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    }
    let mask = !(u64::MAX << bytes.len());
    // SAFETY: the mask has no more bits than the slice has bytes, and a masked load touches no other byte.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

/// Where sums of two groups of rows go.
struct Out<'a> {
    /// The place of the first row of the first group and the first query.
    scores: &'a mut [i32],
    /// From there to the first row of the second group.
    distance: usize,
    /// From there to the next query.
    stride: usize,
}

/// Add all products of two groups of rows with sixteen queries or twice as many to `starts`, or to the scores.
#[inline]
fn multiply(
    _: &Configured,
    [first, second]: [&[[Line; TILE]]; 2],
    [low, high]: [&[Line]; 2],
    starts: Option<&[[Line; TILE]]>,
    Out { scores, distance, stride }: Out<'_>,
) {
    const { assert!(STEP == size_of::<Line>() && STEP == TILE * size_of::<i32>()) };
    let steps = first.len();
    assert!(steps > 0 && low.len() == steps * LINES && high.len() == low.len());
    let queries = if second.is_empty() { TILE } else { 2 * TILE };
    // The last query's last sum.
    assert!(starts.is_none_or(|starts| starts.len() * TILE >= queries));
    let starts = starts.map_or(std::ptr::null(), <[_]>::as_ptr);
    assert!(scores.len() >= stride.saturating_mul(queries - 1).saturating_add(distance + TILE));
    if second.is_empty() {
        // SAFETY: the tiles are configured. `steps` tiles of 1,024 bytes each are read of `first`, `low` and `high`, which
        // have so many by the check above, and one of `starts` unless that is null. Sixteen runs of sixteen i32, `stride`
        // apart, are written at two places of `scores`, and read before where `starts` is null; its length was checked for
        // the last run of both.
        unsafe {
            asm!(
                "test {starts}, {starts}",
                "jz 3f",
                "tileloadd tmm0, [{starts} + {line}]",
                "tileloadd tmm1, [{starts} + {line}]",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{out} + {stride}]",
                "tileloadd tmm1, [{other} + {stride}]",
                "2:",
                "tileloadd tmm4, [{first} + {line}]",
                "tileloadd tmm6, [{low} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{high} + {line}]",
                "tdpbssd tmm1, tmm4, tmm7",
                "add {first}, 1024",
                "add {low}, 1024",
                "add {high}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{other} + {stride}], tmm1",
                starts = in(reg) starts,
                line = in(reg) size_of::<Line>(),
                first = inout(reg) first.as_ptr() => _,
                low = inout(reg) low.as_ptr() => _,
                high = inout(reg) high.as_ptr() => _,
                steps = inout(reg) steps => _,
                out = in(reg) scores.as_mut_ptr(),
                other = in(reg) scores[distance..].as_mut_ptr(),
                stride = in(reg) stride * size_of::<i32>(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        return;
    }
    assert!(second.len() == steps);
    // SAFETY: as above, with `second` read like `first`, a second tile of `starts`, and runs of sixteen more queries.
    unsafe {
        asm!(
            "test {starts}, {starts}",
            "jz 3f",
            "tileloadd tmm0, [{starts} + {line}]",
            "tileloadd tmm1, [{starts} + {line}]",
            "tileloadd tmm2, [{starts} + {line} + 1024]",
            "tileloadd tmm3, [{starts} + {line} + 1024]",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{out} + {stride}]",
            "tileloadd tmm1, [{other} + {stride}]",
            "tileloadd tmm2, [{out_second} + {stride}]",
            "tileloadd tmm3, [{other_second} + {stride}]",
            "2:",
            "tileloadd tmm4, [{first} + {line}]",
            "tileloadd tmm6, [{low} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{high} + {line}]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{second} + {line}]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {first}, 1024",
            "add {second}, 1024",
            "add {low}, 1024",
            "add {high}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{other} + {stride}], tmm1",
            "tilestored [{out_second} + {stride}], tmm2",
            "tilestored [{other_second} + {stride}], tmm3",
            starts = in(reg) starts,
            line = in(reg) size_of::<Line>(),
            first = inout(reg) first.as_ptr() => _,
            second = inout(reg) second.as_ptr() => _,
            low = inout(reg) low.as_ptr() => _,
            high = inout(reg) high.as_ptr() => _,
            steps = inout(reg) steps => _,
            out = in(reg) scores.as_mut_ptr(),
            other = in(reg) scores[distance..].as_mut_ptr(),
            out_second = in(reg) scores[TILE * stride..].as_mut_ptr(),
            other_second = in(reg) scores[TILE * stride + distance..].as_mut_ptr(),
            stride = in(reg) stride * size_of::<i32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
