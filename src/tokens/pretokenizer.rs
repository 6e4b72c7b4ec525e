//! Pre-tokenization: the splitting pattern of Qwen's tokenizers as a state machine.
//!
//! The pattern tries, in this order:
//!
//! | | |
//! |---|---|
//! | `(?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d)` | an English contraction |
//! | `[^\r\n\p{L}\p{N}]?\p{L}+` | letters, and one character before them that is no newline, letter or number |
//! | `\p{N}` | one number |
//! | ` ?[^\s\p{L}\p{N}]+[\r\n]*` | other characters, a space before them, newlines after |
//! | `\s*[\r\n]+` | white space up to its last newline |
//! | `\s+(?!\S)` | white space without its last character, or all of it at the end of the text |
//! | `\s+` | white space |
//!
//! Every character is a letter, a number, white space or other, so some alternative matches at every position, and the
//! classes of two characters decide which.

use super::characters::{Characters, class, decode};

/// The pattern that this module implements, as the file spells it.
pub(super) const PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| \
                                  ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// The class of each byte.
const BYTES: [u8; 256] = {
    let mut classes = [class::OTHER; 256];
    let mut i = 0;
    while i < 256 {
        classes[i] = match i as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => class::LETTER,
            b'0'..=b'9' => class::NUMBER,
            b'\r' | b'\n' => class::NEWLINE,
            b' ' | b'\t' | 0x0B | 0x0C => class::SPACE,
            0x80.. => class::NON_ASCII,
            _ => class::OTHER,
        };
        i += 1;
    }
    classes
};

/// Splits a text into words. With `CHECK` it stops at the first character that NFC may change.
pub(super) struct Splitter<'a, const CHECK: bool> {
    text: &'a [u8],
    characters: &'a Characters,
    at: usize,
    /// Whether NFC may change the text. Earlier words may then be wrong too.
    pub(super) may_change: bool,
}

impl<'a, const CHECK: bool> Splitter<'a, CHECK> {
    pub(super) fn new(text: &'a str, characters: &'a Characters) -> Self {
        Self { text: text.as_bytes(), characters, at: 0, may_change: false }
    }

    /// The start and the end of the next word.
    #[inline]
    pub(super) fn next_word(&mut self) -> Option<(usize, usize)> {
        let start = self.at;
        let &first = self.text.get(start)?;
        let end = match BYTES[usize::from(first)] {
            class::LETTER => self.letters(start + 1),
            class::NUMBER => start + 1,
            class::SPACE => self.after_space(start, start + 1, first == b' '),
            class::NEWLINE => self.white_space(start),
            class::OTHER => match if first == b'\'' { self.contraction(start) } else { None } {
                Some(end) => end,
                None => self.after_other(start + 1),
            },
            _ => {
                let (kind, next) = self.non_ascii(start);
                match kind {
                    class::LETTER => self.letters(next),
                    class::NUMBER => next,
                    class::SPACE => self.after_space(start, next, false),
                    _ => self.after_other(next),
                }
            }
        };
        self.at = end;
        if CHECK && self.may_change { None } else { Some((start, end)) }
    }

    /// The class and the end of the character at `at`; None at the end of the text.
    #[inline]
    fn class(&mut self, at: usize) -> Option<(u8, usize)> {
        let &byte = self.text.get(at)?;
        let kind = BYTES[usize::from(byte)];
        Some(if kind == class::NON_ASCII { self.non_ascii(at) } else { (kind, at + 1) })
    }

    /// The class and the end of the character at `at`, which is not ASCII.
    #[inline]
    fn non_ascii(&mut self, at: usize) -> (u8, usize) {
        let (scalar, length) = decode(&self.text[at..]);
        let kind = self.characters.class(scalar);
        if CHECK && kind & class::MAY_CHANGE != 0 {
            self.may_change = true;
        }
        (kind & !class::MAY_CHANGE, at + length)
    }

    /// The end of a word whose first character ends at `next` and is white space, but no newline.
    #[inline]
    fn after_space(&mut self, start: usize, next: usize, plain: bool) -> usize {
        match self.class(next) {
            Some((class::LETTER, end)) => self.letters(end),
            Some((class::OTHER, end)) if plain => self.others(end),
            Some((class::SPACE | class::NEWLINE, _)) => self.white_space(start),
            _ => next,
        }
    }

    /// The end of a word whose first character ends at `next` and is no letter, number or white space.
    #[inline]
    fn after_other(&mut self, next: usize) -> usize {
        match self.class(next) {
            Some((class::LETTER, end)) => self.letters(end),
            _ => self.others(next),
        }
    }

