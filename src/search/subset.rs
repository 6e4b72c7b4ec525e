//! The rows that a scan may find.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::memory::copied;

/// A mask that allows at most one row in eight becomes a list, so that the scan reads no other rows. At 8 bytes per row
/// the list is never larger than the mask.
const LISTED: usize = 8;

/// The memory of a [`Subset`].
#[derive(Clone, Debug, Default)]
pub struct SubsetMemory {
    mask: Vec<u8>,
    rows: Vec<usize>,
}

/// The rows that may be found, by their numbers over all parts.
#[derive(Clone, Copy, Debug)]
pub enum Subset<'a> {
    /// All rows.
    All,
    /// The rows whose byte is not zero, and how many there are.
    Mask(&'a [u8], usize),
    /// The listed rows, in ascending order, each once.
    Rows(&'a [usize]),
}

impl<'a> Subset<'a> {
    /// The subset of a mask, as a list or as a copy: its owner may change it during the search, and the rows and their
    /// number must agree.
    pub fn of_mask(mask: &[u8], memory: &'a mut SubsetMemory) -> Result<Self, TryReserveError> {
        let expected = count(mask);
        if expected > mask.len() / LISTED {
            memory.mask = copied(mask)?;
            return Ok(Self::Mask(&memory.mask, count(&memory.mask)));
        }
        let (rows, mut result) = (&mut memory.rows, Ok(()));
        rows.try_reserve_exact(expected)?;
        each(mask, |row| {
            // There may be more by now.
            if result.is_ok() {
                result = rows.try_reserve(1).map(|()| rows.push(row));
            }
        });
        result.map(|()| Self::Rows(&memory.rows))
    }

    /// The rows of these numbers; numbers outside `0..count` are ignored.
    pub fn of_rows(numbers: &[i64], count: usize, memory: &'a mut SubsetMemory) -> Result<Self, TryReserveError> {
        let mut rows = vec![];
        rows.try_reserve_exact(numbers.len())?;
        rows.extend(numbers.iter().filter_map(|&number| usize::try_from(number).ok().filter(|&row| row < count)));
        Ok(Self::of_list(rows, memory))
    }

    /// The listed rows, in any order and possibly repeated.
    pub(super) fn of_list(mut rows: Vec<usize>, memory: &'a mut SubsetMemory) -> Self {
        rows.sort_unstable();
        rows.dedup();
        memory.rows = rows;
        Self::Rows(&memory.rows)
    }

    /// How many of `all` rows may be found.
    pub fn count(&self, all: usize) -> usize {
        match *self {
            Self::All => all,
            Self::Mask(_, count) => count,
            Self::Rows(rows) => rows.len(),
        }
    }

    /// The part of the subset with row numbers in `rows`: row numbers from its start, or positions in the list.
    pub(super) fn items_of(&self, rows: Range<usize>) -> Range<usize> {
        match self {
            Self::Rows(list) => {
                let position = |bound| list.partition_point(|&row| row < bound);
                position(rows.start)..position(rows.end)
            }
            _ => 0..rows.len(),
        }
    }
}

/// Number of bytes that are not zero.
pub(super) fn count(mask: &[u8]) -> usize {
    // Sums of up to 255 fit in a byte, so the compiler adds a register of bytes at a time.
    let chunks = mask.chunks(255);
    chunks.map(|chunk| usize::from(chunk.iter().map(|&byte| u8::from(byte != 0)).sum::<u8>())).sum()
}

/// Visit the positions of the bytes that are not zero.
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
    fn a_mask_of_few_rows_becomes_a_list() {
        let mut random = Random(61);
        for length in [0, 1, 7, 8, 9, 255, 256, 3000] {
            for share in [0, 1, 10, 20, 100] {
                let mask: Vec<u8> = (0..length).map(|_| u8::from(random.below(100) < share) * 255).collect();
                let expected: Vec<usize> = (0..length).filter(|&row| mask[row] != 0).collect();
                let mut memory = SubsetMemory::default();
                let subset = Subset::of_mask(&mask, &mut memory).expect("memory");
                assert_eq!(subset.count(length), expected.len());
                match subset {
                    Subset::Rows(rows) => assert_eq!(rows, expected),
                    Subset::Mask(..) => assert!(expected.len() > length / LISTED),
                    Subset::All => panic!("a mask hides rows"),
                }
            }
        }
    }

    #[test]
    fn items_are_cut_at_the_part_bounds() {
        let rows = [3, 4, 9];
        assert_eq!(Subset::Rows(&rows).items_of(4..9), 1..2);
        assert_eq!(Subset::Rows(&rows).items_of(10..20), 3..3);
        assert_eq!(Subset::All.items_of(4..9), 0..5);
    }
}
