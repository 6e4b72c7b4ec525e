//! Token counts: exact ones with a vocabulary; without, a proven upper bound, a proven lower bound, and an estimate
//! between them.
//!
//! The tokenizer is Qwen3's: NFC, then a splitting pattern, then byte-level BPE. [`Counter`] does all of it, but for the
//! tokens themselves: [`load`] reads the file, [`characters`] has NFC and classes, [`split`] the pattern, [`merge`] the
//! BPE, and [`cache`] remembers words. Every token is at least one byte of the NFC text, which gives the upper bound;
//! [`bounds`] has the lower one, [`estimate`] what lies between: [`blocks`] goes over the bytes, [`classes`] counts what
//! they are, [`pairs`] weighs letters.

mod blocks;
mod bounds;
mod cache;
mod characters;
mod classes;
mod counter;
mod estimate;
mod load;
mod merge;
mod pairs;
mod split;
mod unicode;

use memchr::memchr_iter;

pub use bounds::upper;
pub use classes::{Classes, NAMES};
pub use counter::Counter;

/// What the model puts between the chunks of a document; within a chunk it would misalign every later one.
const SEPARATOR: &str = "<|endoftext|>";

/// What is known of a text without a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The text has at least so many tokens. Proven.
    pub lower: u64,
    /// About so many, with a margin: between the two others.
    pub estimate: u64,
    /// The text has at most so many tokens: the UTF-8 bytes of its NFC form. Proven.
    pub upper: u64,
    /// Where the separator's literal text starts, in characters.
    pub separator: Option<usize>,
}

/// Bounds, estimate and separator of `text`.
pub fn inspect(text: &str) -> Inspection {
    let classes = Classes::of(text);
    let upper = if classes.is_ascii() { text.len() as u64 } else { upper(text) };
    let lower = bounds::lower(text, upper, classes.pieces());
    let estimate = estimate::estimate(&classes, text.len()).clamp(lower, upper);
    Inspection { lower, estimate, upper, separator: find_separator(text) }
}

/// Where the separator's literal text starts, in characters.
pub fn find_separator(text: &str) -> Option<usize> {
    let mut openings = memchr_iter(SEPARATOR.as_bytes()[0], text.as_bytes());
    let at = openings.find(|&at| text.as_bytes()[at..].starts_with(SEPARATOR.as_bytes()))?;
    Some(text[..at].chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separator_is_found_by_character_position() {
        assert_eq!(inspect("한글<|endoftext|>").separator, Some(2));
        assert_eq!(inspect("<|endoftext|").separator, None);
        assert_eq!(inspect("<<|endoftext|>").separator, Some(1));
    }

    #[test]
    fn an_empty_text_has_no_tokens() {
        let inspection = inspect("");
        assert_eq!((inspection.lower, inspection.estimate, inspection.upper), (0, 0, 0));
    }

    #[test]
    fn the_estimate_lies_between_the_bounds() {
        for text in
            ["a", " ", "\n\n\n", "1234567890", "the quick brown fox", "漢字かな交じり文", "e\u{301}", "😀😀", "\u{0}"]
        {
            let Inspection { lower, estimate, upper, .. } = inspect(text);
            assert!(1 <= lower && lower <= estimate && estimate <= upper, "{text:?}: {lower} {estimate} {upper}");
        }
    }
}
