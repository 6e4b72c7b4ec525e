//! AVX-512 with VNNI: 64 bits of a row are a mask over 64 bytes of twos, which VPDPBUSD multiplies with the query.
#![expect(unsafe_code, reason = "loads and stores through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::x86_64::*;

use super::scalar::{SPREAD, signed};
use crate::similarity::Matrix;
use crate::similarity::dot::sum;
use crate::similarity::line::{GROUP, Line};

/// Elements of the query in a register.
const STEP: usize = 64;
/// Bytes of a row that are as many bits.
const BYTES: usize = STEP / 8;
/// Rows that share the loads of a query.
const FOUR: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows(query: &[i8], rows: Matrix<'_, u8>, out: &mut [i32]) {
    let (steps, tail) = query.as_chunks::<STEP>();
    let whole = sum(steps.as_flattened());
    let ends = |row: &[u8]| -> i32 {
        let bytes = &row[steps.len() * BYTES..];
        bytes.iter().zip(tail.as_chunks::<8>().0).map(|(&byte, eight)| signed(eight, byte)).sum()
    };
    let (groups, rest) = rows.groups::<FOUR>();
    let (fours, out_rest) = out.as_chunks_mut::<FOUR>();
    for (group, out) in groups.zip(fours) {
        *out = twice_chosen(steps, group.map(|row| row.as_chunks().0));
        for (out, row) in out.iter_mut().zip(group) {
            *out += ends(row) - whole;
        }
    }
    for (row, out) in rest.iter().zip(out_rest) {
        [*out] = twice_chosen(steps, [row.as_chunks().0]);
        *out += ends(row) - whole;
    }
}

/// Twice the sum of the values whose bits are set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn twice_chosen<const R: usize>(query: &[[i8; STEP]], mut rows: [&[[u8; BYTES]]; R]) -> [i32; R] {
    for row in &mut rows {
        // Seeing one length, the compiler leaves out the checks below.
        *row = &row[..query.len()];
    }
    let twos = _mm512_set1_epi8(2);
    let mut sums = [_mm512_setzero_si512(); R];
    for (at, values) in query.iter().enumerate() {
        // SAFETY: `values` is 64 bytes, and the load needs no alignment.
        let values = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
        for (sum, row) in sums.iter_mut().zip(rows) {
            let set = _mm512_maskz_mov_epi8(u64::from_le_bytes(row[at]), twos);
            *sum = _mm512_dpbusd_epi32(*sum, set, values);
        }
    }
    let mut out = [0; R];
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = _mm512_reduce_add_epi32(sum);
    }
    out
}

/// Interleave the whole 32-bit words of a full group of rows, and give the number of bytes of a row that were read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn pack(group: [&[u8]; GROUP], lines: &mut [Line]) -> usize {
    let mut words: [std::slice::Iter<'_, [u8; 4]>; GROUP] = group.map(|row| row.as_chunks().0.iter());
    // SAFETY: the table is 64 bytes, and the load needs no alignment.
    let table = unsafe { _mm512_loadu_si512(SPREAD.as_ptr().cast()) };
    let (blocks, _) = lines.as_chunks_mut::<8>();
    for lines in &mut *blocks {
        let word = words.each_mut().map(|words| words.next().map_or(0, |word| u32::from_le_bytes(*word)));
        // SAFETY: sixteen words are 64 bytes, and the load needs no alignment.
        let mut bits = unsafe { _mm512_loadu_si512(word.as_ptr().cast()) };
        for line in lines {
            // The look-up reads the lowest four bits of each lane.
            let spread = _mm512_permutexvar_epi32(bits, table);
            // SAFETY: a line is 64 bytes at an address that is a multiple of 64.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), spread) };
            bits = _mm512_srli_epi32::<4>(bits);
        }
    }
    blocks.len() * 4
}
