//! Token counts: exact with a vocabulary; without one, proven bounds and an estimate between them.
//!
//! The tokenizer is Qwen3's: NFC, then a splitting pattern, then byte-level BPE.
//!
//! [`Counter`] counts exactly. [`tokenizer_json`] reads the file, [`nfc`] normalises, [`pretokenizer`] splits the text
//! into words by the [`characters`]' classes, [`bpe`] merges each word's bytes, and [`word_cache`] keeps the counts of
//! words. [`parts`] cuts long texts for threads.
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
mod parts;
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
pub use interrupts::{InterruptCheck, Interrupts, Poll};

use crate::error::Error;

/// What is known of a text without a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Proven: the text has no fewer tokens.
    pub lower: u64,
    /// The estimate, with its margin; from `lower` to `upper`.
    pub estimate: u64,
    /// Proven: the text has no more tokens. The UTF-8 bytes of its NFC form.
    pub upper: u64,
    /// The position, in characters, at which the text of the separator starts.
    pub separator: Option<usize>,
}

/// Bounds and estimate of `text`, and where it holds the separator that the model puts between chunks. Inside a chunk it
/// would shift every later chunk. An error is one of `poll`, or of short memory.
pub fn inspect(text: &str, separator: Option<&str>, poll: &mut Poll<'_>) -> Result<Inspection, Error> {
    let classes = Classes::of(text);
    let upper = if classes.is_ascii() { text.len() as u64 } else { upper(text, poll)? };
    let lower = bounds::lower(text, upper, classes.pieces());
    let estimate = estimate::estimate(&classes, text.len()).clamp(lower, upper);
    Ok(Inspection { lower, estimate, upper, separator: find_separator(text, separator) })
}

/// The position, in characters, at which the text of the separator starts. An empty separator is in no text.
pub fn find_separator(text: &str, separator: Option<&str>) -> Option<usize> {
    let separator = separator?.as_bytes();
    let mut openings = memchr_iter(*separator.first()?, text.as_bytes());
    let at = openings.find(|&at| text.as_bytes()[at..].starts_with(separator))?;
    Some(text[..at].chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(text: &str) -> Inspection {
        super::inspect(text, Some("<|endoftext|>"), &mut || Ok(())).expect("memory")
    }

    #[test]
    fn the_separator_is_found_by_its_character_position() {
        assert_eq!(inspect("한글<|endoftext|>").separator, Some(2));
        assert_eq!(inspect("<|endoftext|").separator, None);
        assert_eq!(inspect("<<|endoftext|>").separator, Some(1));
        assert_eq!(find_separator("a<|chunk_sep|>b", Some("<|chunk_sep|>")), Some(1));
        assert_eq!(find_separator("aSEPb", Some("SEP")), Some(1));
        assert_eq!(find_separator("<|endoftext|>", None), None);
        assert_eq!(find_separator("<|endoftext|>", Some("")), None);
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
