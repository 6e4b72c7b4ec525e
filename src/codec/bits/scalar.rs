//! The portable path, which also does the tails of the others.

use std::mem::MaybeUninit;

/// See [`super::pack`].
pub(super) fn pack(values: &[i8], out: &mut [MaybeUninit<u8>]) {
    for (byte, eight) in out.iter_mut().zip(values.as_chunks::<8>().0) {
        let word = u64::from_le_bytes(eight.map(i8::cast_unsigned));
        // The inverted sign of value i is at bit 8 i; the product sums them at bits 56..64 in order, since no two terms
        // meet below bit 56 with a carry.
        let signs = (!word >> 7) & 0x0101_0101_0101_0101;
        byte.write((signs.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8);
    }
}

/// One row of [`super::unpack_signs`].
pub(super) fn unpack_signs(bits: &[u8], out: &mut [MaybeUninit<u8>]) {
    for (eight, &byte) in out.chunks_mut(8).zip(bits) {
        for (bit, value) in eight.iter_mut().enumerate() {
            value.write(if byte >> bit & 1 == 0 { 0xFF } else { 1 });
        }
    }
}
