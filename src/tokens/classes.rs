//! What a text is made of, in counts that follow the tokenizer's splitting pattern and that bit masks can tell.

use super::blocks::{Column, Kind, LANES, Masks, Window, sweep};
use crate::isa::Isa;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// What is counted.
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "names of weights, as tables have them")]
        enum Class { $($(#[$doc])* $name),* }

        /// The name of each class.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

classes! {
    /// Words, that is runs of ASCII letters: those after white space and at the text's start, after other ASCII
    /// characters, and after characters beyond it.
    WORD
    WORD_JOINED
    WORD_AFTER_WIDE
    /// Letters; those beyond the first of their word, beyond the second, and so on.
    LETTER
    LETTER_2
    LETTER_3
    LETTER_4
    LETTER_6
    LETTER_8
    LETTER_10
    LETTER_12
    /// Capitals; those after a capital, after two; after a small letter.
    CAPITAL
    CAPITAL_2
    CAPITAL_3
    CAPITAL_INSIDE
    DIGIT
    /// Digits after a space.
    DIGIT_APART
    /// Runs of ASCII punctuation after a space, and others; marks beyond the first of their run, beyond the second;
    /// marks whose next is the same.
    MARKS_APART
    MARKS
    MARK_2
    MARK_3
    MARK_REPEATED
    /// Words after a mark; of them those after a single mark that no space precedes.
    MARK_WORD
    MARK_ALONE_WORD
    /// Line ends after a mark, after a line end, after two spaces, after anything else.
    LINE_AFTER_MARK
    LINE_AGAIN
    LINE_AFTER_SPACES
    LINE
    /// Runs of more than one space; spaces beyond the second of their run.
    SPACES
    SPACE_3
    /// Characters of other scripts, and runs of them: all from here on.
    SIGN
    LATIN
    GREEK
    CYRILLIC
    CYRILLIC_RUN
    ARMENIAN
    ARABIC
    INDIC
    GEORGIAN
    SYMBOL
    CJK_MARK
    KANA
    HAN
    HAN_RUN
    HANGUL
    HANGUL_RUN
    OTHER
    ASTRAL
}

/// Number of classes.
pub(super) const COUNT: usize = NAMES.len();

/// Counts of each class, by lane.
pub(super) struct Counts([[u64; LANES]; COUNT]);

impl Counts {
    #[inline(always)]
    fn add(&mut self, class: Class, lane: usize, mask: u64) {
        self.0[class as usize][lane] += u64::from(mask.count_ones());
    }
}

/// How often each class occurs in a text, and what its pairs of letters weigh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// By class.
    pub counts: [u64; COUNT],
    /// In the units of the table of pairs, with its offset.
    pub(super) pairs: u64,
}

impl Classes {
    /// Count `text`.
    pub fn of(text: &str) -> Self {
        Self::on(Isa::codec(), text)
    }

    /// Count on one path.
    fn on(isa: Isa, text: &str) -> Self {
        let mut counts = Counts([[0; LANES]; COUNT]);
        let pairs = sweep(isa, text.as_bytes(), &mut counts);
        let mut sums = [0; COUNT];
        for (sum, lanes) in sums.iter_mut().zip(&counts.0) {
            *sum = lanes.iter().sum();
        }
        Self { counts: sums, pairs }
    }

    fn get(&self, class: Class) -> u64 {
        self.counts[class as usize]
    }

    /// Whether there is no character beyond ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        self.counts[Class::SIGN as usize..].iter().all(|&count| count == 0)
    }

    /// ASCII digits, and runs of ASCII letters after another ASCII character or at the text's start.
    pub(super) fn pieces(&self) -> u64 {
        self.get(Class::DIGIT) + self.get(Class::WORD) + self.get(Class::WORD_JOINED)
    }
}

/// Count the classes of ASCII in a group of blocks of a window, the first of which is `group`.
#[inline(always)]
pub(super) fn count(window: &Window, group: usize, counts: &mut Counts) {
    for lane in 0..LANES {
        // Bit i of a mask `n` back is bit i - n of the text's.
        let here = |column: &Column| column[group + lane + 1];
        let back = |column: &Column, n: u32| here(column) << n | column[group + lane] >> (64 - n);
        let mut add = |class: Class, mask: u64| counts.add(class, lane, mask);

        let (letter, upper) = (here(&window.letter), here(&window.upper));
        let [after_letter, after_mark, after_space, after_line, after_wide] =
            [&window.letter, &window.mark, &window.space, &window.line, &window.wide].map(|column| back(column, 1));
        let word = letter & !after_letter;
        add(Class::WORD, word & (after_space | after_line));
        add(Class::WORD_JOINED, word & !(after_space | after_line | after_wide));
        add(Class::WORD_AFTER_WIDE, word & after_wide);
        let beyond = |mask: u64, from: u32, to: u32| (from..to).fold(mask, |mask, n| mask & back(&window.letter, n));
        let second = letter & after_letter;
        let third = beyond(second, 2, 3);
        let fourth = beyond(third, 3, 4);
        let sixth = beyond(fourth, 4, 6);
        let eighth = beyond(sixth, 6, 8);
        let tenth = beyond(eighth, 8, 10);
        add(Class::LETTER, letter);
        add(Class::LETTER_2, second);
        add(Class::LETTER_3, third);
        add(Class::LETTER_4, fourth);
        add(Class::LETTER_6, sixth);
        add(Class::LETTER_8, eighth);
        add(Class::LETTER_10, tenth);
        add(Class::LETTER_12, beyond(tenth, 10, 12));

        let second_upper = upper & back(&window.upper, 1);
        add(Class::CAPITAL, upper);
        add(Class::CAPITAL_2, second_upper);
        add(Class::CAPITAL_3, second_upper & back(&window.upper, 2));
        add(Class::CAPITAL_INSIDE, upper & after_letter & !back(&window.upper, 1));

        add(Class::DIGIT, here(&window.digit));
        add(Class::DIGIT_APART, here(&window.digit) & after_space);

        let mark = here(&window.mark);
        add(Class::MARKS_APART, mark & after_space);
        add(Class::MARKS, mark & !after_mark & !after_space);
        add(Class::MARK_2, mark & after_mark);
        add(Class::MARK_3, mark & after_mark & back(&window.mark, 2));
        add(Class::MARK_REPEATED, mark & here(&window.repeated));
        add(Class::MARK_WORD, word & after_mark);
        add(Class::MARK_ALONE_WORD, word & after_mark & !back(&window.mark, 2) & !back(&window.space, 2));

        let line = here(&window.line);
        let after_spaces = after_space & back(&window.space, 2);
        add(Class::LINE_AFTER_MARK, line & after_mark);
        add(Class::LINE_AGAIN, line & after_line);
        add(Class::LINE_AFTER_SPACES, line & after_spaces);
        add(Class::LINE, line & !(after_mark | after_line | after_spaces));

        let space = here(&window.space);
        add(Class::SPACES, space & after_space & !back(&window.space, 2));
        add(Class::SPACE_3, space & after_spaces);
    }
}

/// Where the scripts whose runs count were in the block before.
#[derive(Default)]
pub(super) struct Runs {
    cyrillic: u64,
    cjk: u64,
    han: u64,
    hangul: u64,
}

/// Count the classes beyond ASCII in a block.
#[inline(always)]
pub(super) fn count_wide(masks: &Masks, wide: u64, runs: &mut Runs, counts: &mut Counts) {
    if wide == 0 {
        *runs = Runs::default();
        return;
    }
    let of = |kind: Kind| masks[kind as usize];
    let mut add = |class: Class, mask: u64| counts.add(class, 0, mask);
    // Characters have two or three bytes in all of these.
    let back = |mask: u64, before: u64, n: u32| mask << n | before >> (64 - n);
    add(Class::SIGN, of(Kind::Sign));
    add(Class::LATIN, of(Kind::Latin));
    add(Class::GREEK, of(Kind::Greek));
    let cyrillic = of(Kind::Cyrillic);
    add(Class::CYRILLIC, cyrillic);
    add(Class::CYRILLIC_RUN, cyrillic & !back(cyrillic, runs.cyrillic, 2));
    add(Class::ARMENIAN, of(Kind::Armenian));
    add(Class::ARABIC, of(Kind::Arabic));
    add(Class::INDIC, of(Kind::Indic));
    add(Class::GEORGIAN, of(Kind::Georgian));
    add(Class::SYMBOL, of(Kind::Symbol));
    let cjk = of(Kind::Cjk);
    let after_cjk = back(cjk, runs.cjk, 1);
    add(Class::CJK_MARK, after_cjk & of(Kind::Inner));
    add(Class::KANA, after_cjk & of(Kind::InnerKana));
    let (han, hangul) = (of(Kind::Han), of(Kind::Hangul));
    add(Class::HAN, han);
    add(Class::HAN_RUN, han & !back(han, runs.han, 3));
    add(Class::HANGUL, hangul);
    add(Class::HANGUL_RUN, hangul & !back(hangul, runs.hangul, 3));
    add(Class::OTHER, of(Kind::Other));
    add(Class::ASTRAL, of(Kind::Astral));
    *runs = Runs { cyrillic, cjk, han, hangul };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts<const N: usize>(text: &str, classes: [Class; N]) -> [u64; N] {
        classes.map(|class| Classes::of(text).get(class))
    }

    #[test]
    fn words_are_told_by_what_precedes_them() {
        use Class::{WORD, WORD_AFTER_WIDE, WORD_JOINED};
        let kinds = |text| counts(text, [WORD, WORD_JOINED, WORD_AFTER_WIDE]);
        assert_eq!(kinds("two words\nand"), [3, 0, 0]);
        assert_eq!(kinds("snake_case(x)"), [1, 2, 0]);
        assert_eq!(kinds("caf\u{e9}teria"), [1, 0, 1]);
    }

    #[test]
    fn letters_are_told_by_their_place_in_the_word() {
        use Class::{LETTER, LETTER_2, LETTER_4, LETTER_12};
        assert_eq!(counts("a four internationally", [LETTER, LETTER_2, LETTER_4, LETTER_12]), [20, 17, 13, 4]);
    }

    #[test]
    fn marks_and_white_space_are_told_by_their_runs() {
        use Class::{LINE, LINE_AFTER_MARK, LINE_AGAIN, MARK_2, MARK_REPEATED, MARKS, MARKS_APART, SPACE_3, SPACES};
        assert_eq!(counts("(a) == b;--c", [MARKS_APART, MARKS, MARK_2, MARK_REPEATED]), [1, 3, 3, 2]);
        assert_eq!(counts("a\n\nb;\n    c  d", [LINE, LINE_AGAIN, LINE_AFTER_MARK]), [1, 1, 1]);
        assert_eq!(counts("a\n\nb;\n    c  d", [SPACES, SPACE_3]), [2, 2]);
    }

    #[test]
    fn scripts_are_told_by_character_and_run() {
        use Class::{CJK_MARK, HAN, HAN_RUN, HANGUL, HANGUL_RUN, KANA};
        assert_eq!(counts("\u{6f22}\u{5b57}\u{304b}\u{4ea4}\u{3002}", [HAN, HAN_RUN, KANA, CJK_MARK]), [3, 2, 1, 1]);
        assert_eq!(counts("\u{d55c}\u{ae00} \u{ae00}", [HANGUL, HANGUL_RUN]), [3, 2]);
    }

    #[test]
    fn a_run_across_blocks_is_one() {
        for before in 50..80 {
            let text = format!("{} {} ", ".".repeat(before), "internationally");
            assert_eq!(counts(&text, [Class::WORD, Class::LETTER_12]), [1, 4], "{before}");
            assert_eq!(counts(&text, [Class::MARKS, Class::MARK_3]), [1, before as u64 - 2], "{before}");
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
