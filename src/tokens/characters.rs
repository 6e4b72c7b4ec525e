//! What each character is to the splitting pattern and to NFC, and NFC itself.
//!
//! Both follow the versions of Unicode that the reference, Hugging Face's `tokenizers`, has: 16 for the pattern's
//! classes, 9 for NFC. The `unicode-normalization` crate knows more characters than Unicode 9 did; [`is_foreign`] has
//! those whose normalisation differs, and they are kept as they are. `tests/tokens` compares every scalar value.

use std::borrow::Cow;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::unicode::{LETTERS, NUMBERS, SPACES};

/// A character's class; the classes of the pattern, `\r` and `\n` apart from other white space.
pub(super) mod class {
    pub(in super::super) const OTHER: u8 = 0;
    pub(in super::super) const LETTER: u8 = 1;
    pub(in super::super) const NUMBER: u8 = 2;
    pub(in super::super) const SPACE: u8 = 3;
    pub(in super::super) const NEWLINE: u8 = 4;
    /// Only of bytes: the first of a character beyond ASCII.
    pub(in super::super) const WIDE: u8 = 5;
    /// Added where NFC may change the character or what stands around it.
    pub(in super::super) const SUSPECT: u8 = 0x80;
}

/// Bits of a scalar value within a block of the table.
const BLOCK_BITS: u32 = 7;
const BLOCK: usize = 1 << BLOCK_BITS;
/// Classes of all characters in two steps: equal blocks of 128 are kept once.
#[derive(Debug)]
pub(super) struct Characters {
    blocks: Vec<[u8; BLOCK]>,
    block_of: Vec<u8>,
}

impl Characters {
    /// Build the table: some milliseconds.
    pub(super) fn new() -> Self {
        let mut classes = vec![class::OTHER; 0x11_0000];
        for (ranges, class) in [(&LETTERS[..], class::LETTER), (&NUMBERS, class::NUMBER), (&SPACES, class::SPACE)] {
            for &(first, last) in ranges {
                classes[first as usize..=last as usize].fill(class);
            }
        }
        classes[usize::from(b'\r')] = class::NEWLINE;
        classes[usize::from(b'\n')] = class::NEWLINE;
        // The crate need not be asked about the large blocks of Han and Hangul, nor beyond the last character that has
        // a decomposition; a test asks about all.
        for c in ('\u{80}'..='\u{33FF}').chain('\u{A000}'..='\u{ABFF}').chain('\u{D7A4}'..='\u{2FA1D}') {
            if is_suspect(c) {
                classes[c as usize] |= class::SUSPECT;
            }
        }
        let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
        let block_of = classes
            .as_chunks::<BLOCK>()
            .0
            .iter()
            .map(|block| {
                // Neighbours are alike more often than not, so the search starts at the last.
                let known = blocks.iter().rposition(|other| other == block);
                known.unwrap_or_else(|| {
                    blocks.push(*block);
                    blocks.len() - 1
                }) as u8
            })
            .collect();
        assert!(blocks.len() <= 256, "block numbers are bytes");
        Self { blocks, block_of }
    }

    /// The class of a scalar value, with [`class::SUSPECT`].
    #[inline]
    pub(super) fn class(&self, scalar: u32) -> u8 {
        let block = self.block_of[(scalar >> BLOCK_BITS) as usize];
        self.blocks[usize::from(block)][scalar as usize % BLOCK]
    }
}

/// Whether text with this character may not be in NFC.
fn is_suspect(c: char) -> bool {
    (is_nfc_quick(std::iter::once(c)) != IsNormalized::Yes || canonical_combining_class(c) != 0) && !is_foreign(c)
}

/// Characters that Unicode 9 did not know, or gave no combining class, and that now have a combining class, a
/// decomposition, or a composition with the next character. The reference treats them as letters of no consequence.
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

/// Whether the reference's NFC leaves this character alone though today's does not.
fn is_foreign(c: char) -> bool {
    let scalar = u32::from(c);
    let place = FOREIGN.partition_point(|&(_, last)| last < scalar);
    FOREIGN.get(place).is_some_and(|&(first, _)| first <= scalar)
}

/// The reference's NFC of `text`.
pub(super) fn nfc(text: &str) -> Cow<'_, str> {
    if is_nfc_quick(text.chars().filter(|&c| !is_foreign(c))) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    let mut normal = String::with_capacity(text.len());
    // Nothing is reordered or composed across such a character, for it is a starter there that composes with nothing.
    for part in text.split_inclusive(is_foreign) {
        let last = part.chars().next_back().filter(|&c| is_foreign(c));
        let rest = &part[..part.len() - last.map_or(0, char::len_utf8)];
        normal.extend(rest.nfc());
        normal.extend(last);
    }
    Cow::Owned(normal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization_alignments::UnicodeNormalization as Reference;

    use super::*;

    /// The crate that the reference uses.
    fn expected(text: &str) -> String {
        Reference::nfc(text).map(|(c, _)| c).collect()
    }

    fn scalars() -> impl Iterator<Item = char> {
        '\0'..=char::MAX
    }

    #[test]
    fn text_without_suspects_is_in_nfc() {
        let table = Characters::new();
        for c in scalars() {
            let suspect = table.class(u32::from(c)) & class::SUSPECT != 0;
            assert_eq!(suspect, !c.is_ascii() && is_suspect(c), "{c:?}");
            if !suspect {
                for before in ["e", "\u{1100}", "\u{AC00}", "\u{301}", "\u{9C7}", "\u{11935}"] {
                    let text = format!("{before}{c}");
                    assert_eq!(expected(&text), text);
                }
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
    fn pairs_that_compose_today_and_did_not_then_stay_apart() {
        let foreigners = || FOREIGN.iter().flat_map(|&(first, last)| first..=last).filter_map(char::from_u32);
        for a in foreigners() {
            for b in foreigners() {
                let text = String::from_iter([a, b]);
                assert_eq!(nfc(&text), expected(&text));
            }
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
    }
}
