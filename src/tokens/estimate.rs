//! The estimate: a weighted sum of classes and of pairs of letters, and a margin.
//!
//! The weights are fitted by `tests/packing/calibrate_estimate.py` against the real tokenizer, by least squares, over the
//! corpora, messages in some sixty languages, and code. Measured, before the margin, over documents:
//!
//! | | estimate / exact, in sum | deviation | the same, fitted without the row |
//! |---|---|---|---|
//! | PEPs, English | 0.997 | 0.019 | 0.987 |
//! | Rust book, English | 1.002 | 0.015 | 1.009 |
//! | Rust book, Chinese | 0.997 | 0.021 | 0.923 |
//! | React manual, Korean | 0.998 | 0.018 | 0.986 |
//! | Cranfield abstracts, English | 1.002 | 0.039 | 1.055 |
//! | Python | 1.008 | 0.025 | 1.027 |
//! | JavaScript | 1.007 | 0.025 | 1.001 |
//! | Rust | 0.997 | 0.028 | 1.000 |
//! | Markdown | 0.997 | 0.022 | 0.991 |
//!
//! A request has at least four documents, usually many. Their own errors cancel; what they share, as texts of one kind,
//! does not, and the last column tells how large it is for a kind that the fit has not seen. The margin covers it.

use super::classes::{COUNT, Classes};
use super::pairs::{self, NOTHING};

/// Weights are in units of 1 / ONE tokens.
const ONE: i64 = 1024;

/// The margin, in the same units: 9 percent.
const MARGIN: i64 = 92;

/// The weight of each class.
#[rustfmt::skip]
const WEIGHTS: [i64; COUNT] = [
    389, // WORD
    546, // WORD_JOINED
    -195, // WORD_AFTER_WIDE
    592, // LETTER
    -149, // LETTER_2
    -318, // LETTER_3
    128, // LETTER_4
    59, // LETTER_6
    90, // LETTER_8
    -52, // LETTER_10
    33, // LETTER_12
    104, // CAPITAL
    -260, // CAPITAL_2
    255, // CAPITAL_3
    -122, // CAPITAL_INSIDE
    945, // DIGIT
    1200, // DIGIT_APART
    1351, // MARKS_APART
    1077, // MARKS
    66, // MARK_2
    272, // MARK_3
    -214, // MARK_REPEATED
    -263, // MARK_WORD
    -739, // MARK_ALONE_WORD
    -337, // LINE_AFTER_MARK
    546, // LINE_AGAIN
    497, // LINE_AFTER_SPACES
    903, // LINE
    704, // SPACES
    -6, // SPACE_3
    744, // SIGN
    1259, // LATIN
    1147, // GREEK
    358, // CYRILLIC
    1434, // CYRILLIC_RUN
    1638, // ARMENIAN
    717, // ARABIC
    1434, // INDIC
    1638, // GEORGIAN
    619, // SYMBOL
    283, // CJK_MARK
    666, // KANA
    577, // HAN
    496, // HAN_RUN
    860, // HANGUL
    -181, // HANGUL_RUN
    959, // OTHER
    2458, // ASTRAL
];

/// Tokens of a text of so many bytes and of these classes, with the margin. Strange texts may come out as nothing: the
/// lower bound is for them.
pub(super) fn estimate(classes: &Classes, bytes: usize) -> u64 {
    let classes_weigh: i64 = classes.counts.iter().zip(&WEIGHTS).map(|(&count, &weight)| count as i64 * weight).sum();
    // Each byte starts a pair, and so does the text's start.
    let pairs_weigh = classes.pairs as i64 - NOTHING * (bytes as i64 + 1);
    let sum = (classes_weigh + pairs_weigh * (ONE / pairs::ONE)).max(0);
    ((sum * (ONE + MARGIN) / ONE + ONE / 2) / ONE) as u64
}
