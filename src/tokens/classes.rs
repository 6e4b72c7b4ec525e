//! What a text is made of, in counts that follow the tokenizer's splitting pattern.

use super::runs::{KINDS, Kind, Runs, rare_pairs};
use crate::isa::Isa;

/// English words that make up about a third of English prose: few of them tell of another language, or of code.
const COMMON: [&str; 24] = [
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "have", "in", "is", "it", "not", "of", "on",
    "or", "that", "the", "this", "to", "with",
];

/// For each letter, the letters that rarely follow it inside a token: fewer than 40 times in the first 60,000 entries
/// of the vocabulary.
const RARELY_FOLLOW: [&str; 26] = [
    "aejoq",                    // a
    "cdfghkmnpqtvwxz",          // b
    "bdfgjmnpqvwxz",            // c
    "fhjknpqwxz",               // d
    "j",                        // e
    "bcdghjkmnpqvwxz",          // f
    "bcdfjkpqvwxz",             // g
    "bcdfghjklmpqvwxz",         // h
    "hijqwy",                   // i
    "bcdfghijklmnpqrstvwxyz",   // j
    "bcdfghjklmpqrtuvwxyz",     // k
    "ghjnqrwxz",                // l
    "cdfghjknqrtvwxz",          // m
    "bjqrwxz",                  // n
    "jqz",                      // o
    "bfgjkmnqvwxz",             // p
    "abcdefghijkmnopqrstvwxyz", // q
    "hjqwxz",                   // r
    "bgjrvxz",                  // s
    "bgjkqvxz",                 // t
    "hjkoquvwxyz",              // u
    "bcdfghjklmnpqrstuvwxyz",   // v
    "bcdfgjklmpqtuvwxyz",       // w
    "bdfghjklmnoqrsuvwxyz",     // x
    "bdfghjkqruvwxyz",          // y
    "bcdfghjklmnpqrstuvwxyz",   // z
];

/// The same as bits, by the low five bits of a letter, which are the same for capitals: 1 for a.
const RARE: [u32; 32] = {
    let mut masks = [0; 32];
    let mut letter = 0;
    while letter < 26 {
        let followers = RARELY_FOLLOW[letter].as_bytes();
        let mut i = 0;
        while i < followers.len() {
            masks[letter + 1] |= 1 << (followers[i] & 31);
            i += 1;
        }
        letter += 1;
    }
    masks
};

/// Longest word with a count of its own.
const WORD: usize = 12;
/// Longest run of capitals with a count of its own.
const CAPITALS: usize = 6;

macro_rules! classes {
    ($($name:ident = $value:expr),* $(,)?) => {
        $(pub(super) const $name: usize = $value;)*
        /// The first index of each class, and its name.
        const FIRST: &[(usize, &str)] = &[$(($value, stringify!($name))),*];
    };
}

