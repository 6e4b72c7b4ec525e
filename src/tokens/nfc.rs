//! NFC as the reference has it, and a fast test for text that is in NFC already.
//!
//! The reference, Hugging Face's `tokenizers`, normalises by Unicode 9. The `unicode-normalization` crate knows later
//! characters too; [`FOREIGN`] lists those whose normalisation differs, and they are left as they are. `tests/tokens`
//! compares every scalar value.

use std::borrow::Cow;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::interrupts::Poll;
use crate::error::Error;
use crate::isa::Isa;
use crate::memory;

/// Characters between two polls, a power of two.
const POLL_CHARACTERS: usize = 1 << 14;
/// Bytes of memory for each mark after a character: marks are sorted together.
const BYTES_PER_MARK: usize = 32;
/// Marks after a character whose memory is negligible.
const FEW_MARKS: usize = 1 << 12;

/// The reference's NFC of `text`.
///
/// An error is one of `poll`, or of short memory.
pub(super) fn nfc<'a>(text: &'a str, poll: &mut Poll<'_>) -> Result<Cow<'a, str>, Error> {
    if is_normal(text, poll)? {
        return Ok(Cow::Borrowed(text));
    }
    let mut normal = String::new();
    normal.try_reserve_exact(text.len())?;
    compose(text, poll, |c| {
        if normal.capacity() - normal.len() < c.len_utf8() {
            normal.try_reserve(c.len_utf8())?;
        }
        normal.push(c);
        Ok(())
    })?;
    Ok(Cow::Owned(normal))
}

/// UTF-8 bytes of the reference's NFC of `text`. Errors are those of [`nfc`].
pub(super) fn nfc_length(text: &str, poll: &mut Poll<'_>) -> Result<usize, Error> {
    if is_normal(text, poll)? {
        return Ok(text.len());
    }
    let mut length = 0;
    compose(text, poll, |c| {
        length += c.len_utf8();
        Ok(())
    })?;
    Ok(length)
}

/// Whether `text` is in NFC, as far as a quick check shows.
fn is_normal(text: &str, poll: &mut Poll<'_>) -> Result<bool, Error> {
    let mut polled = Ok(());
    let mut count = 0_usize;
    let chars = text.chars().take_while(|_| {
        count += 1;
        if count.is_multiple_of(POLL_CHARACTERS) {
            polled = poll();
        }
        polled.is_ok()
    });
    let normal = is_nfc_quick(chars.filter(|&c| !is_foreign(c))) == IsNormalized::Yes;
    polled.map(|()| normal)
}

/// Call `push` with each character of the reference's NFC of `text`.
fn compose(text: &str, poll: &mut Poll<'_>, mut push: impl FnMut(char) -> Result<(), Error>) -> Result<(), Error> {
    let marks = if text.len() < FEW_MARKS { 0 } else { most_marks(text, poll)? };
    if marks > FEW_MARKS {
        memory::check(marks.saturating_mul(BYTES_PER_MARK))?;
    }
    let mut count = 0_usize;
    // To the reference a foreign character is a starter that composes with nothing, so the parts between are independent.
    for part in text.split_inclusive(is_foreign) {
        let last = part.chars().next_back().filter(|&c| is_foreign(c));
        let rest = &part[..part.len() - last.map_or(0, char::len_utf8)];
        for c in rest.nfc().chain(last) {
            count += 1;
            if count.is_multiple_of(POLL_CHARACTERS) {
                poll()?;
            }
            push(c)?;
        }
    }
    Ok(())
}

/// The most marks after one character.
fn most_marks(text: &str, poll: &mut Poll<'_>) -> Result<usize, Error> {
    let (mut most, mut run) = (0_usize, 0_usize);
    for (count, c) in text.chars().enumerate() {
        if count.is_multiple_of(POLL_CHARACTERS) {
            poll()?;
        }
        run = if c >= '\u{300}' && canonical_combining_class(c) != 0 { run + 1 } else { 0 };
        most = most.max(run);
    }
    Ok(most)
}

/// Whether NFC may change `c`, or a character before it.
pub(super) fn may_change(c: char) -> bool {
    (is_nfc_quick(std::iter::once(c)) != IsNormalized::Yes || canonical_combining_class(c) != 0) && !is_foreign(c)
}

