//! The class of each character: what the splitting pattern takes it for, and whether NFC may change it.
//!
//! The pattern's classes are those of Unicode 16, which the reference, Hugging Face's `tokenizers`, uses. `tests/tokens`
//! compares every scalar value.

use super::nfc::may_change;
use super::unicode::{LETTERS, NUMBERS, SPACES};

/// The classes of the pattern, with `\r` and `\n` apart from other white space.
pub(super) mod class {
    pub(in super::super) const OTHER: u8 = 0;
    pub(in super::super) const LETTER: u8 = 1;
    pub(in super::super) const NUMBER: u8 = 2;
    pub(in super::super) const SPACE: u8 = 3;
    pub(in super::super) const NEWLINE: u8 = 4;
    /// Only of bytes: one beyond ASCII.
    pub(in super::super) const NON_ASCII: u8 = 5;
    /// A flag beside the class: see [`may_change`](super::may_change).
    pub(in super::super) const MAY_CHANGE: u8 = 0x80;
}

/// Bits of a scalar value within a block of the table.
const BLOCK_BITS: u32 = 7;
const BLOCK: usize = 1 << BLOCK_BITS;

/// The classes of all characters as a two-level table: equal blocks of 128 are stored once.
#[derive(Debug)]
pub(super) struct Characters {
    blocks: Vec<[u8; BLOCK]>,
    block_of: Vec<u8>,
}

impl Characters {
    /// Build the table, which takes some milliseconds.
    pub(super) fn new() -> Self {
        let mut classes = vec![class::OTHER; 0x11_0000];
        for (ranges, class) in [(&LETTERS[..], class::LETTER), (&NUMBERS, class::NUMBER), (&SPACES, class::SPACE)] {
            for &(first, last) in ranges {
                classes[first as usize..=last as usize].fill(class);
            }
        }
        classes[usize::from(b'\r')] = class::NEWLINE;
        classes[usize::from(b'\n')] = class::NEWLINE;
        // NFC changes nothing in the large blocks of Han and Hangul, nor beyond the last character that has a
        // decomposition; a test checks that.
        for c in ('\u{80}'..='\u{33FF}').chain('\u{A000}'..='\u{ABFF}').chain('\u{D7A4}'..='\u{2FA1D}') {
            if may_change(c) {
                classes[c as usize] |= class::MAY_CHANGE;
            }
        }
        let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
        let block_of = classes
            .as_chunks::<BLOCK>()
            .0
            .iter()
            .map(|block| {
                // Neighbouring blocks are often equal, so the search starts at the last.
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

    /// The class of a scalar value, with [`class::MAY_CHANGE`].
    #[inline]
    pub(super) fn class(&self, scalar: u32) -> u8 {
        let block = self.block_of[(scalar >> BLOCK_BITS) as usize];
        self.blocks[usize::from(block)][scalar as usize % BLOCK]
    }
}

/// Decode the first character of UTF-8 text, which is not ASCII: its scalar value and its length.
#[inline]
pub(super) fn decode(text: &[u8]) -> (u32, usize) {
    let bits = |byte: u8| u32::from(byte & 0x3F);
    match *text {
        [a @ 0xE0..=0xEF, b, c, ..] => (u32::from(a & 0x0F) << 12 | bits(b) << 6 | bits(c), 3),
        [a @ 0xC0..=0xDF, b, ..] => (u32::from(a & 0x1F) << 6 | bits(b), 2),
        [a, b, c, d, ..] => (u32::from(a & 0x07) << 18 | bits(b) << 12 | bits(c) << 6 | bits(d), 4),
        _ => (0, text.len()), // never in UTF-8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_nfc_may_change_are_flagged() {
        let table = Characters::new();
        for c in '\0'..=char::MAX {
            let flagged = table.class(u32::from(c)) & class::MAY_CHANGE != 0;
            assert_eq!(flagged, !c.is_ascii() && may_change(c), "{c:?}");
        }
    }
}
