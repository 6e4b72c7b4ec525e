//! What several kernels need and NEON has no instruction for.

use std::arch::aarch64::*;

/// The high bit of each of 64 bytes, which `vld4q_u8` has loaded: bit `i` is that of byte `i` in memory.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn high_bits(uint8x16x4_t(a, b, c, d): uint8x16x4_t) -> uint8x8_t {
    // Lane i of the registers holds bytes 4i, 4i + 1, 4i + 2 and 4i + 3. An insertion puts the high bits of one below
    // those of the other: `ba......`, `dc......`, `dcba....`, `dcbadcba`.
    let (ba, dc) = (vsriq_n_u8::<1>(b, a), vsriq_n_u8::<1>(d, c));
    let dcba = vsriq_n_u8::<2>(dc, ba);
    let twice = vsriq_n_u8::<4>(dcba, dcba);
    // The high half of each even lane below the low half of the odd lane after it.
    vshrn_n_u16::<4>(vreinterpretq_u16_u8(twice))
}
