//! Loads and groups of rows, which several NEON kernels share.
#![expect(unsafe_code, reason = "loads and stores through pointers, instructions without intrinsics")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::Matrix;

/// Bytes in a register.
pub(super) const STEP: usize = 16;
/// Rows that share the loads of queries.
pub(super) const ROWS: usize = 4;
/// Queries that share the loads of rows: with [`ROWS`], half of the registers hold sums.
pub(super) const QUERIES: usize = 4;

/// An array of bytes in a register.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8; STEP]) -> uint8x16_t {
    // SAFETY: the array is 16 bytes, and the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// See [`load`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_signed(elements: &[i8; STEP]) -> int8x16_t {
    // SAFETY: the array is 16 bytes, and the load needs no alignment.
    unsafe { vld1q_s8(elements.as_ptr()) }
}

/// At most 16 values, and zeros.
#[inline]
pub(super) fn padded<E: Copy + Default>(values: &[E]) -> [E; STEP] {
    let mut array = [E::default(); STEP];
    array[..values.len()].copy_from_slice(values);
    array
}

/// Give `visit` all rows by fours, and the scores of each four. Rows that a last four lacks repeat its first.
#[inline(always)]
pub(super) fn fours<'a, E>(rows: Matrix<'a, E>, visit: impl FnMut([&'a [E]; ROWS], usize)) {
    let mut visit = visit;
    let (groups, rest) = rows.groups::<ROWS>();
    let mut at = 0;
    for group in groups {
        visit(group, at);
        at += ROWS;
    }
    if !rest.is_empty() {
        visit(std::array::from_fn(|row| rest.row(if row < rest.len() { row } else { 0 })), at);
    }
}

/// Write the scores of up to four rows from `at` on.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(scores: int32x4_t, out: &mut [i32], at: usize) {
    if let Some(out) = out.get_mut(at..).and_then(<[i32]>::first_chunk_mut::<ROWS>) {
        // SAFETY: `out` is four i32, 16 bytes, and the store needs no alignment.
        unsafe { vst1q_s32(out.as_mut_ptr(), scores) };
        return;
    }
    let mut four = [0; ROWS];
    // SAFETY: as above.
    unsafe { vst1q_s32(four.as_mut_ptr(), scores) };
    let rest = &mut out[at..];
    rest.copy_from_slice(&four[..rest.len()]);
}

/// Words as the elements that they hold.
pub(super) fn bytes<const N: usize>(words: &[[u32; N]]) -> &[i8] {
    // SAFETY: words have no padding, and any byte of them is an i8.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// Numbers below 2^31 as signed ones.
pub(super) fn as_signed(numbers: &mut [u32]) -> &mut [i32] {
    // SAFETY: the two types have one size and alignment, and any bits are a value of either.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// SDOT: add to each lane the products of four bytes. The compiler's intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the function's feature has the instruction, which touches nothing but its three registers.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// SMMLA: add the products of two rows of eight bytes with two others, `[a0 b0, a0 b1, a1 b0, a1 b1]`. The compiler's
/// intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(super) fn smmla(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the function's feature has the instruction, which touches nothing but its three registers.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}
