//! Set partitioning: packs documents that fill the wanted number of requests nearly to the last token.
//!
//! Few documents have few [`tight_subsets`], and [`exact_cover`](super::exact_cover) chooses requests
//! among them all: first among the subsets of no more documents than a request holds on average (rounded up), which are
//! far fewer than all and often enough. Each search has the subsets in random order and restarts after the number of steps
//! that Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas algorithms", Information Processing Letters 47 (1993),
//! give: where there are many covers, most searches find one soon or never.
//!
//! Many documents have too many tight subsets, and then there are many packings too. Requests are filled one after the
//! other, each with the largest document left and as few others as suffice, of similar sizes. Many small documents a
//! request remain, which can fill a request in many ways. When few enough are left, exact cover packs them.

use super::super::budget::Budget;
use super::super::instance::Instance;
use super::super::random::Random;
use super::super::sort::by_descending;
use super::dimensions::{Dimensions, Waste};
use super::exact_cover::{ExactCover, Status};
use super::filling::{Filling, Memory};
use super::tight_subsets::{self, Enumeration, MAX_DOCUMENTS, Subset};

/// Most subsets of all documents that are enumerated.
const MOST: usize = 8_000;
/// Subsets of all documents from which on there are so many covers that three of four rounds fill requests first.
const MANY: usize = 1_500;
/// Documents that a subset may hold beyond the average, rounded up. The next value applies if there is no cover.
const BEYOND: [usize; 3] = [0, 1, MAX_DOCUMENTS];
/// For the rounds that fill requests first, in turn: the most subsets of the rest, and the documents that one may hold
/// beyond the average of the rest. Few subsets are searched quickly, many leave more choice.
const KINDS: [(usize, usize); 4] = [(4_000, 0), (1_000, 1), (2_000, 0), (1_000, MAX_DOCUMENTS)];
/// The requests must have less room in total than one request divided by this; with more, other methods are better.
const TIGHT: u64 = 16;
/// Steps of the shortest search, among the subsets of all documents and of the rest.
const UNIT: u64 = 250_000;
const REST_UNIT: u64 = 1_000_000;
/// Set partitioning takes this many times the steps of the other methods, if the subsets of all documents are enumerated
/// and hardly any documents are of equal size. It tries equal documents one after the other in vain, whereas the linear
/// program treats them as one kind.
const SHARE: u64 = 12;
/// Hardly any: less than this part of the documents have the size of another.
const ALIKE: usize = 10;

/// The outcome of a round.
pub(super) enum Outcome {
    /// The documents of each request.
    Found(Vec<Vec<u32>>),
    /// Proven: there is no packing into so many requests.
    Impossible,
    /// Neither; the next round may find more.
    Unknown,
}

/// What is kept between rounds.
#[derive(Default)]
pub(super) struct Rounds {
    number: u32,
    /// Rounds that filled requests first.
    filled: u32,
    /// Steps of all rounds.
    steps: u64,
    memory: Memory,
    /// By kind of round, the number of documents that have few enough subsets, as found for all documents. 0 is unknown.
    wanted: [usize; KINDS.len()],
    /// The number of requests that the rounds started from, and its lower bound.
    start: (usize, usize),
    subsets: Subsets,
}

impl Rounds {
    /// Whether it is the turn of a round when the other methods took `other_steps`.
    pub(super) fn are_due(&self, other_steps: u64) -> bool {
        let share = if let Subsets::Enumerated(enumerated) = &self.subsets { enumerated.share } else { 1 };
        self.steps <= share * other_steps
    }

    /// Forget what does not apply to a packing of so many requests.
    pub(super) fn start_from(&mut self, requests: usize, bound: usize) {
        if (requests, bound) != self.start {
            self.start = (requests, bound);
            self.subsets = Subsets::default();
            self.wanted = [0; KINDS.len()];
        }
    }
}

/// The tight subsets of all documents.
enum Subsets {
    /// To be enumerated, with this index of [`BEYOND`].
    Next(usize),
    TooMany,
    Enumerated(Enumerated),
}

