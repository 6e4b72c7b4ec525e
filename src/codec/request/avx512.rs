//! AVX-512 BW: a block is one register, and a comparison gives a bit a byte.
#![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

use std::arch::x86_64::*;

use super::kernel::{BLOCK, Found, Kernel, Task};

/// Proof that the CPU has AVX-512 F and BW: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Avx512(());

impl Kernel for Avx512 {
    #[inline(always)]
    fn find(self, block: &[u8; BLOCK]) -> Found {
        // SAFETY: a value of this type exists, so the CPU has the features.
        unsafe { find(block) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx512(()))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn find(block: &[u8; BLOCK]) -> Found {
    // SAFETY: `block` is 64 bytes.
    let bytes = unsafe { _mm512_loadu_epi8(block.as_ptr().cast()) };
    let is = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
    Found {
        escapes: _mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(0x20)) | is(b'"') | is(b'\\'),
        less_than: is(b'<') != 0,
        non_ascii: _mm512_movepi8_mask(bytes) != 0,
    }
}
