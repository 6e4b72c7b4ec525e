//! Diving into the linear relaxation: fix the patterns of the largest fractions, solve for the rest, and repeat.

use super::super::budget::Budget;
use super::super::instance::{Assignment, Instance};
use super::super::random::Random;
use super::super::sort::decreasing;
use super::super::{best_fit, lower_bounds};
use super::column_generation::{Kinds, Pattern, Solution, solve};

/// Kinds of documents up to which a dive precedes the local search.
const SMALL: usize = 128;

/// Steps of best-fit for each document.
const STEPS_PER_DOCUMENT: u64 = 20;

/// Dives, each of which reuses the patterns that the others generated.
pub(super) struct Diving {
    kinds: Kinds,
    pool: Vec<Pattern>,
    dives: u32,
}

impl Diving {
    /// None if there are too many kinds of documents.
    pub(super) fn new(instance: &Instance, found: &Assignment) -> Option<Self> {
        let kinds = Kinds::of(instance)?;
        let pool = kinds.patterns(found);
        Some(Self { kinds, pool, dives: 0 })
    }

    /// Whether the program is small and stands for many documents.
    pub(super) fn is_small(&self, instance: &Instance) -> bool {
        let kinds = self.kinds.members.len();
        kinds <= SMALL && 2 * kinds <= instance.len()
    }

    /// A dive for at most `goal` requests. Raises `bound` if the program proves more.
    pub(super) fn dive(
        &mut self,
        instance: &Instance,
        goal: usize,
        bound: &mut usize,
        random: &mut Random,
        budget: &mut Budget<'_>,
    ) -> Option<Assignment> {
        let mut demand = self.kinds.demand();
        let mut left = self.kinds.members.clone();
        let mut requests: Vec<Vec<u32>> = Vec::new();
        let is_first = self.dives == 0;
        self.dives += 1;
        loop {
            let solution = solve(&self.kinds, &demand, &mut self.pool, budget)?;
            if requests.is_empty() {
                *bound = (*bound).max(solution.bound as usize);
            }
            if requests.len() + solution.bound as usize > goal {
                return None;
            }
            let fixed = fix(&solution, &mut demand, is_first, random);
            let is_stuck = fixed.is_empty();
            for pattern in fixed {
                let mut request = Vec::new();
                for (kind, count) in pattern {
                    let members = &mut left[kind as usize];
                    request.extend(members.drain(members.len() - count as usize..));
                }
                requests.push(request);
            }
            let rest: Vec<u32> = left.iter().flatten().copied().collect();
            if !budget.spend(STEPS_PER_DOCUMENT * rest.len() as u64) {
                return None;
            }
            if let Some(last) = goal.checked_sub(requests.len())
                && let Some(tail) = pack_rest(instance, &rest, last)
            {
                requests.extend(tail);
                return Some(Assignment::from_requests(instance.len(), requests));
            }
            if is_stuck || requests.len() >= goal || budget.is_exhausted() {
                return None;
            }
        }
    }
}

/// Take patterns of `solution` from `demand`: the whole parts of their fractions, or else the largest fractions.
///
/// Returns one pattern for each request. From the second dive on, `random` varies the choice.
fn fix(solution: &Solution, demand: &mut [u32], is_first: bool, random: &mut Random) -> Vec<Pattern> {
    let mut fixed = Vec::new();
    for (pattern, value) in &solution.patterns {
        for _ in 0..(value + 1e-6).floor() as u32 {
            if pattern.iter().any(|&(kind, count)| demand[kind as usize] < count) {
                break;
            }
            for &(kind, count) in pattern {
                demand[kind as usize] -= count;
            }
            fixed.push(pattern.clone());
        }
    }
    if fixed.is_empty() {
        // Of many patterns several are fixed at once, so that a dive solves few programs.
        let wanted = 1 + solution.patterns.len() / 16;
        for (pattern, value) in &solution.patterns {
            if !is_first && random.below(4) == 0 && *value < 0.95 {
                continue;
            }
            if pattern.iter().all(|&(kind, count)| demand[kind as usize] >= count) {
                for &(kind, count) in pattern {
                    demand[kind as usize] -= count;
                }
                fixed.push(pattern.clone());
                if fixed.len() == wanted {
                    break;
                }
            }
        }
    }
    fixed
}

/// Pack the documents `rest` into `count` requests by best-fit.
fn pack_rest(instance: &Instance, rest: &[u32], count: usize) -> Option<Vec<Vec<u32>>> {
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let part = instance.part(rest);
    if lower_bounds::ceilings(&part) > count {
        return None;
    }
    let packing = best_fit::in_order(&part, &decreasing(&part), count)?;
    let renumber = |request: &Vec<u32>| request.iter().map(|&i| rest[i as usize]).collect();
    Some(packing.to_requests().iter().map(renumber).collect())
}
