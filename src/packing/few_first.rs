//! Requests without room to spare: as few documents in each as can be, and the last of them by exact cover.
//!
//! Where the documents fill the wanted number of requests nearly to the last token, few documents have few ways to do
//! so, and [`cover`](super::cover) looks at them all: at fills of no more documents than a request holds in the mean
//! (rounded up) first, which are far fewer than all fills and often enough. Two searches take turns. One goes through all
//! covers in order, which alone finds one where there are very few. The other starts anew with its fills in random
//! order, as long as Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas algorithms", Information Processing
//! Letters 47 (1993), say: where there are many covers, most searches find one at once or never.
//!
//! Many documents have too many fills to list, and then there are many packings too: requests are filled one after the
//! other, each from the largest document left and as few others as suffice, of sizes alike. So many small documents a
//! request remain, and of such the ways to fill one abound. When they are few enough to be listed, exact cover packs
//! the rest.

use super::Instance;
use super::cover::{Search, Shown};
use super::fills::{self, Fill, LISTED, List, Waste};
use super::halves::{Cost, HALF, Halves};
use super::order::by_descending;
use super::search::{Clock, Random, luby};

/// Fills of all documents that are listed at most.
const WHOLE: usize = 8_000;
/// Fills of all documents from which on there are so many covers that three of four rounds fill requests first.
const MANY: usize = 1_500;
/// Documents that a fill may hold beyond the mean, rounded up, when all are listed: the next where no cover is left.
const BEYOND: [usize; 3] = [0, 1, LISTED];
/// Where requests are filled first, by turns: fills that are listed at most, and documents that one may hold beyond the
/// mean of those that are left. Few fills are searched through soon, many leave more to choose from.
const KINDS: [(usize, usize); 4] = [(4_000, 0), (1_000, 1), (2_000, 0), (1_000, LISTED)];
/// The room of all requests together is less than this part of one: with more there are better ways.
const TIGHT: u64 = 16;
/// Fills of which one is taken where choosing at random finds none.
const SAMPLE: usize = 16;
/// Steps of the shortest search among the fills of all documents, and of those that remain when requests were filled.
const UNIT: u64 = 250_000;
const REST_UNIT: u64 = 1_000_000;
/// The search that goes through all covers has so many times the steps of the others.
const THOROUGH: u64 = 4;
/// What other methods take, exact cover takes so many times, where it looks at all documents and hardly any are alike.
/// Of documents that are, it tries one after the other in vain, and the linear program tells them by kinds.
const SHARE: u64 = 12;
/// Hardly any: less than this part of the documents are of the size of another.
const ALIKE: usize = 10;
/// Documents a request among which fills abound: from there on requests take as many.
const ENOUGH: usize = 12;
/// Documents a request from which on those that fill it in tokens and in chunks are looked for in a sample.
const SAMPLED: u64 = 5;
/// Samples that are looked at for one request.
const SAMPLES: u32 = 16;
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
    /// Those that filled requests first.
    filled: u32,
    /// Steps that all of them took.
    steps: u64,
    /// Memory of the sums, to be used again.
    sums: Vec<u64>,
    halves: Halves,
    /// How many documents have few enough fills, by kind, where that was seen for all documents.
    wanted: [usize; KINDS.len()],
    /// The packing that they started from, and its bound.
    start: (usize, usize),
    whole: Whole,
}

impl Rounds {
    /// Whether it is their turn when `others` is what other methods took.
    pub(super) fn are_due(&self, others: u64) -> bool {
        let share = if let Whole::Listed(listed) = &self.whole { listed.share } else { 1 };
        self.steps <= share * others
    }

    /// Forget what does not hold for a packing of so many requests.
    pub(super) fn start_from(&mut self, requests: usize, bound: usize) {
        if (requests, bound) != self.start {
            self.start = (requests, bound);
            self.whole = Whole::default();
            self.wanted = [0; KINDS.len()];
        }
    }
}

/// The fills of all documents.
enum Whole {
    /// Those of so many documents beyond the mean are to be listed next, by their place in [`BEYOND`].
    Next(usize),
    TooMany,
    Listed(Box<Listed>),
}

impl Default for Whole {
    fn default() -> Self {
        Self::Next(0)
    }
}