/// Characters that Unicode 9 did not know, or gave no combining class, and that now have a combining class, a
/// decomposition, or a composition with the next character.
#[rustfmt::skip]
const FOREIGN: [(u32, u32); 71] = [
    (0x5C8, 0x5C9), (0x7FD, 0x7FD), (0x897, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xC3C, 0xC3C), (0xD3B, 0xD3C),
    (0xEBA, 0xEBA), (0x1715, 0x1715), (0x1ABF, 0x1AF0), (0x1DF6, 0x1DFA), (0xA82C, 0xA82C), (0x105C9, 0x105C9),
    (0x105D2, 0x105D2), (0x105DA, 0x105DA), (0x105E4, 0x105E4), (0x10D24, 0x10D27), (0x10D69, 0x10D6D),
    (0x10EAB, 0x10EAC), (0x10ECB, 0x10ECF), (0x10EF0, 0x10EFB), (0x10EFD, 0x10EFF), (0x10F46, 0x10F50),
    (0x10F82, 0x10F85), (0x11070, 0x11070), (0x1133B, 0x1133B), (0x11382, 0x11385), (0x1138B, 0x1138B),
    (0x1138E, 0x1138E), (0x11390, 0x11391), (0x113B8, 0x113B8), (0x113BB, 0x113BB), (0x113C2, 0x113C2),
    (0x113C5, 0x113C5), (0x113C7, 0x113C9), (0x113CE, 0x113D0), (0x1145E, 0x1145E), (0x11839, 0x1183A),
    (0x11930, 0x11930), (0x11935, 0x11935), (0x11938, 0x11938), (0x1193D, 0x1193E), (0x11943, 0x11943),
    (0x119E0, 0x119E0), (0x11A34, 0x11A34), (0x11A47, 0x11A47), (0x11A99, 0x11A99), (0x11D42, 0x11D42),
    (0x11D44, 0x11D45), (0x11D97, 0x11D97), (0x11F41, 0x11F42), (0x1611E, 0x16129), (0x1612F, 0x1612F),
    (0x16D63, 0x16D63), (0x16D67, 0x16D6A), (0x16FF0, 0x16FF1), (0x1D127, 0x1D128), (0x1D250, 0x1D252),
    (0x1D25B, 0x1D25C), (0x1D25F, 0x1D25F), (0x1D280, 0x1D281), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136),
    (0x1E2AE, 0x1E2AE), (0x1E2EC, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF), (0x1E6E3, 0x1E6E3),
    (0x1E6E6, 0x1E6E6), (0x1E6EE, 0x1E6EF), (0x1E6F5, 0x1E6F5),
];

/// Whether the reference's NFC leaves this character alone although today's does not.
fn is_foreign(c: char) -> bool {
    let scalar = u32::from(c);
    let place = FOREIGN.partition_point(|&(_, last)| last < scalar);
    FOREIGN.get(place).is_some_and(|&(first, _)| first <= scalar)
}

/// The test of [`all_inert`]. `$candidates` maps the start of a block to the mask of the bytes that [`may_start_other`].
macro_rules! test_blocks {
    ($text:expr, $candidates:expr) => {{
        let text: &str = $text;
        (0..text.len()).step_by(64).all(|at| {
            let mut rest: u64 = $candidates(at);
            while rest != 0 {
                let first = at + rest.trailing_zeros() as usize;
                if !text[first..].starts_with(is_inert) {
                    return false;
                }
                rest &= rest - 1;
            }
            true
        })
    }};
}

/// Whether NFC leaves `text` alone, as far as single characters show: true only where all are [`is_inert`].
pub(super) fn all_inert(isa: Isa, text: &str) -> bool {
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F, BW, VL and VBMI.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::all_inert(text) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::all_inert(text) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::all_inert(text) },
        Isa::Scalar => scalar(text),
    }
}

fn scalar(text: &str) -> bool {
    text.is_ascii()
        || test_blocks!(text, |at: usize| {
            let block = text.as_bytes()[at..].iter().take(64).enumerate();
            block.fold(0, |mask, (i, &byte)| mask | u64::from(may_start_other(byte)) << i)
        })
}

/// Characters that NFC neither changes nor composes with the character before: all below the combining marks, and the
/// main blocks of Chinese, Japanese, Korean, their punctuation and general punctuation.
fn is_inert(c: char) -> bool {
    matches!(c,
        '\0'..='\u{2FF}'
        | '\u{2010}'..='\u{2027}'
        | '\u{3001}'..='\u{3029}'
        | '\u{3041}'..='\u{3096}'
        | '\u{30A1}'..='\u{30FE}'
        | '\u{3400}'..='\u{9FFF}'
        | '\u{AC00}'..='\u{D7A3}'
        | '\u{FF01}'..='\u{FF5E}')
}

