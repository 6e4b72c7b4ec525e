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
    let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(block.as_ptr()) };
    let registers = [a, b, c, d];
    let any = |[a, b, c, d]: [uint8x16_t; 4]| vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d));
    let is = |register, byte| vceqq_u8(register, vdupq_n_u8(byte));
    let escapes = registers.map(|register| {
        let low = vcltq_u8(register, vdupq_n_u8(0x20));
        vorrq_u8(low, vorrq_u8(is(register, b'"'), is(register, b'\\')))
    });
    // One bit for each of the three questions, so that one reduction decides them.
    let (escape, less_than) = (any(escapes), any(registers.map(|register| is(register, b'<'))));
    let flags = vbslq_u8(vdupq_n_u8(1), escape, vbslq_u8(vdupq_n_u8(2), less_than, any(registers)));
    let halves = vreinterpretq_u64_u8(flags);
    let flags = vgetq_lane_u64::<0>(halves) | vgetq_lane_u64::<1>(halves);
    let has = |bit: u8| flags & u64::from_ne_bytes([bit; 8]) != 0;
    let [a, b, c, d] = escapes;
    Found {
        // Few blocks have any.
        escapes: if has(1) { vget_lane_u64::<0>(vreinterpret_u64_u8(high_bits(uint8x16x4_t(a, b, c, d)))) } else { 0 },
        less_than: has(2),
        non_ascii: has(0x80),
    }
}