impl Default for Subsets {
    fn default() -> Self {
        Self::Next(0)
    }
}

struct Enumerated {
    /// The index of [`BEYOND`].
    beyond: usize,
    subsets: Vec<Subset>,
    /// Number of searches.
    searches: u32,
    /// See [`SHARE`].
    share: u64,
}

/// The problem: documents to be packed into a number of requests.
pub(super) struct SetPartitioning<'a> {
    dimensions: Dimensions<'a>,
    /// All documents, by descending size.
    order: Vec<u32>,
    requests: usize,
    /// What all requests together may waste.
    waste: Waste,
}

impl<'a> SetPartitioning<'a> {
    /// None if requests are too large, or have too much room for few tight subsets.
    pub(super) fn new(instance: &'a Instance, requests: usize) -> Option<Self> {
        let (dimensions, [waste, other]) = Dimensions::new(instance, requests)?;
        let capacity = dimensions.capacity;
        if !tight_subsets::is_feasible(capacity) || waste * TIGHT >= u64::from(capacity) {
            return None;
        }
        let order = by_descending(dimensions.sizes.iter().copied());
        let waste = [waste as u32, other.min(u64::from(u32::MAX)) as u32];
        Some(Self { dimensions, order, requests, waste })
    }

    /// One search. The number of the round determines its kind and its length.
    pub(super) fn round(&self, rounds: &mut Rounds, random: &mut Random, budget: &mut Budget<'_>) -> Outcome {
        let before = budget.left();
        if let Subsets::Next(beyond) = rounds.subsets {
            rounds.subsets = self.enumerate(beyond, &mut rounds.memory.sums, budget);
        }
        let is_turn = rounds.number % 4 == 3;
        let outcome = match &mut rounds.subsets {
            Subsets::Enumerated(enumerated) if is_turn || enumerated.subsets.len() < MANY => {
                match self.cover(enumerated, random, budget) {
                    Ok(outcome) => outcome,
                    Err(next) => {
                        rounds.subsets = next;
                        Outcome::Unknown
                    }
                }
            }
            _ => self.fill_then_cover(rounds, random, budget),
        };
        rounds.number += 1;
        // A round that ends early counts as a whole one, because many more of its kind would end early too.
        rounds.steps += (before - budget.left()).max(UNIT);
        outcome
    }

    /// The tight subsets of all documents.
    fn enumerate(&self, beyond: usize, sums: &mut Vec<u64>, budget: &mut Budget<'_>) -> Subsets {
        if self.order.len() > MAX_DOCUMENTS {
            return Subsets::TooMany;
        }
        let documents = self.order.len().div_ceil(self.requests.max(1)).saturating_add(BEYOND[beyond]);
        let mut enumeration = Enumeration::new(self.dimensions, &self.order, self.waste, documents, sums, budget);
        let is_complete = (0..self.order.len()).rev().all(|at| enumeration.extend(at, MOST));
        budget.spend(enumeration.steps);
        if !is_complete {
            return Subsets::TooMany;
        }
        let sizes = self.order.iter().map(|&i| self.dimensions.sizes[i as usize]);
        let alike = sizes.clone().zip(sizes.skip(1)).filter(|(one, next)| one == next).count();
        let share = if alike * ALIKE < self.order.len() { SHARE } else { 1 };
        Subsets::Enumerated(Enumerated { beyond, subsets: enumeration.subsets, searches: 0, share })
    }

