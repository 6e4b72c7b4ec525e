//! Packed bits, least significant bit first: bit `i` of a vector is bit `i % 8` of byte `i / 8`.
//!
//! Where one instruction packs or unpacks a register there are kernels; the rest is portable and multiversioned.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::mem::MaybeUninit;

use super::multiversion::multiversion;
use crate::isa::Isa;

/// Pack the signs of `values`: bit 1 where a value is >= 0. `values` is eight times as long as `out`, all of which is
/// written. Rows need no care: a row of a multiple of eight values ends on a byte.
pub fn pack(isa: Isa, values: &[i8], out: &mut [MaybeUninit<u8>]) {
    assert_eq!(values.len(), out.len() * 8, "eight values a byte");
    let done = match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::pack(values, out) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::pack(values, out) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::pack(values, out) },
        Isa::Scalar => 0,
    };
    scalar::pack(&values[done * 8..], &mut out[done..]);
}

/// Unpack the first `dimensions` bits of each row of `width` bytes to +1 and -1, as the bytes of int8, row after row.
///
/// All of `out` is written, which has `dimensions` values for each row.
pub fn unpack_signs(isa: Isa, bits: &[u8], width: usize, dimensions: usize, out: &mut [MaybeUninit<u8>]) {
    check_unpacked(bits.len(), width, dimensions, out.len());
    if dimensions == width * 8 {
        return unpack_row(isa, bits, out); // the rows are one long row
    }
    for (row, target) in bits.chunks_exact(width).zip(out.chunks_exact_mut(dimensions)) {
        unpack_row(isa, row, target);
    }
}

fn unpack_row(isa: Isa, bits: &[u8], out: &mut [MaybeUninit<u8>]) {
    let done = match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::unpack_signs(bits, out) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::unpack_signs(bits, out) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::unpack_signs(bits, out) },
        Isa::Scalar => 0,
    };
    scalar::unpack_signs(&bits[done..], &mut out[done * 8..]);
}

/// Check that rows of `width` bytes fill `length` values, `dimensions` of each row: all of them are then written.
fn check_unpacked(bytes: usize, width: usize, dimensions: usize, length: usize) {
    let fits = dimensions <= width * 8 && bytes.is_multiple_of(width) && bytes / width * dimensions == length;
    assert!(fits, "{bytes} bytes in rows of {width} are not {length} values, {dimensions} a row");
}

/// A type that bits are unpacked to.
pub trait FromBit: Copy {
    /// The value of a clear bit.
    const ZERO: Self;
    /// The value of a set bit.
    const ONE: Self;
}

impl FromBit for f32 {
    const ZERO: Self = -1.0;
    const ONE: Self = 1.0;
}

impl FromBit for bool {
    const ZERO: Self = false;
    const ONE: Self = true;
}

