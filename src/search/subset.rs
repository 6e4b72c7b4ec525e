//! Which rows of all may be found.

use std::ops::Range;

/// Share of the rows, one in so many, up to which those of a mask are listed and nothing else is looked at. A list
/// takes 8 bytes a row of it, so that it is never larger than the mask.
const LISTED: usize = 8;

/// The rows that a scan looks at, by their numbers over all parts.
#[derive(Clone, Copy, Debug)]
pub enum Subset<'a> {
    /// All of them.
    All,
    /// Those whose byte is not zero, and how many these are.
    Mask(&'a [u8], usize),
    /// These alone, in ascending order, each once.
    Rows(&'a [usize]),
}

impl<'a> Subset<'a> {
    /// The subset of a mask; `list` is room for the numbers of few rows.
    pub fn of_mask(mask: &'a [u8], list: &'a mut Vec<usize>) -> Self {
        let count = count(mask);
        if count > mask.len() / LISTED {
            return Self::Mask(mask, count);
        }
        list.reserve_exact(count);
        each(mask, |row| list.push(row));
        Self::Rows(list)
    }

    /// The rows of these numbers, those apart that are not below `count`.
    pub fn of_rows(numbers: &[i64], count: usize, list: &'a mut Vec<usize>) -> Self {
        list.extend(numbers.iter().filter_map(|&number| usize::try_from(number).ok().filter(|&row| row < count)));
        list.sort_unstable();
        list.dedup();
        Self::Rows(list)
    }

    /// Rows that may be found, of `all`.
    pub fn count(&self, all: usize) -> usize {
        match *self {
            Self::All => all,
            Self::Mask(_, count) => count,
            Self::Rows(rows) => rows.len(),
        }
    }

    /// What there is to scan of the part with these row numbers: rows within the part, or places in the list.
    pub(super) fn span(&self, rows: Range<usize>) -> Range<usize> {
        match self {
            Self::Rows(list) => {
                let place = |bound| list.partition_point(|&row| row < bound);
                place(rows.start)..place(rows.end)
            }
            _ => 0..rows.len(),
        }
    }
}

/// Bytes that are not zero.
pub(super) fn count(mask: &[u8]) -> usize {
    // Sums of bytes, for as long as they fit one: the compiler adds a register of them at a time.
    let chunks = mask.chunks(255);
    chunks.map(|chunk| usize::from(chunk.iter().map(|&byte| u8::from(byte != 0)).sum::<u8>())).sum()
}

/// Visit the places of the bytes that are not zero.
pub(super) fn each(mask: &[u8], mut visit: impl FnMut(usize)) {
    let (words, tail) = mask.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if u64::from_ne_bytes(*word) != 0 {
            for (byte, _) in word.iter().enumerate().filter(|&(_, &byte)| byte != 0) {
                visit(at * 8 + byte);
            }
        }
    }
    for (byte, _) in tail.iter().enumerate().filter(|&(_, &byte)| byte != 0) {
        visit(words.len() * 8 + byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    #[test]
    fn a_mask_becomes_a_list_where_few_rows_are_left() {
        let mut random = Random(61);
        for length in [0, 1, 7, 8, 9, 255, 256, 3000] {
            for share in [0, 1, 10, 20, 100] {
                let mask: Vec<u8> = (0..length).map(|_| u8::from(random.below(100) < share) * 255).collect();
                let expected: Vec<usize> = (0..length).filter(|&row| mask[row] != 0).collect();
                let mut list = vec![];
                let subset = Subset::of_mask(&mask, &mut list);
                assert_eq!(subset.count(length), expected.len());
                match subset {
                    Subset::Rows(rows) => assert_eq!(rows, expected),
                    Subset::Mask(..) => assert!(expected.len() > length / LISTED),
                    Subset::All => panic!("a mask is a mask"),
                }
            }
        }
    }

    #[test]
    fn a_span_is_what_lies_in_the_part() {
        let rows = [3, 4, 9];
        assert_eq!(Subset::Rows(&rows).span(4..9), 1..2);
        assert_eq!(Subset::Rows(&rows).span(10..20), 3..3);
        assert_eq!(Subset::All.span(4..9), 0..5);
    }
}
