//! Requests filled one after the other as full as they can get (minimum bin slack).
//!
//! Each request starts from the largest document left and takes the set of others with the largest sum that fits,
//! found by subset sums in bitsets; of the sets with that sum the one with the largest documents, so that the small
//! ones, which fit anywhere, stay for the end. After Gupta and Ho, "A new heuristic algorithm for the one-dimensional
//! bin-packing problem", Production Planning & Control 10 (1999); Fleszar and Hindi, "New heuristics for
//! one-dimensional bin-packing", Computers & Operations Research 29 (2002). Tokens and documents only.

use super::search::{Clock, Random};
use super::{Assignment, Instance};

/// Words of memory that the bitsets of one request may take: larger ones are filled from fewer documents.
const MEMORY: usize = 1 << 22;

/// Fill requests until no document is left; `skip` (of 256) is how often a document that fits is passed over.
///
/// Returns `None` when the clock ran out.
pub(super) fn pack(
    instance: &Instance,
    order: &[u32],
    skip: u32,
    random: &mut Random,
    clock: &mut Clock<'_>,
) -> Option<Assignment> {
    let mut filler = Filler { instance, left: order.to_vec(), sums: Vec::new() };
    let mut request_of = vec![0; instance.len()];
    let mut requests = 0;
    while !filler.left.is_empty() {
        for i in filler.next(skip, random, clock)? {
            request_of[i as usize] = requests;
        }
        requests += 1;
    }
    Some(Assignment { request_of, requests: requests as usize })
}

struct Filler<'a> {
    instance: &'a Instance,
    /// Documents not yet placed, by descending tokens.
    left: Vec<u32>,
    /// Row r: the sums that the candidates from r on can make, bit s for sum s.
    sums: Vec<u64>,
}

impl Filler<'_> {
    fn next(&mut self, skip: u32, random: &mut Random, clock: &mut Clock<'_>) -> Option<Vec<u32>> {
        let tokens = &self.instance.tokens;
        let mut chosen = vec![0]; // positions in `left`
        let free = self.instance.limits.tokens - tokens[self.left[0] as usize];
        let mut documents = self.instance.limits.documents as usize - 1;
        let words = free as usize / 64 + 1;
        let fitting = 1 + self.left[1..].partition_point(|&i| tokens[i as usize] > free);
        // Where memory is short the smallest candidates are left out: they are the easiest to place later.
        let count = (self.left.len() - fitting).min((MEMORY / words).saturating_sub(1));
        if !clock.spend((count * words / 6 + 2 * self.left.len()) as u64) {
            return None;
        }
        let candidates = &self.left[fitting..fitting + count];
        let size = |r: usize| tokens[candidates[r] as usize] as usize;
        self.sums.clear();
        self.sums.resize((count + 1) * words, 0);
        self.sums[count * words] = 1;
        for r in (0..count).rev() {
            let (row, below) = self.sums[r * words..(r + 2) * words].split_at_mut(words);
            or_shifted(row, below, size(r));
        }
        let mut target = highest(&self.sums[..words], free as usize);
        let reaches = |r: usize, sum: usize| self.sums[r * words + sum / 64] >> (sum % 64) & 1 == 1;
        for r in 0..count {
            if target == 0 || documents == 0 {
                break;
            }
            let with = target >= size(r) && reaches(r + 1, target - size(r));
            let without = reaches(r + 1, target);
            if with && !(without && random.below(256) < skip) {
                chosen.push(fitting + r);
                target -= size(r);
                documents -= 1;
            }
        }
        // A target above 0 here means that the documents ran out first: the room stays empty.
        let request = chosen.iter().map(|&at| self.left[at]).collect();
        let mut chosen = chosen.into_iter().peekable();
        let mut at = 0;
        self.left.retain(|_| {
            let remove = chosen.next_if_eq(&at).is_some();
            at += 1;
            !remove
        });
        Some(request)
    }
}

/// `row = below | below << shift`.
pub(super) fn or_shifted(row: &mut [u64], below: &[u64], shift: usize) {
    row.copy_from_slice(below);
    let (whole, bits) = (shift / 64, shift % 64);
    if whole >= row.len() {
        return;
    }
    let high = &mut row[whole..];
    if bits == 0 {
        for (to, &from) in high.iter_mut().zip(below) {
            *to |= from;
        }
    } else {
        high[0] |= below[0] << bits;
        for (to, pair) in high[1..].iter_mut().zip(below.windows(2)) {
            *to |= pair[1] << bits | pair[0] >> (64 - bits);
        }
    }
}

/// The highest set bit of `row` at or below `limit`; bit 0 is always set.
pub(super) fn highest(row: &[u64], limit: usize) -> usize {
    let last = limit / 64;
    let masked = row[last] & (u64::MAX >> (63 - limit % 64));
    if masked != 0 {
        return last * 64 + 63 - masked.leading_zeros() as usize;
    }
    let word = row[..last].iter().rposition(|&word| word != 0).unwrap_or(0);
    word * 64 + 63 - row[word].max(1).leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_rows_are_the_sums_with_and_without_a_document() {
        for shift in [1, 5, 63, 64, 65, 127, 128, 200] {
            let below = [0b1011, 1 << 63, 7];
            let mut row = [0; 3];
            or_shifted(&mut row, &below, shift);
            let bit = |words: &[u64], s: usize| s < 192 && words[s / 64] >> (s % 64) & 1 == 1;
            for s in 0..192 {
                assert_eq!(bit(&row, s), bit(&below, s) || (s >= shift && bit(&below, s - shift)), "{shift} {s}");
            }
        }
    }

    #[test]
    fn the_highest_sum_is_at_or_below_the_limit() {
        let row = [1, 1 << 3, 1 << 10];
        assert_eq!(highest(&row, 191), 138);
        assert_eq!(highest(&row, 138), 138);
        assert_eq!(highest(&row, 137), 67);
        assert_eq!(highest(&row, 66), 0);
    }
}
