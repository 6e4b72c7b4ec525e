//! Packed bits, least significant bit first: bit `i` of a vector is bit `i % 8` of byte `i / 8`.
//!
//! Each function has one portable body, written on whole words, and compiles it once more for each instruction set;
//! packing, where one instruction collects the signs of a register, has kernels of its own.

use std::mem::MaybeUninit;

use crate::isa::Isa;

/// Dispatch `$portable` to a copy compiled for each instruction set.
macro_rules! compiled_for_each_isa {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),*) => $portable:ident) => {
        $(#[$doc])*
        pub fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) { $portable($($arg),*); }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
                fn avx512($($arg: $type),*) { $portable($($arg),*); }
                match isa.min(Isa::codec()) {
                    // SAFETY: `Isa::codec` names this path only where the CPU has the features it enables.
                    #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
                    Isa::Amx | Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
                    Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    Isa::Scalar => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            $portable($($arg),*);
        }
    };
}
pub(super) use compiled_for_each_isa;

/// Pack the signs of `values`: bit 1 where a value is >= 0. `values` is eight times as long as `out`, all of which is
/// written. Rows need no care: a row of a multiple of eight values ends on a byte.
pub fn pack(isa: Isa, values: &[i8], out: &mut [MaybeUninit<u8>]) {
    assert_eq!(values.len(), out.len() * 8, "eight values a byte");
    #[cfg(target_arch = "x86_64")]
    let done = match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { x86::pack_avx512(values, out) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { x86::pack_avx2(values, out) },
        Isa::Scalar => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = {
        let _ = isa;
        0
    };
    for (byte, eight) in out[done..].iter_mut().zip(values[done * 8..].as_chunks::<8>().0) {
        let word = u64::from_le_bytes(eight.map(i8::cast_unsigned));
        // The inverted sign of value i stands at bit 8 i; the product sums them at bits 56..64 in order, since no
        // two terms meet below bit 56 with a carry.
        let signs = (!word >> 7) & 0x0101_0101_0101_0101;
        byte.write((signs.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    /// Pack whole registers; returns the bytes written.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn pack_avx512(values: &[i8], out: &mut [MaybeUninit<u8>]) -> usize {
        let (targets, _) = out.as_chunks_mut::<8>();
        for (target, block) in targets.iter_mut().zip(values.as_chunks::<64>().0) {
            // SAFETY: `block` is 64 bytes.
            let signs = _mm512_movepi8_mask(unsafe { _mm512_loadu_epi8(block.as_ptr()) });
            *target = (!signs).to_le_bytes().map(MaybeUninit::new);
        }
        targets.len() * 8
    }

    /// An output beyond this leaves no cache warm: its lines are written past the caches, without being read first.
    const STREAMED: usize = 1 << 25;

    /// Unpack whole registers to +1 and -1; returns the bytes of bits read.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn unpack_signs_avx512(bits: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
        let (minus, plus) = (_mm512_set1_epi8(-1), _mm512_set1_epi8(1));
        let signs = |word: [u8; 8]| _mm512_mask_blend_epi8(u64::from_le_bytes(word), minus, plus);
        // A store that straddles two lines costs two, so what stands before the first line is stored by itself.
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

    /// Unpack whole registers to +1 and -1; returns the bytes of bits read.
    #[target_feature(enable = "avx2")]
    pub(super) fn unpack_signs_avx2(bits: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
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

    /// Pack whole registers; returns the bytes written.
    #[target_feature(enable = "avx2")]
    pub(super) fn pack_avx2(values: &[i8], out: &mut [MaybeUninit<u8>]) -> usize {
        let (targets, _) = out.as_chunks_mut::<4>();
        for (target, block) in targets.iter_mut().zip(values.as_chunks::<32>().0) {
            // SAFETY: `block` is 32 bytes.
            let signs = _mm256_movemask_epi8(unsafe { _mm256_loadu_si256(block.as_ptr().cast()) });
            *target = (!signs).to_le_bytes().map(MaybeUninit::new);
        }
        targets.len() * 4
    }
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
    #[cfg(target_arch = "x86_64")]
    let done = match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { x86::unpack_signs_avx512(bits, out) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { x86::unpack_signs_avx2(bits, out) },
        Isa::Scalar => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = {
        let _ = isa;
        0
    };
    let sign = |byte: u8, bit: usize| MaybeUninit::new(if byte >> bit & 1 == 0 { 0xFF } else { 1 });
    for (eight, &byte) in out[done * 8..].chunks_mut(8).zip(&bits[done..]) {
        for (bit, value) in eight.iter_mut().enumerate() {
            *value = sign(byte, bit);
        }
    }
}

/// Prove that rows of `width` bytes fill `length` values, `dimensions` of each row: all of them are then written.
fn check_unpacked(bytes: usize, width: usize, dimensions: usize, length: usize) {
    let fits = dimensions <= width * 8 && bytes.is_multiple_of(width) && bytes / width * dimensions == length;
    assert!(fits, "{bytes} bytes in rows of {width} are not {length} values, {dimensions} a row");
}

/// A value that a bit can become.
pub trait FromBit: Copy {
    /// What a clear bit becomes.
    const ZERO: Self;
    /// What a set bit becomes.
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

compiled_for_each_isa! {
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
    fn packing_equals_the_definition_on_every_path() {
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
    fn unpacking_equals_the_definition_on_every_path() {
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
    fn unpacking_writes_its_output_alone_wherever_that_begins() {
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
    fn unpacking_more_than_a_cache_holds_equals_the_portable_path() {
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
