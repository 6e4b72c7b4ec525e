//! AVX2: a block is two registers.
#![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

use std::arch::x86_64::*;

use super::kernel::{BLOCK, Found, Kernel, Task};

/// Proof that the CPU has AVX2: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Avx2(());

impl Kernel for Avx2 {
    #[inline(always)]
    fn find(self, block: &[u8; BLOCK]) -> Found {
        // SAFETY: a value of this type exists, so the CPU has the feature.
        unsafe { find(block) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "avx2")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

#[inline]
#[target_feature(enable = "avx2")]
fn find(block: &[u8; BLOCK]) -> Found {
    // SAFETY: `block` is 64 bytes, two times 32.
    let halves =
        unsafe { [_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block[32..].as_ptr().cast())] };
    let bits = |mask: [__m256i; 2]| {
        let [low, high] = mask.map(|half| u64::from(_mm256_movemask_epi8(half) as u32));
        low | high << 32
    };
    let is = |half, byte: u8| _mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte as i8));
    // Below 0x20, without a sign: the smaller of it and 0x1F is itself.
    let low = |half| _mm256_cmpeq_epi8(_mm256_min_epu8(half, _mm256_set1_epi8(0x1F)), half);
    let escape = |half| _mm256_or_si256(low(half), _mm256_or_si256(is(half, b'"'), is(half, b'\\')));
    Found {
        escapes: bits(halves.map(escape)),
        less_than: bits(halves.map(|half| is(half, b'<'))) != 0,
        non_ascii: bits(halves) != 0,
    }
}