    /// Search for a cover of all documents, with the subsets in random order.
    ///
    /// The error is what to enumerate next if the subsets have no cover.
    fn cover(
        &self,
        enumerated: &mut Enumerated,
        random: &mut Random,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Subsets> {
        let subsets = &mut enumerated.subsets;
        budget.spend(8 * subsets.len() as u64);
        for at in (1..subsets.len()).rev() {
            subsets.swap(at, random.below(at as u32 + 1) as usize);
        }
        let mut search = ExactCover::new(all(self.order.len()), subsets, self.waste, random.below(2) == 0);
        enumerated.searches += 1;
        match search.run(UNIT * luby(enumerated.searches), budget) {
            Status::Cover => Ok(Outcome::Found(requests_of(&search, &self.order).collect())),
            Status::OutOfSteps => Ok(Outcome::Unknown),
            Status::NoCover if enumerated.beyond + 1 < BEYOND.len() => Err(Subsets::Next(enumerated.beyond + 1)),
            Status::NoCover => Ok(Outcome::Impossible),
        }
    }

    /// Fill requests until the rest has few enough subsets, and search for a cover of the rest.
    fn fill_then_cover(&self, rounds: &mut Rounds, random: &mut Random, budget: &mut Budget<'_>) -> Outcome {
        let number = rounds.filled;
        rounds.filled += 1;
        let (most, beyond) = KINDS[number as usize % KINDS.len()];
        let mut left = self.order.clone();
        let mut requests: Vec<Vec<u32>> = Vec::new();
        let mut waste = self.waste;
        // The first enumeration is the same in every round of a kind, and mostly too long.
        let remembered = &mut rounds.wanted[number as usize % KINDS.len()];
        let mut wanted = if *remembered > 0 { *remembered } else { MAX_DOCUMENTS };
        let subsets = loop {
            while left.len() > wanted {
                let missing = (self.requests - requests.len()) as u64;
                if missing == 0 || !budget.spend(left.len() as u64) {
                    return Outcome::Unknown;
                }
                let share = waste.map(|waste| waste / missing as u32);
                let filling =
                    Filling { dimensions: self.dimensions, left: &left, waste: share, total_waste: self.waste[1] };
                let filled = filling.fill(missing, &mut rounds.memory, random, budget);
                let Some(request) = filled else { return Outcome::Unknown };
                let Some(wasted) = self.dimensions.waste(request.iter().map(|&at| left[at])) else {
                    return Outcome::Unknown;
                };
                if wasted[0] > waste[0] || wasted[1] > waste[1] {
                    return Outcome::Unknown;
                }
                waste = [waste[0] - wasted[0], waste[1] - wasted[1]];
                requests.push(request.iter().map(|&at| left[at]).collect());
                let mut taken = request.into_iter().peekable();
                let mut at = 0;
                left.retain(|_| {
                    at += 1;
                    taken.next_if_eq(&(at - 1)).is_none()
                });
            }
            let missing = self.requests - requests.len();
            let documents = left.len().div_ceil(missing.max(1)).saturating_add(beyond);
            let mut enumeration =
                Enumeration::new(self.dimensions, &left, waste, documents, &mut rounds.memory.sums, budget);
            let too_many_from = (0..left.len()).rev().find(|&at| !enumeration.extend(at, most));
            budget.spend(enumeration.steps);
            match too_many_from {
                None => break enumeration.subsets,
                // As many as the smallest documents that do not have too many subsets.
                Some(at) => wanted = left.len() - 1 - at,
            }
            if requests.is_empty() {
                *remembered = wanted;
            }
            if budget.is_exhausted() {
                return Outcome::Unknown;
            }
        };
        // In the order of the enumeration, which finds a cover more often than a random order does.
        let mut search = ExactCover::new(all(left.len()), &subsets, waste, false);
        if search.run(REST_UNIT * luby(number + 1), budget) != Status::Cover {
            return Outcome::Unknown;
        }
        requests.extend(requests_of(&search, &left));
        Outcome::Found(requests)
    }
}

/// The set of the first `documents` documents.
fn all(documents: usize) -> u128 {
    if documents == MAX_DOCUMENTS { u128::MAX } else { (1 << documents) - 1 }
}

/// The requests of the cover that was found.
fn requests_of<'a>(search: &'a ExactCover, documents: &'a [u32]) -> impl Iterator<Item = Vec<u32>> + 'a {
    search.chosen().map(|set| (0..documents.len()).filter(|at| set >> at & 1 == 1).map(|at| documents[at]).collect())
}

/// The lengths of successive restarts (Luby, Sinclair and Zuckerman): 1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8, ...
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
    use super::super::super::budget::Effort;
    use super::super::super::instance::Limits;
    use super::*;