/// Unpack the first `dimensions` bits of each row of `width` bytes to `out`, row after row.
///
/// All of `out` is written, which has `dimensions` values for each row.
pub fn unpack<T: FromBit>(isa: Isa, bits: &[u8], width: usize, dimensions: usize, out: &mut [MaybeUninit<T>]) {
    #[inline(always)]
    fn portable<T: FromBit>(bits: &[u8], width: usize, dimensions: usize, out: &mut [MaybeUninit<T>]) {
        for (row, target) in bits.chunks_exact(width).zip(out.chunks_exact_mut(dimensions)) {
            let (eights, rest) = target.as_chunks_mut::<8>();
            for (eight, &byte) in eights.iter_mut().zip(row) {
                // One bit a lane: the compiler turns this into a broadcast, a mask and a blend.
                *eight =
                    std::array::from_fn(|bit| MaybeUninit::new(if byte & (1 << bit) == 0 { T::ZERO } else { T::ONE }));
            }
            for (bit, value) in rest.iter_mut().enumerate() {
                value.write(if row[eights.len()] & (1 << bit) == 0 { T::ZERO } else { T::ONE });
            }
        }
    }
    check_unpacked(bits.len(), width, dimensions, out.len());
    // NEON is among the features that all code for aarch64 is compiled with.
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<T: FromBit>(bits: &[u8], width: usize, dimensions: usize, out: &mut [MaybeUninit<T>]) {
            portable(bits, width, dimensions, out);
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
        fn avx512<T: FromBit>(bits: &[u8], width: usize, dimensions: usize, out: &mut [MaybeUninit<T>]) {
            portable(bits, width, dimensions, out);
        }
        match isa.min(Isa::codec()) {
            // SAFETY: `Isa::codec` names this path only where the CPU has the features it enables.
            #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
            Isa::Amx | Isa::Avx512 => return unsafe { avx512(bits, width, dimensions, out) },
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
            Isa::Avx2 => return unsafe { avx2(bits, width, dimensions, out) },
            Isa::Scalar => {}
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    portable(bits, width, dimensions, out);
}

multiversion! {
    /// Reverse the bits within each byte: least significant first to most significant first and back. `out` is as long
    /// as `bits`, and all of it is written.
    pub fn reverse(bits: &[u8], out: &mut [MaybeUninit<u8>]) => reverse_portable
}

#[inline(always)]
fn reverse_portable(bits: &[u8], out: &mut [MaybeUninit<u8>]) {
    assert_eq!(bits.len(), out.len(), "a byte for each byte");
    for (target, byte) in out.iter_mut().zip(bits) {
        target.write(byte.reverse_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "reads memory that the function under test must have written")]
    fn collect<T: Copy>(length: usize, poison: T, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
        let mut memory = vec![MaybeUninit::new(poison); length];
        fill(&mut memory);
        // SAFETY: every element was initialised with `poison`.
        memory.into_iter().map(|value| unsafe { value.assume_init() }).collect()
    }

    fn bits_of(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 151 + 7) as u8).collect()
    }

    #[test]
    fn packing_follows_the_definition_on_every_path() {
        for bytes in 0..=130 {
            let values: Vec<i8> = (0..bytes * 8).map(|i| [-128, -1, 0, 1, 127][i * 7 % 5]).collect();
            let expected: Vec<u8> = values
                .chunks(8)
                .map(|eight| eight.iter().enumerate().map(|(bit, &v)| u8::from(v >= 0) << bit).sum())
                .collect();
            for isa in Isa::ALL {
                assert_eq!(collect(bytes, 0xA5, |out| pack(isa, &values, out)), expected, "{isa:?} {bytes}");
            }
        }
    }

    #[test]
    fn unpacking_follows_the_definition_on_every_path() {
        for width in 1..=40 {
            for dimensions in (1..=width * 8).rev().take(17) {
                let bits = bits_of(width * 3);
                let expected: Vec<i8> = bits
                    .chunks(width)
                    .flat_map(|row| (0..dimensions).map(|i| if row[i / 8] >> (i % 8) & 1 == 1 { 1 } else { -1 }))
                    .collect();
                for isa in Isa::ALL {
                    let got = collect(3 * dimensions, 99, |out| unpack_signs(isa, &bits, width, dimensions, out));
                    assert!(got.iter().map(|&v| v.cast_signed()).eq(expected.iter().copied()), "{isa:?} {width}");
                    let got = collect(3 * dimensions, 9.0, |out| unpack::<f32>(isa, &bits, width, dimensions, out));
                    assert!(got.iter().copied().eq(expected.iter().map(|&v| f32::from(v))), "{isa:?} {width}");
                    let got = collect(3 * dimensions, false, |out| unpack::<bool>(isa, &bits, width, dimensions, out));
                    assert!(got.iter().copied().eq(expected.iter().map(|&v| v > 0)), "{isa:?} {width}");
                }
            }
        }
    }

    #[test]
    fn unpacking_writes_only_its_output_at_every_alignment() {
        for length in [1, 8, 60, 64, 65, 200, 515] {
            let bits = bits_of(usize::div_ceil(length, 8));
            for offset in 0..=64 {
                for isa in Isa::ALL {
                    let got = collect(offset + length + 64, 0xA5, |out| {
                        unpack_signs(isa, &bits, bits.len(), length, &mut out[offset..offset + length]);
                    });
                    let sign = |i: usize| if bits[i / 8] >> (i % 8) & 1 == 1 { 1 } else { 0xFF };
                    assert!(got[offset..offset + length].iter().copied().eq((0..length).map(sign)), "{isa:?} {length}");
                    assert!(got[..offset].iter().chain(&got[offset + length..]).all(|&byte| byte == 0xA5), "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn unpacking_past_the_caches_equals_the_portable_path() {
        let bits = bits_of((1 << 22) + 9);
        let unpacked =
            |isa| collect(bits.len() * 8, 0, |out| unpack_signs(isa, &bits, bits.len(), bits.len() * 8, out));
        assert!(unpacked(Isa::codec()) == unpacked(Isa::Scalar));
    }

    #[test]
    fn reversing_twice_is_the_identity_on_every_path() {
        for length in 0..=200 {
            let bits = bits_of(length);
            for isa in Isa::ALL {
                let once = collect(length, 0, |out| reverse(isa, &bits, out));
                assert!(once.iter().zip(&bits).all(|(a, b)| *a == b.reverse_bits()));
                assert_eq!(collect(length, 0, |out| reverse(isa, &once, out)), bits);
            }
        }
    }
}