/// Whether a first byte of UTF-8 may start a character that is not [`is_inert`].
const fn may_start_other(byte: u8) -> bool {
    byte > 0xCB && !matches!(byte, 0xE4..=0xE9 | 0xEB..=0xEC)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::super::simd::avx512::{load, within};
    use super::is_inert;

    /// See [`super::all_inert`].
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn all_inert(text: &str) -> bool {
        let bytes = text.as_bytes();
        test_blocks!(text, |at: usize| {
            let block = load(&bytes[at..]);
            // As `may_start_other`.
            within(block, 0xCC, 0xFF) & !(within(block, 0xE4, 0xE9) | within(block, 0xEB, 0xEC))
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::super::simd::avx2::{load, within};
    use super::is_inert;

    /// See [`super::all_inert`].
    #[target_feature(enable = "avx2")]
    pub(super) fn all_inert(text: &str) -> bool {
        let bytes = text.as_bytes();
        test_blocks!(text, |at: usize| {
            let block = load(&bytes[at..]);
            // As `may_start_other`.
            within(block, 0xCC, 0xFF) & !(within(block, 0xE4, 0xE9) | within(block, 0xEB, 0xEC))
        })
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::super::simd::neon::{load, within};
    use super::is_inert;

    /// See [`super::all_inert`].
    #[target_feature(enable = "neon")]
    pub(super) fn all_inert(text: &str) -> bool {
        let bytes = text.as_bytes();
        test_blocks!(text, |at: usize| {
            let block = load(&bytes[at..]);
            // As `may_start_other`.
            within(block, 0xCC, 0xFF) & !(within(block, 0xE4, 0xE9) | within(block, 0xEB, 0xEC))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization_alignments::UnicodeNormalization as Reference;

    use super::*;

    fn nfc(text: &str) -> String {
        let normal = super::nfc(text, &mut || Ok(())).expect("memory").into_owned();
        assert_eq!(nfc_length(text, &mut || Ok(())).expect("memory"), normal.len());
        normal
    }

    /// The crate that the reference uses.
    fn expected(text: &str) -> String {
        Reference::nfc(text).map(|(c, _)| c).collect()
    }

    fn scalars() -> impl Iterator<Item = char> {
        '\0'..=char::MAX
    }

    #[test]
    fn text_without_characters_that_may_change_is_in_nfc() {
        for c in scalars().filter(|&c| !may_change(c)) {
            for before in ["e", "\u{1100}", "\u{AC00}", "\u{301}", "\u{9C7}", "\u{11935}"] {
                let text = format!("{before}{c}");
                assert_eq!(expected(&text), text);
            }
        }
    }

    #[test]
    fn every_scalar_value_is_normalised_as_the_reference_does() {
        for c in scalars() {
            let text = format!("{c}a{c}\u{301}{c}\u{334}\u{5B0}{c}{c}\u{9BE}\u{11930}\u{16D67}");
            assert_eq!(nfc(&text), expected(&text), "{c:?}");
        }
    }

    #[test]
    fn pairs_that_compose_only_since_unicode_9_stay_apart() {
        let foreigners = || FOREIGN.iter().flat_map(|&(first, last)| first..=last).filter_map(char::from_u32);
        for a in foreigners() {
            for b in foreigners() {
                let text = String::from_iter([a, b]);
                assert_eq!(nfc(&text), expected(&text));
            }
        }
    }

    #[test]
    fn inert_characters_pass_the_quick_check_after_any_character() {
        for c in scalars().filter(|&c| is_inert(c)) {
            for before in ["", "a", "\u{1100}", "\u{AC00}", "\u{0301}", "か"] {
                let text = format!("{before}{c}");
                assert_eq!(
                    UnicodeNormalization::nfc(text.as_str()).collect::<String>(),
                    text,
                    "U+{:04X}",
                    u32::from(c)
                );
            }
        }
    }

    #[test]
    fn first_bytes_that_start_no_other_character_start_inert_ones() {
        for c in scalars() {
            let first = c.to_string().as_bytes()[0];
            assert!(may_start_other(first) || is_inert(c), "U+{:04X}", u32::from(c));
        }
    }

    fn marks() -> impl Strategy<Value = String> {
        let pool = prop_oneof![
            any::<char>(),
            proptest::char::range('\u{300}', '\u{36F}'),
            proptest::char::range('\u{1100}', '\u{11FF}'),
            proptest::char::range('\u{AC00}', '\u{AC40}'),
            proptest::char::range('a', 'z'),
            proptest::char::range('\u{9BC}', '\u{9DF}'),
            proptest::char::range('\u{11380}', '\u{113D0}'),
            proptest::char::range('\u{1611E}', '\u{16130}'),
        ];
        proptest::collection::vec(pool, 0..20).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn any_text_is_normalised_as_the_reference_does(text in marks()) {
            prop_assert_eq!(nfc(&text), expected(&text));
        }

        #[test]
        fn all_inert_is_the_same_on_every_path(text in "([ -~]{0,9}|[à-ž가-힣一-十“”。か]{0,9}|\\PC{0,1}){0,30}") {
            let expected = text.chars().all(is_inert);
            for isa in Isa::ALL {
                prop_assert_eq!(all_inert(isa, &text), expected, "{:?}", isa);
            }
        }
    }
}
