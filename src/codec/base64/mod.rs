//! Standard base64 (RFC 4648, section 4): padding required, one spelling a value.
//!
//! A SIMD path only says whether the whole text is well formed; the scalar path produces all errors, so that kind and
//! offset are the same on every path.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::mem::MaybeUninit;

use crate::error::{DecodeError, DecodeKind};
use crate::isa::Isa;

pub(crate) use kernel::{Kernel, Task};
use scalar::value as char_value;

/// Characters of the encoding of `bytes` bytes, padding included; None where that overflows.
pub fn encoded_len(bytes: usize) -> Option<usize> {
    bytes.div_ceil(3).checked_mul(4)
}

/// Bytes that `text` decodes to, judged by its length and padding alone.
pub fn decoded_len(text: &[u8]) -> usize {
    let padding = text.iter().rev().take(2).take_while(|&&c| c == b'=').count();
    (text.len() - padding) * 3 / 4
}

/// Decode `text`, which must be the encoding of exactly `out.len()` bytes. On `Ok` every byte of `out` is written.
///
/// # Errors
/// The first fault from the left, `offset` counting from the start of `text`; after that, a length other than the
/// expected one.
pub fn decode_exact(isa: Isa, text: &[u8], out: &mut [MaybeUninit<u8>]) -> Result<(), DecodeError> {
    if encoded_len(out.len()) == Some(text.len()) && decode_well_formed(isa, text, out) {
        return Ok(());
    }
    Err(explain(text, out.len()))
}

/// Decode `text`; false at anything that is not the one canonical spelling of `out.len()` bytes, with `out` then partly
/// written. On true every byte of `out` is written, whatever the two lengths are: unsafe code relies on it.
#[inline]
pub(crate) fn decode_well_formed(isa: Isa, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    struct One<'a>(&'a [u8], &'a mut [MaybeUninit<u8>]);
    impl Task for One<'_> {
        type Output = bool;
        #[inline(always)]
        fn run(self, kernel: impl Kernel) -> bool {
            kernel.decode_well_formed(self.0, self.1)
        }
    }
    run(isa, One(text, out))
}

/// Run `task` on the best path up to `isa`.
#[inline]
pub(crate) fn run<T: Task>(isa: Isa, task: T) -> T::Output {
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F, BW, VL and VBMI.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::run(task) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::run(task) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::run(task) },
        Isa::Scalar => task.run(scalar::Scalar),
    }
}

/// Why `text` is not the encoding of `expected` bytes. Every path takes its errors from here.
pub(crate) fn explain(text: &[u8], expected: usize) -> DecodeError {
    let mut check = Check::new(Some(expected), expected);
    for (offset, &byte) in text.iter().enumerate() {
        if let Err(error) = check.push(byte, offset) {
            return error;
        }
    }
    match check.finish(text.len()) {
        Err(error) => error,
        // Not reached while the paths agree, for text that passes here decodes. An error is better than a panic.
        Ok(()) => DecodeError::new(DecodeKind::Length, text.len(), "base64 text was refused by one path only"),
    }
}

/// Checks one base64 string character by character, and finds its first fault from the left.
///
/// The response parser uses it too: its strings may hold JSON escapes, and so come one character at a time.
pub(crate) struct Check {
    /// Bytes the string must decode to, where that is known.
    expected: Option<usize>,
    /// Bytes it may decode to at most.
    most: usize,
    /// Alphabet characters so far.
    characters: usize,
    padding: usize,
    last: u8,
}

impl Check {
    pub(crate) fn new(expected: Option<usize>, most: usize) -> Self {
        Self { expected, most: expected.unwrap_or(most), characters: 0, padding: 0, last: 0 }
    }

    /// Check the next character, which is at `offset`.
    pub(crate) fn push(&mut self, byte: u8, offset: usize) -> Result<(), DecodeError> {
        if byte == b'=' {
            self.padding += 1;
            let whole = (self.characters + self.padding).is_multiple_of(4);
            if self.characters % 4 < 2 || self.padding > 2 || (self.padding == 2 && !whole) {
                return Err(DecodeError::new(
                    DecodeKind::Base64Padding,
                    offset,
                    format!("padding after {} base64 characters is not where it belongs", self.characters),
                ));
            }
            return Ok(());
        }
        let Some(value) = char_value(byte) else {
            return Err(DecodeError::new(
                DecodeKind::Base64Byte,
                offset,
                format!("byte {byte:#04x} ({}) is not in the base64 alphabet", byte.escape_ascii()),
            ));
        };
        if self.padding > 0 {
            return Err(DecodeError::new(DecodeKind::Base64Padding, offset, "base64 characters follow padding"));
        }
        if self.characters == characters_of(self.most) {
            return Err(DecodeError::new(
                DecodeKind::Length,
                offset,
                format!("vector is longer than {} bytes", self.most),
            ));
        }
        self.characters += 1;
        self.last = value;
        Ok(())
    }

    /// Check the end of the string, which is at `offset`.
    pub(crate) fn finish(self, offset: usize) -> Result<(), DecodeError> {
        let partial = self.characters % 4;
        if partial == 1 || !(self.characters + self.padding).is_multiple_of(4) {
            return Err(DecodeError::new(
                DecodeKind::Base64Padding,
                offset,
                format!(
                    "base64 text of {} characters and {} padding is not a multiple of 4",
                    self.characters, self.padding
                ),
            ));
        }
        // Two characters carry 12 bits for 8, three carry 18 for 16: the rest must be zero (RFC 4648, 3.5).
        let rest = match partial {
            2 => self.last & 0b1111,
            3 => self.last & 0b11,
            _ => 0,
        };
        if rest != 0 {
            return Err(DecodeError::new(
                DecodeKind::Base64TrailingBits,
                offset - self.padding - 1,
                "unused bits of the last base64 character are not zero",
            ));
        }
        let bytes = self.characters * 3 / 4;
        if let Some(expected) = self.expected
            && bytes != expected
        {
            return Err(DecodeError::new(
                DecodeKind::Length,
                offset,
                format!("vector has {bytes} bytes, expected {expected}"),
            ));
        }
        Ok(())
    }
}

