//! AMX: TDPBSSD multiplies a tile of sixteen rows, 64 elements of each as they lie in memory, with a tile of as many
//! elements of sixteen queries, and adds the 256 sums to a third tile. It takes sixteen cycles, VPDPBUSD would take 128.
//!
//! Intel, Architecture Instruction Set Extensions and Future Features, chapter 3. The compiler has no intrinsics for
//! tiles yet.
#![expect(unsafe_code, reason = "instructions without intrinsics, loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::collections::TryReserveError;
use std::ops::Range;

use super::layout::{WORD, each_word};
use crate::memory::resize;
use crate::similarity::Matrix;
use crate::similarity::line::Line;
use crate::similarity::tiles::{Configured, Pair, STEP, TILE, Tiles};
use crate::similarity::transpose::transpose_words;

/// Rows that are multiplied together, and queries: two tiles, so that a tile of the others is loaded for both.
const PAIR: usize = 2 * TILE;

/// Interleave queries of `width` elements each: the same four elements of sixteen in a line, sixteen lines a tile.
pub(super) fn pack_queries(queries: &[i8], width: usize) -> Result<Tiles, TryReserveError> {
    let steps = width.div_ceil(STEP);
    let mut tiles = Tiles::new(queries.len() / width, steps, PAIR)?;
    for (q, query) in queries.chunks_exact(width).enumerate() {
        let own = tiles.around(q).as_flattened_mut();
        each_word(query, |word, value| own[word].0[q % TILE] = value);
    }
    Ok(tiles)
}

/// Rows that can be read where they lie, in whole pairs of tiles: whole steps of each can be read, and the elements after
/// a row's own score nothing. All steps lie in one cache line each: to load a tile whose rows lie in two takes six times as
/// long, which a copy saves from some sixteen queries on.
fn in_place(rows: Matrix<'_, i8>) -> usize {
    if !(rows.stride().is_multiple_of(STEP) && rows.from(0).as_ptr().addr().is_multiple_of(STEP)) {
        return 0;
    }
    rows.readable(rows.width().next_multiple_of(STEP)) / PAIR * PAIR
}

/// Copy the rows that cannot be read where they lie.
pub(super) fn pack_rows(rows: Matrix<'_, i8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
    let (first, steps) = (in_place(rows), rows.width().div_ceil(STEP));
    // Whatever is in a panel after a row's own elements, which queries have zeros for, and after the last row, is not read.
    resize(panel, (rows.len() - first).next_multiple_of(PAIR) * steps, Line([0; TILE]))?;
    for (row, lines) in rows.range(first..rows.len()).iter().zip(panel.chunks_exact_mut(steps)) {
        bytes_mut(lines)[..row.len()].copy_from_slice(row);
    }
    Ok(())
}

/// See [`Kernels::panel`](crate::similarity::Kernels::panel); [`pack_rows`] made `panel` of the rows.
///
/// # Safety
/// [`Isa::dot`](crate::isa::Isa::dot) names AMX: the CPU has tiles, and the system lets this process use them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn panel(
    rows: Matrix<'_, i8>,
    panel: &[Line],
    queries: &Tiles,
    batch: usize,
    out: &mut [i32],
    stride: usize,
) {
    let steps = rows.width().div_ceil(STEP);
    let count = queries.queries(batch);
    let Some(Pair { tiles: [first, second], .. }) = queries.pairs(batch).next() else { return };
    let in_place = in_place(rows);
    let mut sums = Sums([[Line([0; TILE]); TILE]; 4]);
    // SAFETY: the caller vouches for tiles, and nothing below configures them again.
    let configured = unsafe { Configured::new() };
    for start in (0..in_place).step_by(PAIR) {
        if batch == 0 {
            rows.prefetch(start + PAIR..start + 2 * PAIR);
        }
        multiply(&configured, rows.from(start), rows.stride(), first, second, &mut sums);
        store(&sums, count, start..rows.len(), out, stride);
    }
    for (start, lines) in (in_place..).step_by(PAIR).zip(panel.chunks_exact(PAIR * steps)) {
        multiply(&configured, bytes(lines), steps * STEP, first, second, &mut sums);
        store(&sums, count, start..rows.len(), out, stride);
    }
}