classes! {
    // Words after a space or at a line's start, by length from 1; those longer than WORD; their letters beyond WORD.
    PROSE = 0,
    PROSE_LONG = PROSE + WORD,
    PROSE_EXTRA = PROSE_LONG + 1,
    // The same for words after anything else, and for the parts of camelCase.
    INNER = PROSE_EXTRA + 1,
    INNER_LONG = INNER + WORD,
    INNER_EXTRA = INNER_LONG + 1,
    // Runs of capitals by length from 2.
    UPPER = INNER_EXTRA + 1,
    UPPER_LONG = UPPER + CAPITALS - 1,
    UPPER_EXTRA = UPPER_LONG + 1,
    // Pairs of letters that are rare inside a token.
    RARE_PAIR = UPPER_EXTRA + 1,
    // Words beyond six for each common English one.
    FOREIGN = RARE_PAIR + 1,
    DIGIT = FOREIGN + 1,
    SPACE_BEFORE_DIGIT = DIGIT + 1,
    // ASCII punctuation: one mark right before a letter, one mark, two, more; changes of mark within more; each 16
    // repetitions.
    MARK_BEFORE_LETTER = SPACE_BEFORE_DIGIT + 1,
    MARK = MARK_BEFORE_LETTER + 1,
    MARKS_TWO = MARK + 1,
    MARKS_MORE = MARKS_TWO + 1,
    MARKS_CHANGE = MARKS_MORE + 1,
    MARKS_LONG = MARKS_CHANGE + 1,
    // White space: line ends after punctuation and after anything else; two or more spaces, and each 16 of them.
    LINE_AFTER_MARK = MARKS_LONG + 1,
    LINE = LINE_AFTER_MARK + 1,
    SPACES = LINE + 1,
    SPACES_LONG = SPACES + 1,
    // Other scripts, by character, where words matter by run too.
    LATIN = SPACES_LONG + 1,
    CYRILLIC = LATIN + 1,
    CYRILLIC_RUN = CYRILLIC + 1,
    GREEK = CYRILLIC_RUN + 1,
    ARABIC = GREEK + 1,
    INDIC = ARABIC + 1,
    SYMBOL = INDIC + 1,
    CJK_MARK = SYMBOL + 1,
    KANA = CJK_MARK + 1,
    HAN = KANA + 1,
    HAN_RUN = HAN + 1,
    HANGUL = HAN_RUN + 1,
    HANGUL_RUN = HANGUL + 1,
    OTHER = HANGUL_RUN + 1,
    ASTRAL = OTHER + 1,
}

/// Number of indexes.
pub(super) const COUNT: usize = ASTRAL + 1;

/// The name of each index: its class's, with the length where the class has one index a length.
pub fn names() -> Vec<String> {
    let ends = FIRST.iter().skip(1).map(|&(first, _)| first).chain([COUNT]);
    let mut names = Vec::with_capacity(COUNT);
    for (&(first, name), end) in FIRST.iter().zip(ends) {
        if end - first == 1 {
            names.push(name.to_owned());
        } else {
            let shortest = if first == UPPER { 2 } else { 1 };
            names.extend((first..end).map(|index| format!("{name}_{}", index - first + shortest)));
        }
    }
    names
}

/// How often each class occurs in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes(pub [u32; COUNT]);

impl Classes {
    /// Count `text`.
    pub fn of(text: &str) -> Self {
        Self::on(Isa::codec(), text)
    }

    /// Count on one path.
    fn on(isa: Isa, text: &str) -> Self {
        let bytes = text.as_bytes();
        let runs = Runs::of(isa, bytes);
        let mut counter = Counter { bytes, text, runs, counts: [0; COUNT], words: 0, common: 0 };
        counter.run();
        // A pair whose second letter is small lies within one word, whatever stands around.
        counter.counts[RARE_PAIR] = rare_pairs(isa, bytes, &RARE);
        counter.counts[FOREIGN] = counter.words.saturating_sub(6 * counter.common);
        Self(counter.counts)
    }
}

struct Counter<'a> {
    bytes: &'a [u8],
    text: &'a str,
    runs: Runs,
    counts: [u32; COUNT],
    words: u32,
    common: u32,
}