struct Listed {
    /// Which are listed: a place in [`BEYOND`].
    beyond: usize,
    fills: Vec<Fill>,
    /// Goes through all covers.
    thorough: Search,
    /// Searches that started anew.
    number: u32,
    /// See [`SHARE`].
    share: u64,
}

/// Documents to be packed into so many requests.
pub(super) struct FewFirst<'a> {
    pub(super) instance: &'a Instance,
    /// What each costs in the dimension with the least room, and what a request holds of it.
    pub(super) sizes: &'a [u32],
    pub(super) capacity: u32,
    by_chunks: bool,
    /// All documents, by descending size.
    order: Vec<u32>,
    count: usize,
    /// What all requests together may waste.
    waste: Waste,
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
        let (mut sizes, mut capacity, mut waste, mut other) = (&instance.tokens, limits.tokens, tokens, 0);
        let mut by_chunks = false;
        if instance.has_chunks() {
            let chunks = room(&instance.chunks, limits.chunks)?;
            other = chunks;
            if chunks * u64::from(limits.tokens) < tokens * u64::from(limits.chunks) {
                (sizes, capacity, waste, other) = (&instance.chunks, limits.chunks, chunks, tokens);
                by_chunks = true;
            }
        }
        if !fills::is_listable(capacity) || waste * TIGHT >= u64::from(capacity) {
            return None;
        }
        let order = by_descending(sizes.iter().copied());
        let waste = [waste as u32, other.min(u64::from(u32::MAX)) as u32];
        Some(Self { instance, sizes, capacity, by_chunks, order, count, waste })
    }

    /// One search; its length and its kind depend on the number of the round.
    pub(super) fn round(&self, rounds: &mut Rounds, random: &mut Random, clock: &mut Clock<'_>) -> Outcome {
        let before = clock.left();
        if let Whole::Next(beyond) = rounds.whole {
            rounds.whole = self.list_all(beyond, &mut rounds.sums, clock);
        }
        let turn = rounds.number % 4 == 3;
        let outcome = match &mut rounds.whole {
            Whole::Listed(listed) if turn || listed.fills.len() < MANY => match self.whole(listed, random, clock) {
                Ok(outcome) => outcome,
                Err(next) => {
                    rounds.whole = next;
                    Outcome::Unknown
                }
            },
            _ => self.fill_first(rounds, random, clock),
        };
        rounds.number += 1;
        // A round that soon ends counts as one that does not: many more of its kind would end like it.
        rounds.steps += (before - clock.left()).max(UNIT);
        outcome
    }

    fn list_all(&self, beyond: usize, sums: &mut Vec<u64>, clock: &mut Clock<'_>) -> Whole {
        if self.order.len() > LISTED {
            return Whole::TooMany;
        }
        let most = self.order.len().div_ceil(self.count.max(1)).saturating_add(BEYOND[beyond]);
        let mut list = List::new(self, &self.order, self.waste, most, sums, clock);
        let complete = (0..self.order.len()).rev().all(|at| list.extend(at, WHOLE));
        clock.spend(list.steps);
        if !complete {
            return Whole::TooMany;
        }
        let thorough = Search::new(all(self.order.len()), &list.fills, self.waste, false);
        let sizes = self.order.iter().map(|&i| self.sizes[i as usize]);
        let alike = sizes.clone().zip(sizes.skip(1)).filter(|(one, next)| one == next).count();
        let share = if alike * ALIKE < self.order.len() { SHARE } else { 1 };
        Whole::Listed(Box::new(Listed { beyond, fills: list.fills, thorough, number: 0, share }))
    }

    /// A search of all documents that starts anew, then the one that goes through all covers.
    ///
    /// The error is what to look at where the fills that are listed have no cover.
    fn whole(&self, listed: &mut Listed, random: &mut Random, clock: &mut Clock<'_>) -> Result<Outcome, Whole> {
        listed.number += 1;
        let steps = UNIT * luby(listed.number);
        let mut search = Self::anew(&self.order, &mut listed.fills, self.waste, random, clock);
        let mut shown = search.run(steps, clock);
        if shown == Shown::Nothing {
            shown = listed.thorough.run(THOROUGH * steps, clock);
            if shown == Shown::Cover {
                return Ok(Outcome::Found(named(&listed.thorough, &self.order).collect()));
            }
        }
        match shown {
            Shown::Cover => Ok(Outcome::Found(named(&search, &self.order).collect())),
            Shown::Nothing => Ok(Outcome::Unknown),
            Shown::NoCover if listed.beyond + 1 < BEYOND.len() => Err(Whole::Next(listed.beyond + 1)),
            Shown::NoCover => Ok(Outcome::Impossible),
        }
    }

    /// A search with its fills in random order.
    fn anew(documents: &[u32], fills: &mut [Fill], waste: Waste, random: &mut Random, clock: &mut Clock<'_>) -> Search {
        clock.spend(8 * fills.len() as u64);
        for at in (1..fills.len()).rev() {
            fills.swap(at, random.below(at as u32 + 1) as usize);
        }
        Search::new(all(documents.len()), fills, waste, random.below(2) == 0)
    }

    fn fill_first(&self, rounds: &mut Rounds, random: &mut Random, clock: &mut Clock<'_>) -> Outcome {
        let number = rounds.filled;
        rounds.filled += 1;
        let (most_fills, beyond) = KINDS[number as usize % KINDS.len()];
        let mut left = self.order.clone();
        let mut requests: Vec<Vec<u32>> = Vec::new();
        let mut waste = self.waste;
        // The first list is the same in every round of a kind, and most often too long.
        let remembered = &mut rounds.wanted[number as usize % KINDS.len()];
        let mut wanted = if *remembered > 0 { *remembered } else { LISTED };
        let fills = loop {
            while left.len() > wanted {
                let bins = (self.count - requests.len()) as u64;
                if bins == 0 || !clock.spend(left.len() as u64) {
                    return Outcome::Unknown;
                }
                let some = waste.map(|waste| waste / bins as u32);
                // Among few documents a request those of the right sizes are rarely in a sample.
                let filled = if self.instance.has_chunks() && left.len() as u64 >= SAMPLED * bins {
                    self.fill_both(&left, some, &mut rounds.halves, random, clock)
                } else {
                    let filled = self.fill(&left, left.len() / bins as usize, some[0], random, clock);
                    filled.or_else(|| self.any_fill(&left, some[0], &mut rounds.sums, random, clock))
                };
                let Some(request) = filled else { return Outcome::Unknown };
                let Some(wasted) = self.wasted(request.iter().map(|&at| left[at])) else { return Outcome::Unknown };
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
            let bins = self.count - requests.len();
            let most = left.len().div_ceil(bins.max(1)).saturating_add(beyond);
            let mut list = List::new(self, &left, waste, most, &mut rounds.sums, clock);
            let fit = (0..left.len()).rev().find(|&at| !list.extend(at, most_fills));
            clock.spend(list.steps);
            match fit {
                None => break list.fills,
                // As many as the smallest that do not have too many; each request that is filled takes some.
                Some(at) => wanted = left.len() - 1 - at,
            }
            if requests.is_empty() {
                *remembered = wanted;
            }
            if clock.is_stopped() {
                return Outcome::Unknown;
            }
        };
        // The fills of the largest documents first, as they are listed: in random order fewer searches find a cover.
        let mut search = Search::new(all(left.len()), &fills, waste, false);
        if search.run(REST_UNIT * luby(number + 1), clock) != Shown::Cover {
            return Outcome::Unknown;
        }
        requests.extend(named(&search, &left));
        Outcome::Found(requests)
    }

    /// What a request of these documents wastes, if they keep every limit.
    pub(super) fn wasted(&self, documents: impl Iterator<Item = u32>) -> Option<Waste> {
        let mut room = self.instance.room();
        for i in documents {
            let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
            if !room.fits(tokens, chunks) {
                return None;
            }
            room.take(tokens, chunks);
        }
        let chunks = if self.instance.has_chunks() { room.chunks } else { 0 };
        Some(if self.by_chunks { [chunks, room.tokens] } else { [room.tokens, chunks] })
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
                    let fits = || self.wasted([left[0], left[at]].into_iter()).is_some();
                    if at < left.len() && size(at) + waste >= free && fits() {
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
                if self.wasted(chosen.iter().chain(&pair).map(|&at| left[at])).is_some() {
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

    /// The largest document of `left` and those of some others that fill a request best in tokens and in chunks.
    fn fill_both(
        &self,
        left: &[u32],
        waste: Waste,
        halves: &mut Halves,
        random: &mut Random,
        clock: &mut Clock<'_>,
    ) -> Option<Vec<usize>> {
        let free = self.wasted([left[0]].into_iter())?;
        let mut order: Vec<usize> = (1..left.len()).collect();
        let count = order.len().min(2 * HALF);
        for _ in 0..SAMPLES {
            for at in 0..count {
                let other = at + random.below((order.len() - at) as u32) as usize;
                order.swap(at, other);
            }
            let costs: Vec<Cost> = order[..count].iter().map(|&at| self.cost(left[at])).collect();
            let (which, steps) = halves.fullest(&costs, free, self.instance.limits.documents - 1, waste);
            if !clock.spend(steps) {
                return None;
            }
            if let Some(which) = which {
                let others = order.iter().enumerate().take(count).filter(|&(k, _)| which >> k & 1 == 1);
                let mut chosen: Vec<usize> = std::iter::once(0).chain(others.map(|(_, &at)| at)).collect();
                chosen.sort_unstable();
                return Some(chosen);
            }
        }
        None
    }

    /// What a document costs, the dimension with the least room first.
    fn cost(&self, i: u32) -> Cost {
        let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
        if self.by_chunks { [chunks, tokens] } else { [tokens, chunks] }
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
        let mut list = List::new(self, left, [waste, self.waste[1]], LISTED, sums, clock);
        list.extend(0, SAMPLE);
        clock.spend(list.steps);
        let chosen = list.fills.get(random.below(list.fills.len().max(1) as u32) as usize)?.documents;
        Some((0..left.len()).filter(|at| chosen >> at & 1 == 1).collect())
    }
}

/// The set of the first documents.
fn all(documents: usize) -> u128 {
    if documents == LISTED { u128::MAX } else { (1 << documents) - 1 }
}

/// The requests of a cover of these documents.
fn named<'a>(search: &'a Search, documents: &'a [u32]) -> impl Iterator<Item = Vec<u32>> + 'a {
    search.chosen().map(|set| (0..documents.len()).filter(|at| set >> at & 1 == 1).map(|at| documents[at]).collect())
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
    fn requests_that_are_full_in_tokens_and_in_chunks_are_found() {
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
            let few_first = FewFirst::new(&instance, requests).expect("little room to spare");
            let mut clock = Clock::new(&Effort { seconds: 5.0, interrupted: &|| false });
            let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
            let found = loop {
                match few_first.round(&mut rounds, &mut random, &mut clock) {
                    Outcome::Found(found) => break found,
                    Outcome::Impossible => panic!("there is a packing"),
                    Outcome::Unknown => assert!(!clock.is_stopped(), "{requests} requests"),
                }
            };
            assert_eq!(found.len(), requests);
            for request in &found {
                assert!(few_first.wasted(request.iter().copied()).is_some());
            }
            let mut all: Vec<u32> = found.into_iter().flatten().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..8 * requests as u32));
        }
    }

    #[test]
    fn a_round_that_ends_at_once_counts_as_a_search() {
        // Nothing fits beside the first document, so no request can be filled, and every round ends there.
        let limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 120_000, tokens: 120_000 };
        let mut tokens = vec![119_999; 1];
        tokens.extend([40_000; 3 * 60]);
        let instance = Instance { tokens, chunks: Vec::new(), limits };
        let few_first = FewFirst::new(&instance, 61).expect("no room to spare");
        let mut clock = Clock::new(&Effort { seconds: 1.0, interrupted: &|| false });
        let (mut rounds, mut random) = (Rounds::default(), Random::new(1));
        assert!(rounds.are_due(0));
        few_first.round(&mut rounds, &mut random, &mut clock);
        assert!(!rounds.are_due(UNIT - 1));
        assert!(rounds.are_due(UNIT));
    }

    #[test]
    fn that_no_documents_fill_a_request_is_a_proof() {
        assert!(matches!(round(&[50_000, 50_000, 50_000, 50_000, 40_000], 2).0, Outcome::Impossible));
        assert!(matches!(round(&[70_000, 50_000, 70_000, 50_000], 2).0, Outcome::Found(_)));
    }
}
