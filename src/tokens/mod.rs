//! Token counts: exact with a vocabulary; without one, proven bounds and an estimate between them.
//!
//! The tokenizer is Qwen3's: NFC, then a splitting pattern, then byte-level BPE.
//!
//! [`Counter`] counts exactly. [`tokenizer_json`] reads the file, [`nfc`] normalises, [`pretokenizer`] splits the text
//! into words by the [`characters`]' classes, [`bpe`] merges each word's bytes, and [`word_cache`] keeps the counts of
//! words.
//!
//! Without a vocabulary, [`bounds`] has the lower and the upper bound (every token is at least one byte of the NFC text)
//! and [`estimate`] weighs what [`classes`] counts: [`scan`] goes over the bytes once, makes [`byte_masks`] of them, adds
//! up the [`class_counts`] and the weights of [`letter_pairs`].

mod bounds;
mod bpe;
mod byte_masks;
mod characters;
mod class_counts;
mod classes;
mod counter;
mod estimate;
mod interrupts;
mod letter_pairs;
mod nfc;
mod pretokenizer;
mod scan;
mod simd;
mod tokenizer_json;
mod unicode;
mod word_cache;

use memchr::memchr_iter;

pub use bounds::upper;
pub use class_counts::NAMES;
pub use classes::Classes;
pub use counter::Counter;
pub use interrupts::{Interrupts, Poll};

use crate::error::Error;

/// What the model puts between the chunks of a document. Inside a chunk it would shift every later chunk.
const SEPARATOR: &str = "<|endoftext|>";

/// What is known of a text without a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Proven: the text has no fewer tokens.
    pub lower: u64,
    /// The estimate, with its margin; from `lower` to `upper`.
    pub estimate: u64,
    /// Proven: the text has no more tokens. The UTF-8 bytes of its NFC form.
    pub upper: u64,
    /// The position, in characters, at which the separator's literal text starts.
    pub separator: Option<usize>,
}

/// Bounds, estimate and separator of `text`. An error is one of `poll`, or of short memory.
pub fn inspect(text: &str, poll: &mut Poll<'_>) -> Result<Inspection, Error> {
    let classes = Classes::of(text);
    let upper = if classes.is_ascii() { text.len() as u64 } else { upper(text, poll)? };
    let lower = bounds::lower(text, upper, classes.pieces());
    let estimate = estimate::estimate(&classes, text.len()).clamp(lower, upper);
    Ok(Inspection { lower, estimate, upper, separator: find_separator(text) })
}

/// The position, in characters, at which the separator's literal text starts.
pub fn find_separator(text: &str) -> Option<usize> {
    let mut openings = memchr_iter(SEPARATOR.as_bytes()[0], text.as_bytes());
    let at = openings.find(|&at| text.as_bytes()[at..].starts_with(SEPARATOR.as_bytes()))?;
    Some(text[..at].chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(text: &str) -> Inspection {
        super::inspect(text, &mut || Ok(())).expect("memory")
    }

    #[test]
    fn the_separator_is_found_by_its_character_position() {
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
