//! NEON: 128 values a step.
#![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

use std::arch::aarch64::*;
use std::mem::MaybeUninit;

use crate::isa::neon::high_bits;

/// Pack whole blocks; returns the bytes written.
#[target_feature(enable = "neon")]
pub(super) fn pack(values: &[i8], out: &mut [MaybeUninit<u8>]) -> usize {
    let (targets, _) = out.as_chunks_mut::<16>();
    for (target, block) in targets.iter_mut().zip(values.as_chunks::<128>().0) {
        let block = block.as_ptr().cast();
        // SAFETY: `block` is 128 bytes, two times 64.
        let [low, high] = unsafe { [vld4q_u8(block), vld4q_u8(block.add(64))] };
        let signs = vcombine_u8(high_bits(low), high_bits(high));
        // SAFETY: `target` is 16 bytes.
        unsafe { vst1q_u8(target.as_mut_ptr().cast(), vmvnq_u8(signs)) };
    }
    targets.len() * 16
}

/// Unpack whole blocks to +1 and -1; returns the bytes of bits read.
#[target_feature(enable = "neon")]
pub(super) fn unpack_signs(bits: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
    let one = vdupq_n_u8(1);
    // Lane i of a register keeps bit i % 8.
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    // The bytes of the first register: eight lanes of byte 0, then eight of byte 1. Each register reads two bytes on.
    let first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    let indexes: [uint8x16_t; 8] = std::array::from_fn(|i| vaddq_u8(first, vdupq_n_u8(2 * i as u8)));
    let (targets, _) = out.as_chunks_mut::<128>();
    let blocks = bits.as_chunks::<16>().0;
    for (target, block) in targets.iter_mut().zip(blocks) {
        // SAFETY: `block` is 16 bytes.
        let bytes = unsafe { vld1q_u8(block.as_ptr()) };
        for (index, sixteen) in indexes.iter().zip(target.as_chunks_mut::<16>().0) {
            // All ones where the bit is set.
            let set = vtstq_u8(vqtbl1q_u8(bytes, *index), bit);
            // 1 | 0 is 1 where it is set, and 1 | 0xFF is -1 where it is clear.
            let signs = vornq_u8(one, set);
            // SAFETY: `sixteen` is 16 bytes.
            unsafe { vst1q_u8(sixteen.as_mut_ptr().cast(), signs) };
        }
    }
    targets.len().min(blocks.len()) * 16
}
