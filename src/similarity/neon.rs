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

/// Bytes in registers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load<const N: usize>(steps: &[[u8; STEP]; N]) -> [uint8x16_t; N] {
    let mut registers = [vdupq_n_u8(0); N];
    for (register, step) in registers.iter_mut().zip(steps) {
        // SAFETY: a step is 16 bytes, and the load needs no alignment.
        *register = unsafe { vld1q_u8(step.as_ptr()) };
    }
    registers
}

/// Elements in registers, see [`load`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_signed<const N: usize>(steps: &[[i8; STEP]; N]) -> [int8x16_t; N] {
    // SAFETY: the two types have one size, and any bits are a value of either.
    let registers = load(unsafe { &*std::ptr::from_ref(steps).cast() });
    registers.map(|register| vreinterpretq_s8_u8(register))
}

/// The first `count` blocks of `N` registers of each vector. Seeing one length, the compiler leaves out checks.
#[inline]
pub(super) fn blocks<E, const N: usize, const V: usize>(vectors: [&[E]; V], count: usize) -> [&[[[E; STEP]; N]]; V] {
    vectors.map(|vector| &vector.as_chunks().0.as_chunks().0[..count])
}

/// The block `at` of each vector.
#[inline]
pub(super) fn each<B, const V: usize>(vectors: [&[B]; V], at: usize) -> [&B; V] {
    vectors.map(|blocks| &blocks[at])
}

/// What follows the whole registers of a vector, `steps` of them, and zeros.
#[inline]
pub(super) fn padded<E: Copy + Default>(values: &[E], steps: usize) -> [[E; STEP]; 1] {
    let (mut array, rest) = ([E::default(); STEP], &values[steps * STEP..]);
    array[..rest.len()].copy_from_slice(rest);
    [array]
}

/// Rows by fours. In the last four, the last row stands in for those that are missing.
pub(super) struct Fours<'a, E> {
    data: &'a [E],
    width: usize,
    stride: usize,
}

impl<'a, E> Fours<'a, E> {
    pub(super) fn of(rows: &Matrix<'a, E>) -> Self {
        Self { data: rows.from(0), width: rows.width(), stride: rows.stride() }
    }
}

impl<'a, E> Iterator for Fours<'a, E> {
    type Item = [&'a [E]; ROWS];

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let start = self.data.as_ptr();
        let rows = if let Some((_, rest)) = self.data.split_at_checked(ROWS * self.stride) {
            self.data = rest;
            [0, 1, 2, 3]
        } else {
            let last = (self.data.len() / self.stride).checked_sub(1)?;
            self.data = &[];
            [0, 1, 2, 3].map(|row| last.min(row))
        };
        // SAFETY: the data has a stride of elements for each of these rows, and the width of a matrix is at most its
        // stride. Checks of four slices would cost as many instructions as a short row.
        Some(rows.map(|row| unsafe { std::slice::from_raw_parts(start.add(row * self.stride), self.width) }))
    }
}

/// Write the scores of four rows; of the last rows, those for which there is a place.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(scores: int32x4_t, out: &mut [i32]) {
    if let Some(out) = out.first_chunk_mut::<ROWS>() {
        // SAFETY: `out` is four i32, 16 bytes, and the store needs no alignment.
        unsafe { vst1q_s32(out.as_mut_ptr(), scores) };
        return;
    }
    let mut four = [0; ROWS];
    // SAFETY: as above.
    unsafe { vst1q_s32(four.as_mut_ptr(), scores) };
    out.copy_from_slice(&four[..out.len()]);
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
