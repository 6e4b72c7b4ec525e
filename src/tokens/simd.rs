//! Comparisons of a 64-byte block with bytes, as bit masks, on each instruction set.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    #![expect(unsafe_code, reason = "raw loads; each names the slice length that guards it")]

    use std::arch::x86_64::*;

    use super::super::byte_masks::present;

    /// The first 64 of `bytes`; where there are fewer, zeros follow.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn load(bytes: &[u8]) -> __m512i {
        // SAFETY: the mask loads only bytes of the slice, and of them the first 64.
        unsafe { _mm512_maskz_loadu_epi8(present(bytes.len()), bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn splat(byte: u8) -> __m512i {
        _mm512_set1_epi8(byte.cast_signed())
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn within(bytes: __m512i, low: u8, high: u8) -> u64 {
        _mm512_cmple_epu8_mask(_mm512_sub_epi8(bytes, splat(low)), splat(high - low))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn equal(bytes: __m512i, byte: u8) -> u64 {
        _mm512_cmpeq_epi8_mask(bytes, splat(byte))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    #![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

    use std::arch::x86_64::*;

    pub(in super::super) type Block = [__m256i; 2];

    /// The first 64 of `bytes`; where there are fewer, zeros follow.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn load(bytes: &[u8]) -> Block {
        let mut padded = [0; 64];
        let block = bytes.first_chunk().unwrap_or_else(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        });
        let block: &[u8; 64] = block;
        let (low, high) = block.split_at(32);
        // SAFETY: both halves have 32 bytes.
        unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())] }
    }

    /// The high bit of each byte.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn high_bits([low, high]: Block) -> u64 {
        let bits = |half| u64::from(_mm256_movemask_epi8(half).cast_unsigned());
        bits(high) << 32 | bits(low)
    }

    /// Bytes that are the same in both blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn same(a: Block, b: Block) -> u64 {
        high_bits([_mm256_cmpeq_epi8(a[0], b[0]), _mm256_cmpeq_epi8(a[1], b[1])])
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn within(bytes: Block, low: u8, high: u8) -> u64 {
        let (low, span) = (_mm256_set1_epi8(low.cast_signed()), _mm256_set1_epi8((high - low).cast_signed()));
        let from_low = [_mm256_sub_epi8(bytes[0], low), _mm256_sub_epi8(bytes[1], low)];
        let least = [_mm256_min_epu8(from_low[0], span), _mm256_min_epu8(from_low[1], span)];
        same(from_low, least)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn equal(bytes: Block, byte: u8) -> u64 {
        let byte = _mm256_set1_epi8(byte.cast_signed());
        same(bytes, [byte, byte])
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    #![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

    use std::arch::aarch64::*;

    /// Register `i` has bytes `i`, `i + 4`, `i + 8`...: the order in which a mask takes the fewest instructions.
    pub(in super::super) type Block = [uint8x16_t; 4];

    /// The first 64 of `bytes`; where there are fewer, zeros follow.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in super::super) fn load(bytes: &[u8]) -> Block {
        let mut padded = [0; 64];
        let block = bytes.first_chunk().unwrap_or_else(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        });
        let block: &[u8; 64] = block;
        // SAFETY: `block` is 64 bytes.
        let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(block.as_ptr()) };
        [a, b, c, d]
    }

    /// The high bit of each byte.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in super::super) fn high_bits([a, b, c, d]: Block) -> u64 {
        vget_lane_u64::<0>(vreinterpret_u64_u8(crate::isa::neon::high_bits(uint8x16x4_t(a, b, c, d))))
    }

    /// Bytes that are the same in both blocks.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in super::super) fn same(a: Block, b: Block) -> u64 {
        high_bits(std::array::from_fn(|i| vceqq_u8(a[i], b[i])))
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(in super::super) fn within(bytes: Block, low: u8, high: u8) -> u64 {
        let (low, span) = (vdupq_n_u8(low), vdupq_n_u8(high - low));
        high_bits(bytes.map(|bytes| vcleq_u8(vsubq_u8(bytes, low), span)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(in super::super) fn equal(bytes: Block, byte: u8) -> u64 {
        same(bytes, [vdupq_n_u8(byte); 4])
    }
}