/// Lines as the elements that they hold.
fn bytes(lines: &[Line]) -> &[i8] {
    // SAFETY: a line is 64 bytes without padding, any of which is an i8.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

/// [`bytes`], to write them.
fn bytes_mut(lines: &mut [Line]) -> &mut [i8] {
    // SAFETY: a line is 64 bytes without padding, any of which are four u32.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// Sums of two tiles of rows with the first tile of queries, then with the second: a line holds those of a row.
struct Sums([[Line; TILE]; 4]);

/// Write the sums of the first of `rows`, a run of rows for each query.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(sums: &Sums, count: usize, rows: Range<usize>, out: &mut [i32], stride: usize) {
    for (tile, lines) in sums.0.iter().enumerate() {
        let (start, first) = (rows.start + tile % 2 * TILE, tile / 2 * TILE);
        if start >= rows.end || first >= count {
            continue;
        }
        let mut registers = [_mm512_setzero_si512(); TILE];
        for (register, line) in registers.iter_mut().zip(lines) {
            // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
            *register = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
        }
        for (query, scores) in (first..count).zip(transpose_words(&registers)) {
            let out = &mut out[query * stride + start..][..TILE];
            // SAFETY: `out` is sixteen i32, 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), scores) };
        }
    }
}

/// All sums of [`PAIR`] rows, `stride` bytes apart, with sixteen queries or twice as many, a tile for each step.
#[inline]
fn multiply(
    _: &Configured,
    rows: &[i8],
    stride: usize,
    first: &[[Line; TILE]],
    second: &[[Line; TILE]],
    sums: &mut Sums,
) {
    const { assert!(STEP == TILE * WORD && size_of::<Line>() == STEP) };
    let steps = first.len();
    // From the first row's start to the last one's end; `steps * STEP` is a sixteenth of the bytes of `first`.
    let read = stride.saturating_mul(PAIR - 1).saturating_add(steps * STEP);
    assert!(steps > 0 && rows.len() >= read);
    if second.is_empty() {
        // SAFETY: the tiles are configured. Sixteen rows of 64 bytes are read at each of `steps` places of `rows`
        // and of the same with `TILE` rows more, whose last ends within it by the check above, and as many of `first`,
        // which has so many tiles. Two of the four sums are written, 1,024 bytes each.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{queries} + {line}]",
                "tileloadd tmm6, [{low} + {stride}]",
                "tdpbssd tmm0, tmm6, tmm4",
                "tileloadd tmm7, [{high} + {stride}]",
                "tdpbssd tmm1, tmm7, tmm4",
                "add {low}, 64",
                "add {high}, 64",
                "add {queries}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                low = inout(reg) rows.as_ptr() => _,
                high = inout(reg) rows[TILE * stride..].as_ptr() => _,
                queries = inout(reg) first.as_ptr() => _,
                steps = inout(reg) steps => _,
                stride = in(reg) stride,
                line = in(reg) size_of::<Line>(),
                sums = in(reg) sums.0.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        return;
    }
    assert!(second.len() == steps);
    // SAFETY: as above, with `second` read like `first`, and all four sums written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{first} + {line}]",
            "tileloadd tmm6, [{low} + {stride}]",
            "tdpbssd tmm0, tmm6, tmm4",
            "tileloadd tmm7, [{high} + {stride}]",
            "tdpbssd tmm1, tmm7, tmm4",
            "tileloadd tmm5, [{second} + {line}]",
            "tdpbssd tmm2, tmm6, tmm5",
            "tdpbssd tmm3, tmm7, tmm5",
            "add {low}, 64",
            "add {high}, 64",
            "add {first}, 1024",
            "add {second}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 3072], tmm3",
            low = inout(reg) rows.as_ptr() => _,
            high = inout(reg) rows[TILE * stride..].as_ptr() => _,
            first = inout(reg) first.as_ptr() => _,
            second = inout(reg) second.as_ptr() => _,
            steps = inout(reg) steps => _,
            stride = in(reg) stride,
            line = in(reg) size_of::<Line>(),
            sums = in(reg) sums.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