    fn round(tokens: &[u32], count: usize) -> (Outcome, Instance) {
        let limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 120_000, tokens: 120_000 };
        let instance = Instance { tokens: tokens.to_vec(), chunks: Vec::new(), limits };
        let partitioning = SetPartitioning::new(&instance, count).expect("no room to spare");
        let mut budget = Budget::new(&Effort { seconds: 1.0, interrupted: &|| false });
        let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
        for _ in 0..2 * KINDS.len() {
            let outcome = partitioning.round(&mut rounds, &mut random, &mut budget);
            if !matches!(outcome, Outcome::Unknown) {
                return (outcome, instance.clone());
            }
        }
        (Outcome::Unknown, instance.clone())
    }

    #[test]
    fn requests_full_to_the_last_token_are_found() {
        let mut random = Random::new(7);
        for requests in [3, 12, 16, 60, 200] {
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
    fn requests_full_in_tokens_and_in_chunks_are_found() {
        let limits = Limits { documents: 512, chunks: 1_600, tokens_per_document: 32_000, tokens: 120_000 };
        let mut random = Random::new(11);
        for requests in [4, 9, 30] {
            let (mut tokens, mut chunks) = (Vec::new(), Vec::new());
            for _ in 0..requests {
                let (mut free_tokens, mut free_chunks) = (119_900, 1_599);
                for missing in (1..8).rev() {
                    let (even_tokens, even_chunks) = (free_tokens / (missing + 1), free_chunks / (missing + 1));
                    let (some_tokens, some_chunks) =
                        (even_tokens / 2 + random.below(even_tokens), even_chunks / 2 + random.below(even_chunks));
                    tokens.push(some_tokens);
                    chunks.push(some_chunks);
                    (free_tokens, free_chunks) = (free_tokens - some_tokens, free_chunks - some_chunks);
                }
                tokens.push(free_tokens);
                chunks.push(free_chunks);
            }
            let instance = Instance { tokens, chunks, limits };
            let partitioning = SetPartitioning::new(&instance, requests).expect("little room to spare");
            let mut budget = Budget::new(&Effort { seconds: 5.0, interrupted: &|| false });
            let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
            let found = loop {
                match partitioning.round(&mut rounds, &mut random, &mut budget) {
                    Outcome::Found(found) => break found,
                    Outcome::Impossible => panic!("there is a packing"),
                    Outcome::Unknown => assert!(!budget.is_exhausted(), "{requests} requests"),
                }
            };
            assert_eq!(found.len(), requests);
            for request in &found {
                assert!(partitioning.dimensions.waste(request.iter().copied()).is_some());
            }
            let mut all: Vec<u32> = found.into_iter().flatten().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..8 * requests as u32));
        }
    }

    #[test]
    fn a_round_that_ends_early_counts_as_a_whole_one() {
        // Nothing fits beside the first document, so every round ends there.
        let limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 120_000, tokens: 120_000 };
        let mut tokens = vec![119_999; 1];
        tokens.extend([40_000; 3 * 60]);
        let instance = Instance { tokens, chunks: Vec::new(), limits };
        let partitioning = SetPartitioning::new(&instance, 61).expect("no room to spare");
        let mut budget = Budget::new(&Effort { seconds: 1.0, interrupted: &|| false });
        let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
        assert!(rounds.are_due(0));
        partitioning.round(&mut rounds, &mut random, &mut budget);
        assert!(!rounds.are_due(UNIT - 1));
        assert!(rounds.are_due(UNIT));
    }

    #[test]
    fn restarts_follow_the_sequence_of_luby() {
        let lengths: Vec<u64> = (1..16).map(luby).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]);
    }

    #[test]
    fn documents_without_a_cover_are_proven_impossible() {
        assert!(matches!(round(&[50_000, 50_000, 50_000, 50_000, 40_000], 2).0, Outcome::Impossible));
        assert!(matches!(round(&[70_000, 50_000, 70_000, 50_000], 2).0, Outcome::Found(_)));
    }
}
