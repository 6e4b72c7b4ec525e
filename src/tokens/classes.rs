//! What a text consists of: how often each class occurs, and what its letter pairs weigh.

use super::class_counts::{COUNT, Class, ClassCounts};
use super::scan::scan;
use crate::isa::Isa;

/// How often each class occurs in a text, and what its letter pairs weigh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// By class.
    pub counts: [u64; COUNT],
    /// The sum over all pairs, in the units of their table, with its offset.
    pub(super) pairs: u64,
}

impl Classes {
    /// Count the classes of `text`.
    pub fn of(text: &str) -> Self {
        Self::on(Isa::codec(), text)
    }

    fn on(isa: Isa, text: &str) -> Self {
        let mut counts = ClassCounts::new();
        let pairs = scan(isa, text.as_bytes(), &mut counts);
        Self { counts: counts.sums(), pairs }
    }

    fn get(&self, class: Class) -> u64 {
        self.counts[class as usize]
    }

    /// Whether all characters are ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        self.counts[Class::SIGN as usize..].iter().all(|&count| count == 0)
    }

    /// ASCII digits, and runs of ASCII letters after another ASCII character or at the start of the text.
    pub(super) fn pieces(&self) -> u64 {
        self.get(Class::DIGIT) + self.get(Class::WORD) + self.get(Class::WORD_JOINED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::class_counts::Class;
    use super::*;

    fn counts<const N: usize>(text: &str, classes: [Class; N]) -> [u64; N] {
        classes.map(|class| Classes::of(text).get(class))
    }

    #[test]
    fn words_are_classed_by_what_precedes_them() {
        use Class::{WORD, WORD_AFTER_NON_ASCII, WORD_JOINED};
        let kinds = |text| counts(text, [WORD, WORD_JOINED, WORD_AFTER_NON_ASCII]);
        assert_eq!(kinds("two words\nand"), [3, 0, 0]);
        assert_eq!(kinds("snake_case(x)"), [1, 2, 0]);
        assert_eq!(kinds("caf\u{e9}teria"), [1, 0, 1]);
    }

    #[test]
    fn letters_are_classed_by_their_place_in_the_word() {
        use Class::{LETTER, LETTER_2, LETTER_4, LETTER_12};
        assert_eq!(counts("a four internationally", [LETTER, LETTER_2, LETTER_4, LETTER_12]), [20, 17, 13, 4]);
    }

    #[test]
    fn punctuation_and_white_space_are_classed_by_their_runs() {
        use Class::{
            NEWLINE, NEWLINE_AFTER_PUNCTUATION, NEWLINE_AGAIN, PUNCTUATION, PUNCTUATION_2, PUNCTUATION_AFTER_SPACE,
            PUNCTUATION_REPEATED, SPACE_3, SPACES,
        };
        assert_eq!(
            counts("(a) == b;--c", [PUNCTUATION_AFTER_SPACE, PUNCTUATION, PUNCTUATION_2, PUNCTUATION_REPEATED]),
            [1, 3, 3, 2]
        );
        assert_eq!(counts("a\n\nb;\n    c  d", [NEWLINE, NEWLINE_AGAIN, NEWLINE_AFTER_PUNCTUATION]), [1, 1, 1]);
        assert_eq!(counts("a\n\nb;\n    c  d", [SPACES, SPACE_3]), [2, 2]);
    }

    #[test]
    fn scripts_are_counted_by_character_and_run() {
        use Class::{CJK_PUNCTUATION, HAN, HAN_RUN, HANGUL, HANGUL_RUN, KANA};
        assert_eq!(
            counts("\u{6f22}\u{5b57}\u{304b}\u{4ea4}\u{3002}", [HAN, HAN_RUN, KANA, CJK_PUNCTUATION]),
            [3, 2, 1, 1]
        );
        assert_eq!(counts("\u{d55c}\u{ae00} \u{ae00}", [HANGUL, HANGUL_RUN]), [3, 2]);
    }

    #[test]
    fn a_run_across_blocks_is_counted_once() {
        for before in 50..80 {
            let text = format!("{} {} ", ".".repeat(before), "internationally");
            assert_eq!(counts(&text, [Class::WORD, Class::LETTER_12]), [1, 4], "{before}");
            assert_eq!(counts(&text, [Class::PUNCTUATION, Class::PUNCTUATION_3]), [1, before as u64 - 2], "{before}");
            let text = format!("{}{}", ".".repeat(before), "\u{6f22}".repeat(9));
            assert_eq!(counts(&text, [Class::HAN, Class::HAN_RUN]), [9, 1], "{before}");
        }
    }

    proptest! {
        #[test]
        fn classes_are_the_same_on_every_path(
            text in "([a-zA-Z]{0,14}[ \t\n.,_0-9-]{0,3}|\\PC{0,5}|[а-я]{0,4}|[一-十か。]{0,4}|[가-힣]{0,4}){0,400}",
        ) {
            let reference = Classes::on(Isa::Scalar, &text);
            for isa in Isa::ALL {
                prop_assert_eq!(&Classes::on(isa, &text), &reference, "{:?}", isa);
            }
        }
    }
}
