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

/// Bytes in registers, four or two by one instruction.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load<const N: usize>(steps: &[[u8; STEP]; N]) -> [uint8x16_t; N] {
    let mut registers = [vdupq_n_u8(0); N];
    let start = steps.as_ptr().cast();
    // SAFETY: the array is so many times 16 bytes, and the loads need no alignment.
    unsafe {
        match N {
            4 => {
                let four = vld1q_u8_x4(start);
                registers.copy_from_slice(&[four.0, four.1, four.2, four.3]);
            }
            2 => {
                let two = vld1q_u8_x2(start);
                registers.copy_from_slice(&[two.0, two.1]);
            }
            _ => {
                for (register, step) in registers.iter_mut().zip(steps) {
                    *register = vld1q_u8(step.as_ptr());
                }
            }
        }
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

/// Four rows from `at` on; the last row stands in for those that are missing.
#[inline]
pub(super) fn four<'a, E>(rows: &Matrix<'a, E>, at: usize) -> [&'a [E]; ROWS] {
    let last = rows.len() - 1;
    [0, 1, 2, 3].map(|row| rows.row((at + row).min(last)))
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
