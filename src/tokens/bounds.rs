//! Proven bounds on the token count.

use memchr::memchr_iter;

use super::interrupts::Poll;
use super::nfc::{all_inert, nfc_length};
use crate::error::Error;
use crate::isa::Isa;

/// Bytes of the longest token of the Qwen3 vocabulary: 128 spaces. Measured over the 151,643 entries of its
/// `tokenizer.json`; the longest special token has 20 bytes.
const LONGEST_TOKEN: u64 = 128;

/// UTF-8 bytes of the NFC form. No token is shorter than a byte. An error is one of `poll`, or of short memory.
pub fn upper(text: &str, poll: &mut Poll<'_>) -> Result<u64, Error> {
    Ok(if all_inert(Isa::codec(), text) { text.len() } else { nfc_length(text, poll)? } as u64)
}

/// The larger of two bounds. `upper` is the text's [`upper`], `pieces` its [`Classes::pieces`].
///
/// Bytes: a token covers at most [`LONGEST_TOKEN`]. Pieces: the splitting pattern lets no token hold a digit and
/// anything else, nor letters of two words. So each ASCII digit is a token, and each run of ASCII letters after an ASCII
/// character that is no letter starts a token. NFC keeps such a run: whatever composes with a letter is a letter, and
/// the character before the run stays. Only special tokens span words. Each starts with `<|`, `<t` or `</t`, holds no
/// digit, and has at most three words (two after `<t`, `</t`), so words are deducted for those openings.
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
    use super::super::Classes;
    use super::*;

    fn upper(text: &str) -> u64 {
        super::upper(text, &mut || Ok(())).expect("memory")
    }

    #[test]
    fn the_upper_bound_counts_composed_text() {
        assert_eq!(upper("e\u{301}"), 2);
        assert_eq!(upper("\u{1112}\u{1161}\u{11AB}"), 3); // three Hangul letters compose to one syllable
        assert_eq!(upper("\u{212B}"), 2); // the Angstrom sign becomes a letter
        assert_eq!(upper("\u{0958}"), 6); // excluded from composition, so it grows
        assert_eq!(upper("\u{105D2}\u{307}"), 6); // composes only in later versions of Unicode
    }

    #[test]
    fn each_word_and_each_digit_is_a_token_at_least() {
        let lower = |text: &str, upper| lower(text, upper, Classes::of(text).pieces());
        assert_eq!(lower("two words and 42", 16), 5);
        assert_eq!(lower("caf\u{e9}teria", 11), 1);
        assert_eq!(lower("<|object_ref_start|>", 20), 1);
        assert_eq!(lower("<tool_call>", 11), 1);
        assert_eq!(lower(&" ".repeat(300), 300), 3);
    }
}