impl Counter<'_> {
    fn kind(&self, at: usize) -> Option<Kind> {
        self.bytes.get(at).map(|&byte| KINDS[byte as usize])
    }

    fn is_letter(&self, at: usize) -> bool {
        matches!(self.kind(at), Some(Kind::Lower | Kind::Upper))
    }

    /// The end of the run of `kind` that starts at `at`: there, where it is of another.
    fn end(&self, at: usize, kind: Kind) -> usize {
        if self.kind(at) == Some(kind) { self.runs.end(at) } else { at }
    }

    fn add(&mut self, class: usize, count: usize) {
        self.counts[class] += count as u32;
    }

    fn run(&mut self) {
        let mut at = 0;
        let mut before = Kind::Line;
        while let Some(kind) = self.kind(at) {
            at = match kind {
                // Most text is one space and a word, over and over, and one branch for both is well predicted.
                Kind::Space if self.is_letter(at + 1) => self.letters(at + 1, true),
                Kind::Lower | Kind::Upper => self.letters(at, matches!(before, Kind::Space | Kind::Line)),
                Kind::Digit => {
                    let end = self.runs.end(at);
                    self.add(DIGIT, end - at);
                    end
                }
                Kind::Space => self.spaces(at),
                Kind::Line => {
                    self.add(if before == Kind::Mark { LINE_AFTER_MARK } else { LINE }, 1);
                    // Blank lines belong to the same token.
                    self.runs.end(at)
                }
                Kind::Mark => self.marks(at, before == Kind::Space),
                Kind::Wide => self.wide(at),
            };
            before = KINDS[self.bytes[at - 1] as usize];
        }
    }

    /// One part of a run of ASCII letters: a word, a part of camelCase, or a run of capitals.
    fn letters(&mut self, at: usize, prose: bool) -> usize {
        let first = self.runs.end(at);
        let capitals = if self.kind(at) == Some(Kind::Lower) { at } else { first };
        let mut end = if capitals - at == 1 { self.end(capitals, Kind::Lower) } else { first };
        if capitals - at > 1 {
            // HTTPServer: the last capital starts the next part.
            if self.kind(capitals) == Some(Kind::Lower) {
                end -= 1;
            }
            if end - at > 1 {
                self.capitals(end - at);
                return end;
            }
        }
        let length = end - at;
        if prose {
            self.words += 1;
            let common = match self.bytes.get(at..at + 4).and_then(<[u8]>::first_chunk) {
                // The bytes behind a short word are shifted out: no loop, whose end would depend on the length.
                Some(four) if length <= 4 => is_common((u32::from_be_bytes(*four) | SMALL) >> (8 * (4 - length))),
                None if length <= 4 => is_common(key(&self.bytes[at..end])),
                _ => false,
            };
            self.common += u32::from(common);
        }
        let first = if prose { PROSE } else { INNER };
        if length <= WORD {
            self.add(first + length - 1, 1);
        } else {
            self.add(first + WORD, 1);
            self.add(first + WORD + 1, length - WORD);
        }
        end
    }

    fn capitals(&mut self, length: usize) {
        if length <= CAPITALS {
            self.add(UPPER + length - 2, 1);
        } else {
            self.add(UPPER_LONG, 1);
            self.add(UPPER_EXTRA, length - CAPITALS);
        }
    }

    fn spaces(&mut self, at: usize) -> usize {
        let end = self.runs.end(at);
        match self.kind(end) {
            Some(Kind::Line) => {} // one token with the line's end
            Some(Kind::Digit) if end - at == 1 => self.add(SPACE_BEFORE_DIGIT, 1),
            _ if end - at > 1 => {
                self.add(SPACES, 1);
                self.add(SPACES_LONG, (end - at) / 16);
            }
            _ => {} // one token with the word or mark that follows
        }
        end
    }

    fn marks(&mut self, at: usize, after_space: bool) -> usize {
        let end = self.runs.end(at);
        match end - at {
            1 if !after_space && self.is_letter(end) => self.add(MARK_BEFORE_LETTER, 1),
            1 => self.add(MARK, 1),
            2 => self.add(MARKS_TWO, 1),
            _ => {
                self.add(MARKS_MORE, 1);
                let mut repeated = 0;
                for pair in self.bytes[at..end].windows(2) {
                    if pair[0] == pair[1] {
                        repeated += 1;
                    } else {
                        self.counts[MARKS_CHANGE] += 1;
                    }
                }
                self.add(MARKS_LONG, repeated / 16);
            }
        }
        end
    }

    /// Characters beyond ASCII, up to the next ASCII one.
    fn wide(&mut self, at: usize) -> usize {
        let mut last = OTHER;
        for (offset, c) in self.text[at..].char_indices() {
            if c.is_ascii() {
                return at + offset;
            }
            let class = script(c);
            if class == OTHER {
                self.add(OTHER, c.len_utf8());
            } else {
                self.add(class, 1);
            }
            if class != last {
                match class {
                    CYRILLIC => self.add(CYRILLIC_RUN, 1),
                    HAN => self.add(HAN_RUN, 1),
                    HANGUL => self.add(HANGUL_RUN, 1),
                    _ => {}
                }
            }
            last = class;
        }
        self.bytes.len()
    }
}

