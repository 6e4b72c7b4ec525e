//! AVX2: one instruction collects the signs of 32 bytes.
#![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Pack whole registers; returns the bytes written.
#[target_feature(enable = "avx2")]
pub(super) fn pack(values: &[i8], out: &mut [MaybeUninit<u8>]) -> usize {
    let (targets, _) = out.as_chunks_mut::<4>();
    for (target, block) in targets.iter_mut().zip(values.as_chunks::<32>().0) {
        // SAFETY: `block` is 32 bytes.
        let signs = _mm256_movemask_epi8(unsafe { _mm256_loadu_si256(block.as_ptr().cast()) });
        *target = (!signs).to_le_bytes().map(MaybeUninit::new);
    }
    targets.len() * 4
}

/// Unpack whole registers to +1 and -1; returns the bytes of bits read.
#[target_feature(enable = "avx2")]
pub(super) fn unpack_signs(bits: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
    // Lane i of a 128-bit half gets byte i / 8 of that half's two, and keeps its bit i % 8.
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let (targets, _) = out.as_chunks_mut::<32>();
    let words = bits.as_chunks::<4>().0;
    for (target, word) in targets.iter_mut().zip(words) {
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*word)), spread);
        let clear = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), _mm256_setzero_si256());
        // All ones where the bit is clear, which is -1, and 1 where it is set.
        let signs = _mm256_or_si256(clear, _mm256_set1_epi8(1));
        // SAFETY: `target` is 32 bytes.
        unsafe { _mm256_storeu_si256(target.as_mut_ptr().cast(), signs) };
    }
    targets.len().min(words.len()) * 4
}
