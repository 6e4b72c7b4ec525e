//! NEON: a block is four registers.
#![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

use std::arch::aarch64::*;

use super::kernel::{BLOCK, Found, Kernel, Task};
use crate::isa::neon::high_bits;

/// Proof that the CPU has NEON: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Neon(());

impl Kernel for Neon {
    #[inline(always)]
    fn find(self, block: &[u8; BLOCK]) -> Found {
        // SAFETY: a value of this type exists, so the CPU has the feature.
        unsafe { find(block) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "neon")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Neon(()))
}

#[inline]
#[target_feature(enable = "neon")]
fn find(block: &[u8; BLOCK]) -> Found {
    // SAFETY: `block` is 64 bytes.
    let uint8x16x4_t(a, b, c, d) = unsafe { vld1q_u8_x4(block.as_ptr()) };
    let registers = [a, b, c, d];
    let any = |[a, b, c, d]: [uint8x16_t; 4]| vmaxvq_u8(vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d)));
    Found {
        // Few blocks have any.
        escapes: if any(registers.map(|register| escape(register))) == 0 { 0 } else { escapes(block) },
        less_than: any(registers.map(|register| vceqq_u8(register, vdupq_n_u8(b'<')))) != 0,
        non_ascii: any(registers) >= 0x80,
    }
}

/// Bytes that need an escape.
#[inline]
#[target_feature(enable = "neon")]
fn escape(bytes: uint8x16_t) -> uint8x16_t {
    let is = |byte| vceqq_u8(bytes, vdupq_n_u8(byte));
    vorrq_u8(vcltq_u8(bytes, vdupq_n_u8(0x20)), vorrq_u8(is(b'"'), is(b'\\')))
}

/// A bit a byte that needs an escape.
#[inline]
#[target_feature(enable = "neon")]
fn escapes(block: &[u8; BLOCK]) -> u64 {
    // SAFETY: `block` is 64 bytes.
    let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(block.as_ptr()) };
    let bits = high_bits(uint8x16x4_t(escape(a), escape(b), escape(c), escape(d)));
    vget_lane_u64::<0>(vreinterpret_u64_u8(bits))
}
