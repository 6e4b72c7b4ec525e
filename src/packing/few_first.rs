//! Requests without room to spare: as few documents in each as can be, and the last of them by exact cover.
//!
//! Where the documents fill the wanted number of requests nearly to the last token, few documents have few ways to do
//! so, and [`cover`](super::cover) looks at them all. Many documents have too many to list, and then there are many
//! packings too: requests are filled one after the other, each from the largest document left and as few others as
//! suffice, of sizes alike. So many small documents a request remain, and of such the ways to fill one abound. When
//! they are few enough to be listed, exact cover packs the rest. A search that leads nowhere starts anew, as long as
//! Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas algorithms", Information Processing Letters 47 (1993),
//! say.

use super::cover::{self, LISTED, List, Search};
use super::search::{Clock, Random};
use super::{Instance, best_fit};

/// By turns: fills that are listed at most, and documents that one may hold beyond the mean of those that are left.
/// Few fills are searched through soon, many leave more to choose from.
const KINDS: [(usize, usize); 4] = [(4_000, 0), (1_000, 1), (2_000, 0), (1_000, LISTED)];
/// The room of all requests together is less than this part of one: with more there are better ways.
const TIGHT: u64 = 16;
/// Fills of which one is taken where choosing at random finds none.
const SAMPLE: usize = 16;
/// Steps of the shortest search.
const UNIT: u64 = 1_000_000;
/// Documents a request among which fills abound: from there on requests take as many.
const ENOUGH: usize = 12;
/// Ways to choose all but two documents of a fill before one more document is taken.
const TRIES: u32 = 200;

/// What a round has shown.
pub(super) enum Outcome {
    /// Documents of each request.
    Found(Vec<Vec<u32>>),
    /// There is no packing into so many requests.
    Impossible,
    /// Nothing: the next round may.
    Unknown,
}

/// What rounds leave to each other.
#[derive(Default)]
pub(super) struct Rounds {
    number: u32,
    /// Steps that all of them took.
    pub(super) steps: u64,
    /// Memory of the sums, to be used again.
    sums: Vec<u64>,
}

/// Documents to be packed into so many requests.
pub(super) struct FewFirst<'a> {
    pub(super) instance: &'a Instance,
    /// What each costs in the dimension with the least room, and what a request holds of it.
    pub(super) sizes: &'a [u32],
    pub(super) capacity: u32,
    /// All documents, by descending size.
    order: Vec<u32>,
    count: usize,
    /// What all requests together may waste.
    waste: u32,
}

impl<'a> FewFirst<'a> {
    /// None where requests are too large or have too much room for fills to be few.
    pub(super) fn new(instance: &'a Instance, count: usize) -> Option<Self> {
        let limits = &instance.limits;
        let room = |sizes: &[u32], limit: u32| {
            let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
            (count as u64 * u64::from(limit)).checked_sub(total)
        };
        let tokens = room(&instance.tokens, limits.tokens)?;
        let (mut sizes, mut capacity, mut waste) = (&instance.tokens, limits.tokens, tokens);
        if instance.has_chunks() {
            let chunks = room(&instance.chunks, limits.chunks)?;
            if chunks * u64::from(limits.tokens) < tokens * u64::from(limits.chunks) {
                (sizes, capacity, waste) = (&instance.chunks, limits.chunks, chunks);
            }
        }
        if !cover::is_listable(capacity) || waste * TIGHT >= u64::from(capacity) {
            return None;
        }
        let order = best_fit::by_descending(sizes.iter().copied());
        Some(Self { instance, sizes, capacity, order, count, waste: waste as u32 })
    }

    /// One search; its length and its kind depend on the number of the round.
    pub(super) fn round(&self, rounds: &mut Rounds, random: &mut Random, clock: &mut Clock<'_>) -> Outcome {
        let before = clock.left();
        let outcome = self.search(rounds, random, clock);
        rounds.number += 1;
        rounds.steps += before - clock.left();
        outcome
    }

