//! The estimate: a weighted sum of classes and letter pairs, plus a margin.
//!
//! `tests/packing/calibrate_estimate.py` fits the weights to the real tokenizer by least squares, over the corpora,
//! messages of software in many languages, code, and random letters. Measured over documents, before the margin:
//!
//! | | estimate / exact, in sum | deviation | in sum, fitted without this row |
//! |---|---|---|---|
//! | PEPs, English | 0.997 | 0.018 | 0.986 |
//! | Rust book, English | 1.002 | 0.015 | 1.009 |
//! | Rust book, Chinese | 0.996 | 0.022 | 0.922 |
//! | React manual, Korean | 0.999 | 0.019 | 0.991 |
//! | Cranfield abstracts, English | 1.002 | 0.039 | 1.048 |
//! | Python | 1.009 | 0.026 | 1.028 |
//! | JavaScript | 1.010 | 0.026 | 1.013 |
//! | Rust | 0.999 | 0.034 | 1.013 |
//! | Markdown | 0.996 | 0.022 | 0.988 |
//!
//! A request has at least four documents, usually many. The errors of single documents cancel, but the error that texts
//! of one kind share does not. The last column shows that error for a kind that the fit has not seen; the margin covers
//! it.

use super::class_counts::COUNT;
use super::classes::Classes;
use super::letter_pairs::{self, ZERO};

/// Weights are in units of 1 / ONE tokens.
const ONE: i64 = 1024;

/// The margin, in the same units: 9 percent.
const MARGIN: i64 = 92;

/// The weight of each class.
#[rustfmt::skip]
const WEIGHTS: [i64; COUNT] = [
    246, // WORD
    1013, // WORD_JOINED
    -352, // WORD_AFTER_NON_ASCII
    709, // LETTER
    -197, // LETTER_2
    -341, // LETTER_3
    120, // LETTER_4
    56, // LETTER_6
    94, // LETTER_8
    -169, // LETTER_10
    267, // LETTER_12
    86, // CAPITAL
    5, // CAPITAL_2
    -53, // CAPITAL_3
    5, // CAPITAL_INSIDE
    936, // DIGIT
    1085, // DIGIT_AFTER_SPACE
    1357, // PUNCTUATION_AFTER_SPACE
    1058, // PUNCTUATION
    68, // PUNCTUATION_2
    267, // PUNCTUATION_3
    -203, // PUNCTUATION_REPEATED
    -877, // PUNCTUATION_WORD
    -733, // PUNCTUATION_SINGLE_WORD
    -396, // NEWLINE_AFTER_PUNCTUATION
    553, // NEWLINE_AGAIN
    487, // NEWLINE_AFTER_SPACES
    889, // NEWLINE
    704, // SPACES
    -5, // SPACE_3
    775, // SIGN
    1246, // LATIN
    1147, // GREEK
    358, // CYRILLIC
    1434, // CYRILLIC_RUN
    1638, // ARMENIAN
    717, // ARABIC
    1434, // INDIC
    1638, // GEORGIAN
    610, // SYMBOL
    182, // CJK_PUNCTUATION
    666, // KANA
    577, // HAN
    532, // HAN_RUN
    853, // HANGUL
    -160, // HANGUL_RUN
    940, // OTHER
    2458, // ASTRAL
];

/// Tokens of a text of `bytes` bytes, with the margin. The sum may be far too low for unusual texts, which the lower bound
/// covers.
pub(super) fn estimate(classes: &Classes, bytes: usize) -> u64 {
    let classes_weigh: i64 = classes.counts.iter().zip(&WEIGHTS).map(|(&count, &weight)| count as i64 * weight).sum();
    // Each byte starts a pair, and so does the start of the text.
    let pairs_weigh = classes.pairs as i64 - ZERO * (bytes as i64 + 1);
    let sum = (classes_weigh + pairs_weigh * (ONE / letter_pairs::ONE)).max(0);
    ((sum * (ONE + MARGIN) / ONE + ONE / 2) / ONE) as u64
}
