//! Filling one request nearly completely, from more documents than can be enumerated.

use super::super::budget::Budget;
use super::super::random::Random;
use super::dimensions::{Cost, Dimensions, Waste};
use super::meet_in_the_middle::{HALF, Halves};
use super::tight_subsets::{Enumeration, MAX_DOCUMENTS};

/// Average documents a request from which on tight subsets abound, and requests are filled with as many as that.
const ENOUGH: usize = 12;
/// Attempts to choose all but two documents of a request, before one more document is allowed.
const TRIES: u32 = 200;
/// Average documents a request from which on a request is filled in tokens and in chunks from a random sample.
const SAMPLED: u64 = 5;
/// Samples for one request.
const SAMPLES: u32 = 16;
/// Subsets that are found before one is drawn, where random choice finds none.
const SAMPLE: usize = 16;

/// Memory that is reused.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) sums: Vec<u64>,
    halves: Halves,
}

/// A request that holds the largest document so far.
pub(super) struct Filling<'a> {
    pub(super) dimensions: Dimensions<'a>,
    /// The documents to choose from, by descending size. The first is in the request.
    pub(super) left: &'a [u32],
    /// What the request may waste.
    pub(super) waste: Waste,
    /// What all requests together may waste in the less scarce dimension.
    pub(super) total_waste: u32,
}

impl Filling<'_> {
    /// The documents of the request as ascending positions in `left`; None if none were found. `missing` requests must
    /// hold all documents of `left`.
    pub(super) fn fill(
        &self,
        missing: u64,
        memory: &mut Memory,
        random: &mut Random,
        budget: &mut Budget<'_>,
    ) -> Option<Vec<usize>> {
        let documents = self.left.len() as u64;
        // With few documents a request, a sample rarely holds documents of the right sizes.
        if self.dimensions.instance.has_chunks() && documents >= SAMPLED * missing {
            return self.fill_from_sample(&mut memory.halves, random, budget);
        }
        let filled = self.fill_with_few((documents / missing) as usize, random, budget);
        filled.or_else(|| self.fill_by_enumeration(&mut memory.sums, random, budget))
    }

    /// Add as few documents as possible. `average` is the number that a request holds on average.
    fn fill_with_few(&self, average: usize, random: &mut Random, budget: &mut Budget<'_>) -> Option<Vec<usize>> {
        let (left, waste) = (self.left, self.waste[0]);
        let size = |at: usize| self.dimensions.sizes[left[at] as usize];
        let free = self.dimensions.capacity - size(0);
        let mut most = 0u64;
        let least = (0..left.len()).take_while(|&at| {
            most += u64::from(size(at));
            most < u64::from(self.dimensions.capacity - waste)
        });
        let least = if average < ENOUGH { least.count() } else { least.count().max(average - 1) };
        for others in least..(least + 3).min(left.len()) {
            match others {
                0 => return Some(vec![0]),
                1 => {
                    let at = left.partition_point(|&i| self.dimensions.sizes[i as usize] > free).max(1);
                    let fits = || self.dimensions.waste([left[0], left[at]].into_iter()).is_some();
                    if at < left.len() && size(at) + waste >= free && fits() {
                        return Some(vec![0, at]);
                    }
                }
                _ => {
                    let tries = if others == 2 { 1 } else { TRIES };
                    for _ in 0..tries {
                        if let Some(request) = self.fill_with_pair(others, random, budget) {
                            return Some(request);
                        }
                    }
                }
            }
        }
        None
    }

    /// Choose all but two of the other documents at random, near the size that is left on average, then the two most
    /// similar ones that complete the request.
    fn fill_with_pair(&self, others: usize, random: &mut Random, budget: &mut Budget<'_>) -> Option<Vec<usize>> {
        let (left, waste) = (self.left, self.waste[0]);
        let size = |at: usize| self.dimensions.sizes[left[at] as usize];
        let mut free = self.dimensions.capacity - size(0);
        let mut chosen = vec![0];
        for missing in (3..=others as u32).rev() {
            let even = left.partition_point(|&i| {
                u64::from(self.dimensions.sizes[i as usize]) * u64::from(missing) > u64::from(free)
            });
            let width = left.len() as u32 / 3 + 4;
            let at = (even + random.below(width) as usize).saturating_sub(width as usize / 2).clamp(1, left.len() - 1);
            if chosen.contains(&at) || size(at) > free {
                return None;
            }
            chosen.push(at);
            free -= size(at);
        }
        let middle =
            left.partition_point(|&i| u64::from(self.dimensions.sizes[i as usize]) * 2 > u64::from(free)).max(1);
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
                if self.dimensions.waste(chosen.iter().chain(&pair).map(|&at| left[at])).is_some() {
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
        budget.spend(steps);
        chosen.extend(found?);
        chosen.sort_unstable();
        Some(chosen)
    }

    /// Add the subset of a random sample that fills the request best in tokens and in chunks.
    fn fill_from_sample(
        &self,
        halves: &mut Halves,
        random: &mut Random,
        budget: &mut Budget<'_>,
    ) -> Option<Vec<usize>> {
        let left = self.left;
        let free = self.dimensions.waste([left[0]].into_iter())?;
        let mut order: Vec<usize> = (1..left.len()).collect();
        let count = order.len().min(2 * HALF);
        for _ in 0..SAMPLES {
            for at in 0..count {
                let other = at + random.below((order.len() - at) as u32) as usize;
                order.swap(at, other);
            }
            let costs: Vec<Cost> = order[..count].iter().map(|&at| self.dimensions.cost(left[at])).collect();
            let (members, steps) =
                halves.fullest(&costs, free, self.dimensions.instance.limits.documents - 1, self.waste);
            if !budget.spend(steps) {
                return None;
            }
            if let Some(members) = members {
                let others = order.iter().enumerate().take(count).filter(|&(k, _)| members >> k & 1 == 1);
                let mut chosen: Vec<usize> = std::iter::once(0).chain(others.map(|(_, &at)| at)).collect();
                chosen.sort_unstable();
                return Some(chosen);
            }
        }
        None
    }

    /// A random one of the first subsets that the enumeration finds.
    fn fill_by_enumeration(
        &self,
        sums: &mut Vec<u64>,
        random: &mut Random,
        budget: &mut Budget<'_>,
    ) -> Option<Vec<usize>> {
        let left = self.left;
        if left.len() > MAX_DOCUMENTS {
            return None;
        }
        let mut enumeration =
            Enumeration::new(self.dimensions, left, [self.waste[0], self.total_waste], MAX_DOCUMENTS, sums, budget);
        enumeration.extend(0, SAMPLE);
        budget.spend(enumeration.steps);
        let subsets = &enumeration.subsets;
        let chosen = subsets.get(random.below(subsets.len().max(1) as u32) as usize)?.documents;
        Some((0..left.len()).filter(|at| chosen >> at & 1 == 1).collect())
    }
}