    fn search(&self, rounds: &mut Rounds, random: &mut Random, clock: &mut Clock<'_>) -> Outcome {
        let number = rounds.number;
        let (most_fills, beyond) = KINDS[number as usize % KINDS.len()];
        let mut left = self.order.clone();
        let mut requests: Vec<Vec<u32>> = Vec::new();
        let mut waste = self.waste;
        let mut wanted = LISTED;
        let fills = loop {
            while left.len() > wanted {
                let bins = (self.count - requests.len()) as u64;
                if bins == 0 || !clock.spend(left.len() as u64) {
                    return Outcome::Unknown;
                }
                let some = waste / bins as u32;
                let filled = self.fill(&left, left.len() / bins as usize, some, random, clock);
                let Some(request) = filled.or_else(|| self.any_fill(&left, some, &mut rounds.sums, random, clock))
                else {
                    return Outcome::Unknown;
                };
                waste -= self.capacity - request.iter().map(|&at| self.size(left[at])).sum::<u32>();
                requests.push(request.iter().map(|&at| left[at]).collect());
                let mut taken = request.into_iter().peekable();
                let mut at = 0;
                left.retain(|_| {
                    at += 1;
                    taken.next_if_eq(&(at - 1)).is_none()
                });
            }
            let bins = self.count - requests.len();
            let most = left.len().div_ceil(bins.max(1)) + beyond;
            let mut list = List::new(self, &left, waste, most, &mut rounds.sums, clock);
            let fit = (0..left.len()).rev().find(|&at| !list.extend(at, most_fills));
            clock.spend(list.steps);
            match fit {
                None => break list.fills,
                // As many as the smallest that do not have too many; each request that is filled takes some.
                Some(at) => wanted = left.len() - 1 - at,
            }
            if clock.is_stopped() {
                return Outcome::Unknown;
            }
        };
        let whole = if left.len() == LISTED { u128::MAX } else { (1 << left.len()) - 1 };
        // A search of all documents leads to the same end each time: it is as long as all that was tried before.
        let steps = if requests.is_empty() { UNIT.max(rounds.steps / 2) } else { UNIT * luby(number + 1) };
        let mut search = Search::new(steps, clock);
        let found = search.run(whole, &fills, waste);
        if found {
            let named =
                |documents: u128| (0..left.len()).filter(|i| documents >> i & 1 == 1).map(|i| left[i]).collect();
            requests.extend(search.chosen.into_iter().map(named));
            Outcome::Found(requests)
        } else if requests.is_empty() && search.steps > 0 && beyond >= LISTED {
            Outcome::Impossible
        } else {
            Outcome::Unknown
        }
    }

    fn size(&self, i: u32) -> u32 {
        self.sizes[i as usize]
    }

    /// Whether these documents keep every limit.
    pub(super) fn is_feasible(&self, documents: impl Iterator<Item = u32>) -> bool {
        let mut room = self.instance.room();
        for i in documents {
            let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
            if !room.fits(tokens, chunks) {
                return false;
            }
            room.take(tokens, chunks);
        }
        true
    }

    /// The largest document of `left` and as few others as fill a request but for `waste`: ascending positions.
    fn fill(
        &self,
        left: &[u32],
        mean: usize,
        waste: u32,
        random: &mut Random,
        clock: &mut Clock<'_>,
    ) -> Option<Vec<usize>> {
        let size = |at: usize| self.sizes[left[at] as usize];
        let free = self.capacity - size(0);
        let mut most = 0u64;
        let least = (0..left.len()).take_while(|&at| {
            most += u64::from(size(at));
            most < u64::from(self.capacity - waste)
        });
        let least = if mean < ENOUGH { least.count() } else { least.count().max(mean - 1) };
        for others in least..(least + 3).min(left.len()) {
            match others {
                0 => return Some(vec![0]),
                1 => {
                    let at = left.partition_point(|&i| self.sizes[i as usize] > free).max(1);
                    if at < left.len() && size(at) + waste >= free && self.is_feasible([left[0], left[at]].into_iter())
                    {
                        return Some(vec![0, at]);
                    }
                }
                _ => {
                    let tries = if others == 2 { 1 } else { TRIES };
                    for _ in 0..tries {
                        if let Some(request) = self.others(left, others, waste, random, clock) {
                            return Some(request);
                        }
                    }
                }
            }
        }
        None
    }