    /// The end of the run of letters at `at`.
    #[inline]
    fn letters(&mut self, mut at: usize) -> usize {
        loop {
            if let Some(eight) = self.text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
                let others = !letters_of(u64::from_le_bytes(*eight)) & HIGH;
                if others == 0 {
                    at += 8;
                    continue;
                }
                at += others.trailing_zeros() as usize / 8;
            }
            match self.class(at) {
                Some((class::LETTER, next)) => at = next,
                _ => return at,
            }
        }
    }

    /// The end of the run of other characters at `at`, and of the newlines after them.
    #[inline]
    fn others(&mut self, mut at: usize) -> usize {
        while let Some((class::OTHER, next)) = self.class(at) {
            at = next;
        }
        while let Some(b'\r' | b'\n') = self.text.get(at) {
            at += 1;
        }
        at
    }

    /// The end of a word of white space.
    fn white_space(&mut self, start: usize) -> usize {
        let mut end = start;
        let mut last = start;
        let mut after_newline = None;
        while let Some((kind @ (class::SPACE | class::NEWLINE), next)) = self.class(end) {
            last = end;
            end = next;
            if kind == class::NEWLINE {
                after_newline = Some(end);
            }
        }
        match after_newline {
            Some(end) => end,
            None if end < self.text.len() && last > start => last,
            None => end,
        }
    }

    /// The end of the contraction whose apostrophe is at `at`. Case does not matter, and the long s is an s.
    fn contraction(&self, at: usize) -> Option<usize> {
        let lower = |offset: usize| self.text.get(at + offset).map(u8::to_ascii_lowercase);
        match (lower(1)?, lower(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) | (0xC5, Some(0xBF)) => Some(at + 3),
            _ => None,
        }
    }
}

/// The high bit of each byte.
const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// The high bit of each of eight bytes that is an ASCII letter.
#[inline]
fn letters_of(eight: u64) -> u64 {
    let lower = (eight & !HIGH) | (0x20 * ONES);
    // No sum exceeds a byte: 0x7F + 0x1F < 0x100.
    let from_a = lower + (0x80 - u64::from(b'a')) * ONES;
    let beyond_z = lower + (0x7F - u64::from(b'z')) * ONES;
    from_a & !beyond_z & !eight & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let characters = Characters::new();
        let mut splitter = Splitter::<false>::new(text, &characters);
        let mut words = Vec::new();
        while let Some((start, end)) = splitter.next_word() {
            words.push(&text[start..end]);
        }
        words
    }

    #[test]
    fn a_word_of_letters_includes_one_character_before_it() {
        assert_eq!(words("two words"), ["two", " words"]);
        assert_eq!(words("(a) .b\tc"), ["(a", ")", " .", "b", "\tc"]);
        assert_eq!(words("\na"), ["\n", "a"]);
        assert_eq!(words("中文字 한국어"), ["中文字", " 한국어"]);
        assert_eq!(words("\u{3000}中"), ["\u{3000}中"]);
    }

    #[test]
    fn each_number_is_a_word() {
        assert_eq!(words("a12 3"), ["a", "1", "2", " ", "3"]);
        assert_eq!(words("\u{0663}½"), ["\u{0663}", "½"]);
    }

    #[test]
    fn other_characters_include_a_space_before_and_newlines_after() {
        assert_eq!(words(" !?\r\n\nx"), [" !?\r\n\n", "x"]);
        assert_eq!(words("\t!x"), ["\t", "!x"]);
        assert_eq!(words("!!x"), ["!!", "x"]);
    }

    #[test]
    fn the_last_white_space_character_belongs_to_the_next_word() {
        assert_eq!(words("   x"), ["  ", " x"]);
        assert_eq!(words("   1"), ["  ", " ", "1"]);
        assert_eq!(words("x   "), ["x", "   "]);
        assert_eq!(words(" \n \n  x"), [" \n \n", " ", " x"]);
        assert_eq!(words("\u{2003}\u{2003}!"), ["\u{2003}", "\u{2003}", "!"]);
    }

    #[test]
    fn contractions_are_found_in_either_case() {
        assert_eq!(words("it's I'LL we'Ve 'x 'rx"), ["it", "'s", " I", "'LL", " we", "'Ve", " '", "x", " '", "rx"]);
        assert_eq!(words("'\u{17F}a"), ["'\u{17F}", "a"]);
    }

    #[test]
    fn letters_are_found_in_eight_bytes_at_once() {
        for byte in 0..=255_u8 {
            for place in 0..8 {
                let mut eight = *b"a0Z{@[`\x7F";
                eight[place] = byte;
                let found = letters_of(u64::from_le_bytes(eight)).to_le_bytes();
                let expected = eight.map(|byte| if byte.is_ascii_alphabetic() { 0x80 } else { 0 });
                assert_eq!(found, expected);
            }
        }
    }
}
