//! Classes of text: counts that follow the tokenizer's splitting pattern and that bit masks can give.

use super::byte_masks::{Column, Kind, LANES, Masks, Window};

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// The classes.
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "the weight table spells them so")]
        pub(super) enum Class { $($(#[$doc])* $name),* }

        /// The name of each class.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

classes! {
    /// Words, which are runs of ASCII letters: after white space or at the start of the text, after other ASCII
    /// characters, after characters beyond ASCII.
    WORD
    WORD_JOINED
    WORD_AFTER_NON_ASCII
    /// Letters: all, those from the second of their word on, from the third on, and so on.
    LETTER
    LETTER_2
    LETTER_3
    LETTER_4
    LETTER_6
    LETTER_8
    LETTER_10
    LETTER_12
    /// Capitals: all, those after a capital, after two capitals, after a small letter.
    CAPITAL
    CAPITAL_2
    CAPITAL_3
    CAPITAL_INSIDE
    /// Digits: all, those after a space.
    DIGIT
    DIGIT_AFTER_SPACE
    /// Runs of ASCII punctuation: those after a space, the others.
    PUNCTUATION_AFTER_SPACE
    PUNCTUATION
    /// Punctuation characters: from the second of their run on, from the third on, those that the next one repeats.
    PUNCTUATION_2
    PUNCTUATION_3
    PUNCTUATION_REPEATED
    /// Words after punctuation: all, those after a single character that no space precedes.
    PUNCTUATION_WORD
    PUNCTUATION_SINGLE_WORD
    /// Newlines: after punctuation, after a newline, after two spaces, after anything else.
    NEWLINE_AFTER_PUNCTUATION
    NEWLINE_AGAIN
    NEWLINE_AFTER_SPACES
    NEWLINE
    /// Runs of two spaces or more, and the spaces from the third of their run on.
    SPACES
    SPACE_3
    /// Characters beyond ASCII by script, and runs of them. All classes from here on are beyond ASCII.
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
    CJK_PUNCTUATION
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

/// The number of times that each class occurs, in each lane.
pub(super) struct ClassCounts([[u64; LANES]; COUNT]);

/// The masks of the block before, for the scripts whose runs are counted.
#[derive(Default)]
pub(super) struct Runs {
    cyrillic: u64,
    cjk: u64,
    han: u64,
    hangul: u64,
}

impl ClassCounts {
    pub(super) fn new() -> Self {
        Self([[0; LANES]; COUNT])
    }

    /// The counts of all lanes together.
    pub(super) fn sums(&self) -> [u64; COUNT] {
        self.0.map(|lanes| lanes.iter().sum())
    }

    #[inline(always)]
    fn add(&mut self, class: Class, lane: usize, mask: u64) {
        self.0[class as usize][lane] += u64::from(mask.count_ones());
    }

    /// Count the ASCII classes of the blocks of a window from `group` on, one a lane.
    #[inline(always)]
    pub(super) fn add_ascii(&mut self, window: &Window, group: usize) {
        for lane in 0..LANES {
            // Bit i of `back(column, n)` tells of the byte n before byte i.
            let here = |column: &Column| column[group + lane + 1];
            let back = |column: &Column, n: u32| here(column) << n | column[group + lane] >> (64 - n);
            let mut add = |class: Class, mask: u64| self.add(class, lane, mask);

            let (letter, upper) = (here(&window.letter), here(&window.upper));
            let [after_letter, after_punctuation, after_space, after_newline, after_non_ascii] =
                [&window.letter, &window.punctuation, &window.space, &window.newline, &window.non_ascii]
                    .map(|column| back(column, 1));
            let word = letter & !after_letter;
            add(Class::WORD, word & (after_space | after_newline));
            add(Class::WORD_JOINED, word & !(after_space | after_newline | after_non_ascii));
            add(Class::WORD_AFTER_NON_ASCII, word & after_non_ascii);
            let beyond =
                |mask: u64, from: u32, to: u32| (from..to).fold(mask, |mask, n| mask & back(&window.letter, n));
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
            add(Class::DIGIT_AFTER_SPACE, here(&window.digit) & after_space);

            let punctuation = here(&window.punctuation);
            add(Class::PUNCTUATION_AFTER_SPACE, punctuation & after_space);
            add(Class::PUNCTUATION, punctuation & !after_punctuation & !after_space);
            add(Class::PUNCTUATION_2, punctuation & after_punctuation);
            add(Class::PUNCTUATION_3, punctuation & after_punctuation & back(&window.punctuation, 2));
            add(Class::PUNCTUATION_REPEATED, punctuation & here(&window.repeated));
            add(Class::PUNCTUATION_WORD, word & after_punctuation);
            add(
                Class::PUNCTUATION_SINGLE_WORD,
                word & after_punctuation & !back(&window.punctuation, 2) & !back(&window.space, 2),
            );

            let newline = here(&window.newline);
            let after_spaces = after_space & back(&window.space, 2);
            add(Class::NEWLINE_AFTER_PUNCTUATION, newline & after_punctuation);
            add(Class::NEWLINE_AGAIN, newline & after_newline);
            add(Class::NEWLINE_AFTER_SPACES, newline & after_spaces);
            add(Class::NEWLINE, newline & !(after_punctuation | after_newline | after_spaces));

            let space = here(&window.space);
            add(Class::SPACES, space & after_space & !back(&window.space, 2));
            add(Class::SPACE_3, space & after_spaces);
        }
    }

    /// Count the other classes of a block. `non_ascii` has a bit for each byte beyond ASCII.
    #[inline(always)]
    pub(super) fn add_non_ascii(&mut self, masks: &Masks, non_ascii: u64, runs: &mut Runs) {
        if non_ascii == 0 {
            *runs = Runs::default();
            return;
        }
        let of = |kind: Kind| masks[kind as usize];
        let mut add = |class: Class, mask: u64| self.add(class, 0, mask);
        // A Cyrillic character has two bytes, one of Han or Hangul three.
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
        add(Class::CJK_PUNCTUATION, after_cjk & of(Kind::Continuation));
        add(Class::KANA, after_cjk & of(Kind::KanaContinuation));
        let (han, hangul) = (of(Kind::Han), of(Kind::Hangul));
        add(Class::HAN, han);
        add(Class::HAN_RUN, han & !back(han, runs.han, 3));
        add(Class::HANGUL, hangul);
        add(Class::HANGUL_RUN, hangul & !back(hangul, runs.hangul, 3));
        add(Class::OTHER, of(Kind::Other));
        add(Class::ASTRAL, of(Kind::Astral));
        *runs = Runs { cyrillic, cjk, han, hangul };
    }
}