    /// All but two of the others at random among those of about the right size, the two most alike that complete it.
    fn others(
        &self,
        left: &[u32],
        others: usize,
        waste: u32,
        random: &mut Random,
        clock: &mut Clock<'_>,
    ) -> Option<Vec<usize>> {
        let size = |at: usize| self.sizes[left[at] as usize];
        let mut free = self.capacity - size(0);
        let mut chosen = vec![0];
        for missing in (3..=others as u32).rev() {
            let even =
                left.partition_point(|&i| u64::from(self.sizes[i as usize]) * u64::from(missing) > u64::from(free));
            let width = left.len() as u32 / 3 + 4;
            let at = (even + random.below(width) as usize).saturating_sub(width as usize / 2).clamp(1, left.len() - 1);
            if chosen.contains(&at) || size(at) > free {
                return None;
            }
            chosen.push(at);
            free -= size(at);
        }
        let middle = left.partition_point(|&i| u64::from(self.sizes[i as usize]) * 2 > u64::from(free)).max(1);
        let (mut larger, mut smaller) = (middle - 1, middle);
        let mut found = None;
        let mut steps = 0;
        while larger > 0 && smaller < left.len() {
            steps += 1;
            if chosen.contains(&larger) {
                larger -= 1;
                continue;
            }
            if chosen.contains(&smaller) {
                smaller += 1;
                continue;
            }
            let sum = size(larger) + size(smaller);
            if sum <= free && sum + waste >= free {
                let pair = [larger, smaller];
                if self.is_feasible(chosen.iter().chain(&pair).map(|&at| left[at])) {
                    found = Some(pair);
                    if random.below(4) > 0 {
                        break;
                    }
                }
            }
            if sum < free {
                larger -= 1;
            } else {
                smaller += 1;
            }
        }
        clock.spend(steps);
        chosen.extend(found?);
        chosen.sort_unstable();
        Some(chosen)
    }

    /// A fill of the largest document of `left`, of some that are there.
    fn any_fill(
        &self,
        left: &[u32],
        waste: u32,
        sums: &mut Vec<u64>,
        random: &mut Random,
        clock: &mut Clock<'_>,
    ) -> Option<Vec<usize>> {
        if left.len() > LISTED {
            return None;
        }
        let mut list = List::new(self, left, waste, LISTED, sums, clock);
        list.extend(0, SAMPLE);
        clock.spend(list.steps);
        let chosen = list.fills.get(random.below(list.fills.len().max(1) as u32) as usize)?.documents;
        Some((0..left.len()).filter(|at| chosen >> at & 1 == 1).collect())
    }
}

/// 1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8, ...
fn luby(number: u32) -> u64 {
    let mut number = number;
    loop {
        let bits = 32 - number.leading_zeros();
        if number == (1 << bits) - 1 {
            return 1 << (bits - 1);
        }
        number -= (1 << (bits - 1)) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Effort, Limits};
    use super::*;

    fn round(tokens: &[u32], count: usize) -> (Outcome, Instance) {
        let limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 120_000, tokens: 120_000 };
        let instance = Instance { tokens: tokens.to_vec(), chunks: Vec::new(), limits };
        let few_first = FewFirst::new(&instance, count).expect("no room to spare");
        let mut clock = Clock::new(&Effort { seconds: 1.0, interrupted: &|| false });
        let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
        for _ in 0..2 * KINDS.len() {
            let outcome = few_first.round(&mut rounds, &mut random, &mut clock);
            if !matches!(outcome, Outcome::Unknown) {
                return (outcome, instance.clone());
            }
        }
        (Outcome::Unknown, instance.clone())
    }

    #[test]
    fn requests_that_are_full_to_the_last_token_are_found() {
        let mut random = Random::new(7);
        for requests in [3, 12, 60, 200] {
            let mut tokens = Vec::new();
            for _ in 0..requests {
                let pieces = 4 + random.below(2);
                let mut left = 120_000;
                for missing in (1..pieces).rev() {
                    let mean = left / (missing + 1);
                    let piece = mean / 2 + random.below(mean);
                    tokens.push(piece);
                    left -= piece;
                }
                tokens.push(left);
            }
            let (Outcome::Found(found), instance) = round(&tokens, requests) else { panic!("{requests} requests") };
            assert_eq!(found.len(), requests);
            for request in &found {
                assert_eq!(request.iter().map(|&i| instance.tokens[i as usize]).sum::<u32>(), 120_000);
            }
            let mut all: Vec<u32> = found.into_iter().flatten().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..tokens.len() as u32));
        }
    }

    #[test]
    fn that_no_documents_fill_a_request_is_a_proof() {
        assert!(matches!(round(&[50_000, 50_000, 50_000, 50_000, 40_000], 2).0, Outcome::Impossible));
        assert!(matches!(round(&[70_000, 50_000, 70_000, 50_000], 2).0, Outcome::Found(_)));
    }

    #[test]
    fn searches_are_as_long_as_luby_says() {
        let lengths: Vec<u64> = (1..16).map(luby).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]);
    }
}