/// Alphabet characters (padding not counted) of `bytes` bytes.
fn characters_of(bytes: usize) -> usize {
    bytes / 3 * 4 + [0, 2, 3][bytes % 3]
}

/// Append the encoding of `bytes` to `out`.
pub fn encode_into(isa: Isa, bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let read = match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F, BW, VL and VBMI.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::encode_prefix(bytes, out) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::encode_prefix(bytes, out) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::encode_prefix(bytes, out) },
        Isa::Scalar => 0,
    };
    scalar::encode_into(&bytes[read..], out);
}

#[cfg(test)]
mod tests {
    use ::base64::Engine as _;
    use ::base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// Decode with guard bytes around the output, which must survive.
    fn decode(isa: Isa, text: &[u8], expected: usize) -> Result<Vec<u8>, DecodeError> {
        const GUARD: usize = 80;
        let mut memory = vec![MaybeUninit::new(0xA5_u8); expected + 2 * GUARD];
        let result = decode_exact(isa, text, &mut memory[GUARD..GUARD + expected]);
        let memory: Vec<u8> = memory.into_iter().map(read).collect();
        assert!(memory[..GUARD].iter().chain(&memory[GUARD + expected..]).all(|&b| b == 0xA5), "{isa:?} wrote outside");
        result.map(|()| memory[GUARD..GUARD + expected].to_vec())
    }

    #[expect(unsafe_code, reason = "reads memory that the test initialised")]
    fn read(byte: MaybeUninit<u8>) -> u8 {
        // SAFETY: `decode` makes the memory from initialised bytes.
        unsafe { byte.assume_init() }
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 167 + 13) as u8).collect()
    }

    #[test]
    fn every_length_round_trips_on_every_path() {
        for length in 0..=515 {
            let bytes = sample(length);
            let text = STANDARD.encode(&bytes);
            for isa in Isa::ALL {
                let mut encoded = b"before".to_vec();
                encode_into(isa, &bytes, &mut encoded);
                assert_eq!(&encoded[6..], text.as_bytes(), "{isa:?} {length}");
                assert_eq!(decode(isa, text.as_bytes(), length).as_ref(), Ok(&bytes), "{isa:?} {length}");
            }
        }
    }

    #[test]
    fn every_byte_at_every_position_gives_the_same_result_on_every_path() {
        for length in [1, 2, 3, 47, 48, 49, 50, 95, 97, 128] {
            let text = STANDARD.encode(sample(length)).into_bytes();
            for position in 0..text.len() {
                for byte in 0..=255 {
                    let mut changed = text.clone();
                    changed[position] = byte;
                    let scalar = decode(Isa::Scalar, &changed, length);
                    for isa in Isa::ALL {
                        assert_eq!(decode(isa, &changed, length), scalar, "{isa:?}: {length} {position} {byte}");
                    }
                    let reference = STANDARD.decode(&changed).ok().filter(|bytes| bytes.len() == length);
                    assert_eq!(scalar.ok(), reference, "{length} {position} {byte}");
                }
            }
        }
    }

    #[test]
    fn only_text_of_the_right_length_writes_all_of_the_output() {
        for length in 0..200 {
            let text = STANDARD.encode(sample(length));
            for isa in Isa::ALL {
                for shorter in 0..text.len() {
                    assert!(!decode_well_formed(
                        isa,
                        &text.as_bytes()[..shorter],
                        &mut vec![MaybeUninit::new(0); length]
                    ));
                }
                assert!(!decode_well_formed(
                    isa,
                    format!("{text}AAAA").as_bytes(),
                    &mut vec![MaybeUninit::new(0); length]
                ));
            }
        }
    }

    #[test]
    fn errors_name_the_first_fault_from_the_left() {
        assert_eq!(decode(Isa::Scalar, b"AQI=", 2).unwrap(), [1, 2]);
        let cases: [(&[u8], usize, DecodeKind, usize); 11] = [
            (b"AQI", 2, DecodeKind::Base64Padding, 3),
            (b"AQJ=", 2, DecodeKind::Base64TrailingBits, 2),
            (b"AQ==", 2, DecodeKind::Length, 4),
            (b"AR==", 1, DecodeKind::Base64TrailingBits, 1),
            (b"A===", 1, DecodeKind::Base64Padding, 1),
            (b"AQID=", 3, DecodeKind::Base64Padding, 4),
            (b"AQ=D", 2, DecodeKind::Base64Padding, 3),
            (b"AQI*", 3, DecodeKind::Base64Byte, 3),
            (b"AQ-_", 3, DecodeKind::Base64Byte, 2),
            (b"AQIDBA==", 3, DecodeKind::Length, 4),
            (b"", 1, DecodeKind::Length, 0),
        ];
        for (text, expected, kind, offset) in cases {
            for isa in Isa::ALL {
                let error = decode(isa, text, expected).expect_err("the text is wrong");
                assert_eq!((error.kind, error.offset), (kind, offset), "{}", text.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_as_the_reference_crate_decodes_them(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let expected = decoded_len(&text);
            for isa in Isa::ALL {
                let reference = STANDARD.decode(&text).ok().filter(|bytes| bytes.len() == expected);
                prop_assert_eq!(decode(isa, &text, expected).ok(), reference);
            }
        }
    }
}
