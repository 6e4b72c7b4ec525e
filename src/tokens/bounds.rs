//! Bounds on the token count that hold for every text.

use memchr::memchr_iter;

use super::blocks;
use super::characters::nfc;
use crate::isa::Isa;

/// Bytes of the longest token of the Qwen3 vocabulary: 128 spaces. Measured over the 151,643 entries of its
/// `tokenizer.json`; the longest special token has 20 bytes.
const LONGEST_TOKEN: u64 = 128;

/// UTF-8 bytes of the NFC form: no token is shorter than a byte.
pub fn upper(text: &str) -> u64 {
    if blocks::all_inert(Isa::codec(), text) { text.len() as u64 } else { nfc(text).len() as u64 }
}

/// Characters that NFC neither changes nor combines with what stands before: everything below the combining marks,
/// and the main blocks of Chinese, Japanese and Korean with their punctuation and of general punctuation.
pub(super) fn is_inert(c: char) -> bool {
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

/// The larger of two bounds; `upper` is the text's [`upper`], `pieces` its [`Classes::pieces`].
///
/// Bytes: a token covers at most [`LONGEST_TOKEN`]. Pieces: the splitting pattern lets no token hold a digit and
/// anything else, nor letters of two words, so each ASCII digit is a token, and each run of ASCII letters that an
/// ASCII character which is no letter precedes starts one of its own. NFC keeps such a run a run: what composes with a
/// letter is a letter, and the character before it stays. Special tokens alone span words; each starts with `<|`,
/// `<t` or `</t`, holds no digit, and has at most three words (two after `<t`, `</t`), so those openings are deducted.
///
/// [`Classes::pieces`]: super::Classes::pieces
pub(super) fn lower(text: &str, upper: u64, pieces: u64) -> u64 {
    let bytes = text.as_bytes();
    let spanned: u64 = memchr_iter(b'<', bytes)
        .map(|at| match &bytes[at + 1..] {
            [b'|', ..] => 2,
            [b't', ..] | [b'/', b't', ..] => 1,
            _ => 0,
        })
        .sum();
    upper.div_ceil(LONGEST_TOKEN).max(pieces.saturating_sub(spanned))
}

#[cfg(test)]
mod tests {
    use unicode_normalization::UnicodeNormalization;

    use super::super::Classes;
    use super::*;

    #[test]
    fn inert_characters_pass_the_quick_check_whatever_stands_before() {
        for c in (0..=0x10_FFFF).filter_map(char::from_u32).filter(|&c| is_inert(c)) {
            for before in ["", "a", "\u{1100}", "\u{AC00}", "\u{0301}", "か"] {
                let text = format!("{before}{c}");
                assert_eq!(text.nfc().collect::<String>(), text, "U+{:04X}", c as u32);
            }
        }
    }

    #[test]
    fn the_upper_bound_counts_composed_text() {
        assert_eq!(upper("e\u{301}"), 2);
        assert_eq!(upper("\u{1112}\u{1161}\u{11AB}"), 3); // three letters of Hangul, one syllable
        assert_eq!(upper("\u{212B}"), 2); // the Angstrom sign is written as a letter
        assert_eq!(upper("\u{0958}"), 6); // excluded from composition: it grows
        assert_eq!(upper("\u{105D2}\u{307}"), 6); // a composition that the tokenizer's Unicode does not know
    }

    #[test]
    fn words_and_digits_are_tokens_of_their_own() {
        let lower = |text: &str, upper| lower(text, upper, Classes::of(text).pieces());
        assert_eq!(lower("two words and 42", 16), 5);
        assert_eq!(lower("caf\u{e9}teria", 11), 1);
        assert_eq!(lower("<|object_ref_start|>", 20), 1);
        assert_eq!(lower("<tool_call>", 11), 1);
        assert_eq!(lower(&" ".repeat(300), 300), 3);
    }
}