/// The class of a character beyond ASCII.
fn script(c: char) -> usize {
    match u32::from(c) {
        0xAC00..=0xD7A3 => HANGUL,
        0x3400..=0x9FFF | 0xF900..=0xFAFF => HAN,
        0x3000..=0x303F | 0xFF00..=0xFFEF => CJK_MARK,
        0x3040..=0x30FF => KANA,
        0xC0..=0x24F | 0x1E00..=0x1EFF => LATIN,
        0x80..=0xBF | 0x2000..=0x2BFF => SYMBOL,
        0x370..=0x3FF | 0x1F00..=0x1FFF => GREEK,
        0x400..=0x52F => CYRILLIC,
        0x590..=0x8FF => ARABIC,
        0x900..=0x109F => INDIC,
        0x1_0000.. => ASTRAL,
        _ => OTHER,
    }
}

/// The letters of a word of at most four, in small ones, as one number.
const fn key(word: &[u8]) -> u32 {
    let mut key = 0;
    let mut i = 0;
    while i < word.len() {
        key = key << 8 | (word[i] | 0x20) as u32;
        i += 1;
    }
    key
}

/// What makes four letters small ones.
const SMALL: u32 = 0x2020_2020;

/// Slots of a table of [`COMMON`] in which each key has one of its own.
const SLOTS: usize = 128;

/// The slot of a key under a multiplier (Knuth, The Art of Computer Programming 3, 6.4).
const fn slot(key: u32, multiplier: u32) -> usize {
    (key.wrapping_mul(multiplier) >> 25) as usize
}

/// The multiplier, found at compile time, and the table; zero is no key.
const COMMON_KEYS: (u32, [u32; SLOTS]) = {
    let mut multiplier = 0x9E37_79B1;
    loop {
        let mut table = [0; SLOTS];
        let mut i = 0;
        while i < COMMON.len() {
            let key = key(COMMON[i].as_bytes());
            if table[slot(key, multiplier)] != 0 {
                break;
            }
            table[slot(key, multiplier)] = key;
            i += 1;
        }
        if i == COMMON.len() {
            break (multiplier, table);
        }
        multiplier += 2;
    }
};

/// Whether an English text is full of the word of this key.
fn is_common(key: u32) -> bool {
    let (multiplier, table) = &COMMON_KEYS;
    table[slot(key, *multiplier)] == key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_counted_within_words_and_the_parts_of_camel_case() {
        let rare = |text: &str| Classes::of(text).0[RARE_PAIR];
        // q is followed by u alone; j by vowels.
        assert_eq!(["qu", "qa", "Qa", "qA", "QA", "QAa", "q a", "qqq"].map(rare), [0, 1, 1, 0, 0, 1, 0, 2]);
    }

    #[test]
    fn common_words_are_those_of_the_list() {
        for letters in 1..=3 {
            for number in 0..26_u32.pow(letters) {
                let word: Vec<u8> = (0..letters).map(|i| b'a' + (number / 26_u32.pow(i) % 26) as u8).collect();
                let listed = COMMON.iter().any(|common| common.as_bytes() == word);
                assert_eq!(is_common(key(&word)), listed, "{}", word.escape_ascii());
                assert_eq!(is_common(key(&word.to_ascii_uppercase())), listed);
            }
        }
        let four = ["that", "from", "than", "This"].map(|word| is_common(key(word.as_bytes())));
        assert_eq!(four, [true, true, false, true]);
    }

    proptest! {
        #[test]
        fn classes_are_the_same_on_every_path(text in "([a-zA-Z]{0,9}[ \n.,_0-9]{0,3}|\\PC{0,5}){0,40}") {
            let reference = Classes::on(Isa::Scalar, &text);
            for isa in Isa::ALL {
                prop_assert_eq!(&Classes::on(isa, &text), &reference, "{:?}", isa);
            }
        }
    }
}
