//! AVX-512 BW: a mask register holds the signs of 64 bytes.
#![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Pack whole registers; returns the bytes written.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack(values: &[i8], out: &mut [MaybeUninit<u8>]) -> usize {
    let (targets, _) = out.as_chunks_mut::<8>();
    for (target, block) in targets.iter_mut().zip(values.as_chunks::<64>().0) {
        // SAFETY: `block` is 64 bytes.
        let signs = _mm512_movepi8_mask(unsafe { _mm512_loadu_epi8(block.as_ptr()) });
        *target = (!signs).to_le_bytes().map(MaybeUninit::new);
    }
    targets.len() * 8
}

/// Bytes from which an output is written past the caches: it would displace their contents, and its lines would be read
/// first.
const STREAMED: usize = 1 << 25;

/// Unpack whole registers to +1 and -1; returns the bytes of bits read.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn unpack_signs(bits: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
    let (minus, plus) = (_mm512_set1_epi8(-1), _mm512_set1_epi8(1));
    let signs = |word: [u8; 8]| _mm512_mask_blend_epi8(u64::from_le_bytes(word), minus, plus);
    // A store across two cache lines costs two, so the bytes before the first whole line are stored by themselves.
    let head = Some(out.as_ptr().align_offset(64)).filter(|head| head.is_multiple_of(8) && *head <= out.len());
    let head = head.unwrap_or(0);
    let (Some(first), (before, out)) = (bits.first_chunk(), out.split_at_mut(head)) else { return 0 };
    // SAFETY: the mask stores `head` bytes (< 64), the length of `before`.
    unsafe { _mm512_mask_storeu_epi8(before.as_mut_ptr().cast(), (1 << head) - 1, signs(*first)) };
    let words = bits[head / 8..].as_chunks::<8>().0;
    let streamed = out.len() >= STREAMED && out.as_ptr().align_offset(64) == 0;
    let (targets, _) = out.as_chunks_mut::<64>();
    for (target, word) in targets.iter_mut().zip(words) {
        let target = target.as_mut_ptr().cast();
        if streamed {
            // SAFETY: `target` is 64 bytes and, by the line above, aligned to 64.
            unsafe { _mm512_stream_si512(target, signs(*word)) };
        } else {
            // SAFETY: `target` is 64 bytes.
            unsafe { _mm512_storeu_si512(target, signs(*word)) };
        }
    }
    if streamed {
        _mm_sfence(); // streamed stores are ordered before whatever publishes the array
    }
    head / 8 + targets.len().min(words.len()) * 8
}
