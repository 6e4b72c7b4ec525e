//! Long texts cut into parts, so that threads share the work of a text and of texts that differ in length, and only the
//! parts that are not in NFC are normalised.
//!
//! The counts of two parts add up to the count of the text where nothing joins across the cut: no word of the splitting
//! pattern, no composition of NFC, no added token. Two characters show the first where words end between them whatever
//! stands before and after, and the flags of three characters the second: NFC changes none of them, so the classes are
//! those that the splitter sees. A text without such a place near a cut stays whole there.

use std::borrow::Cow;
use std::mem::take;
use std::ops::Range;

use super::characters::{Characters, class};
use crate::error::Error;
use crate::memory;

/// Bytes in which a place to cut is looked for.
const REACH: usize = 2048;
/// Most places that may lie within something else before the text stays whole there.
const TRIES: usize = 16;
/// What a part takes beside its bytes, in bytes that take as long.
const PER_PART: usize = 64;

/// Texts, the long ones in parts.
pub(super) struct Parts<'a, 't> {
    pub(super) parts: Cow<'a, [&'t str]>,
    /// The parts of each text that has several, in order.
    cut: Vec<Range<usize>>,
}

impl<'a, 't> Parts<'a, 't> {
    /// Texts as they are.
    pub(super) fn whole(texts: &'a [&'t str]) -> Self {
        Self { parts: Cow::Borrowed(texts), cut: vec![] }
    }

    /// Cut texts of at least two times `size` bytes into parts of about `size` bytes, nowhere within what `joined` finds
    /// around a position.
    pub(super) fn new(
        texts: &'a [&'t str],
        size: usize,
        characters: &Characters,
        joined: impl Fn(&str, usize) -> bool,
    ) -> Result<Self, Error> {
        if texts.iter().all(|text| text.len() < 2 * size) {
            return Ok(Self::whole(texts));
        }
        let (mut parts, mut cut) = (memory::vector(texts.len())?, vec![]);
        for &text in texts {
            let first = parts.len();
            let (mut start, mut near) = (0, size);
            while near + size <= text.len() {
                let reach = (near + REACH).min(text.len());
                let places = (near..reach).filter(|&at| splits(text, at, characters)).take(TRIES);
                if let Some(end) = { places }.find(|&at| !joined(text, at)) {
                    memory::push(&mut parts, &text[start..end])?;
                    start = end;
                    near = end;
                }
                near += size;
            }
            memory::push(&mut parts, &text[start..])?;
            if parts.len() > first + 1 {
                memory::push(&mut cut, first..parts.len())?;
            }
        }
        Ok(Self { parts: Cow::Owned(parts), cut })
    }

    /// The sums over the parts of each text.
    pub(super) fn sums(&self, mut counts: Vec<u64>) -> Vec<u64> {
        let (mut to, mut from) = (0, 0);
        for parts in &self.cut {
            counts.copy_within(from..parts.start, to);
            to += parts.start - from;
            counts[to] = counts[parts.clone()].iter().sum();
            to += 1;
            from = parts.end;
        }
        counts.copy_within(from.., to);
        counts.truncate(counts.len() - from + to);
        counts
    }
}

/// Whether words end at `at`, and NFC joins nothing there, whatever the text is before and after the three characters
/// around.
fn splits(text: &str, at: usize, characters: &Characters) -> bool {
    if !text.is_char_boundary(at) {
        return false;
    }
    let class_of = |c: Option<char>| c.map(|c| characters.class(u32::from(c)));
    let mut after = text[at..].chars();
    let (Some(last), Some(first)) = (class_of(text[..at].chars().next_back()), class_of(after.next())) else {
        return false;
    };
    if (last | first | class_of(after.next()).unwrap_or(0)) & class::MAY_CHANGE != 0 {
        return false;
    }
    match last {
        // A number is a word. Letters go on with letters alone.
        class::NUMBER => true,
        class::LETTER => first != class::LETTER,
        // Newlines belong to the word before, and letters may.
        class::OTHER => matches!(first, class::NUMBER | class::SPACE),
        // White space before a newline belongs to its word, and white space after it may.
        class::NEWLINE => !matches!(first, class::SPACE | class::NEWLINE),
        // Where the next word begins depends on what follows.
        _ => false,
    }
}

/// Parts that threads take, some at a time, each with the place of its count.
pub(super) struct Work<'a, 't> {
    parts: &'a [&'t str],
    counts: &'a mut [u64],
    size: usize,
}

impl<'a, 't> Work<'a, 't> {
    /// About `size` bytes are taken at a time. There are as many `counts` as parts.
    pub(super) fn new(parts: &'a [&'t str], counts: &'a mut [u64], size: usize) -> Self {
        Self { parts, counts, size }
    }
}

impl<'a, 't> Iterator for Work<'a, 't> {
    type Item = (&'a mut [u64], &'a [&'t str]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = 0;
        let taken = self.parts.iter().take_while(|part| {
            let more = bytes < self.size;
            bytes += part.len() + PER_PART;
            more
        });
        let taken = taken.count();
        let (parts, rest) = self.parts.split_at_checked(taken)?;
        let (counts, rest_of_counts) = take(&mut self.counts).split_at_mut_checked(taken)?;
        (self.parts, self.counts) = (rest, rest_of_counts);
        (taken > 0).then_some((counts, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'t>(text: &'t str, size: usize, joined: impl Fn(&str, usize) -> bool) -> Vec<&'t str> {
        Parts::new(&[text], size, &Characters::new(), joined).expect("memory").parts.into_owned()
    }

    fn splits(text: &str, at: usize) -> bool {
        super::splits(text, at, &Characters::new())
    }

    #[test]
    fn texts_are_cut_after_letters_numbers_and_newlines() {
        assert_eq!(cut("one two three four", 4, |_, _| false), ["one two", " three", " four"]);
        assert_eq!(cut("a\nb\nc\nd", 1, |_, _| false), ["a", "\n", "b", "\n", "c", "\n", "d"]);
        assert_eq!(cut("123 4 !", 1, |_, _| false), ["1", "2", "3", " 4", " !"]);
        assert_eq!(cut("\u{4E00}\u{3002}\u{4E8C}\u{3002}\u{4E09}", 3, |_, _| false).concat().len(), 15);
        assert_eq!(cut("aaaaaaaaaaaaaaaaa", 2, |_, _| false), ["aaaaaaaaaaaaaaaaa"]);
        assert_eq!(cut("one two three four", 4, |_, at| at == 7), ["one two three", " four"]);
    }

    #[test]
    fn texts_are_not_cut_where_what_follows_decides() {
        for (before, after) in
            [("a", "b"), ("!", "a"), ("!", "\n"), ("!", "!"), (" ", "a"), ("\n", " "), ("\r", "\n"), ("'", "s")]
        {
            assert!(!splits(&format!("{before}{after}"), before.len()), "{before:?} {after:?}");
        }
    }

    #[test]
    fn texts_are_not_cut_beside_what_nfc_may_change() {
        for (before, after) in [("a", "\u{338}"), ("1", "\u{338}"), ("\u{958}", "\n"), ("a", "=\u{338}"), ("", "a")] {
            assert!(!splits(&format!("{before}{after}"), before.len()), "{before:?} {after:?}");
        }
        assert!(splits("a=", 1) && splits("a=b", 1));
    }

    #[test]
    fn the_counts_of_parts_are_added_up() {
        let texts = ["a b c", "d", "", "e f", "g"];
        let parts = Parts::new(&texts, 2, &Characters::new(), |_, _| false).expect("memory");
        assert_eq!(parts.parts.concat(), texts.concat());
        let counts = parts.parts.iter().map(|part| part.len() as u64).collect();
        assert_eq!(parts.sums(counts), texts.map(|text| text.len() as u64));
        assert_eq!(Parts::whole(&texts).sums(vec![1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn work_is_taken_in_order_and_by_size() {
        let parts = ["a"; 100];
        let mut counts = [0; 100];
        let taken: Vec<_> = Work::new(&parts, &mut counts, 10 * (1 + PER_PART)).map(|(_, parts)| parts.len()).collect();
        assert_eq!(taken, [10; 10]);
        let mut counts = [0; 100];
        for (number, (counts, _)) in Work::new(&parts, &mut counts, 1).enumerate() {
            counts.fill(number as u64);
        }
        assert!(counts.into_iter().eq(0..100));
    }
}
