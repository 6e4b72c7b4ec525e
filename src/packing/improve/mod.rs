//! Improving a packing towards the lower bound, while the budget lasts.
//!
//! Three methods take turns. [`rebalance`] is a local search over requests that are too full. [`diving`] rounds the linear
//! relaxation, which [`column_generation`] solves with a [`knapsack`] as its pricing problem; it also raises the bound.
//! [`set_partitioning`] packs documents that leave hardly any room: it chooses among [`tight_subsets`] by [`exact_cover`].
//! Of many documents it does so after [`filling`] requests one by one, by [`meet_in_the_middle`] where chunks can bind.

mod column_generation;
mod dimensions;
mod diving;
mod exact_cover;
mod filling;
mod knapsack;
mod meet_in_the_middle;
mod rebalance;
mod set_partitioning;
mod tight_subsets;

use super::budget::Budget;
use super::instance::{Assignment, Instance};
use super::lower_bounds;
use super::random::Random;
use crate::error::Error;
use diving::Diving;
use rebalance::Rebalance;
use set_partitioning::{Outcome, Rounds, SetPartitioning};

/// Documents that a local search considers. Of a larger input it takes the emptiest requests, with about this many.
const SEARCHED: usize = 2_500;

/// Steps without progress after which rebalancing starts anew, in the first round; more in later ones.
const PATIENCE: u32 = 5_000;

/// A packing with fewer requests where one is found, and the lower bound, which may have risen.
pub(super) fn improve(
    instance: &Instance,
    mut found: Assignment,
    mut bound: usize,
    budget: &mut Budget<'_>,
) -> Result<(Assignment, usize), Error> {
    let mut random = Random::new(1);
    let mut diving = if found.requests > bound { Diving::new(instance, &found) } else { None };
    // A small program that stands for many documents is solved before a local search gets far.
    let mut dive_first = diving.as_ref().is_some_and(|diving| diving.is_small(instance));
    let mut patience = PATIENCE;
    let mut searchable = true;
    // Set partitioning gets its turn according to the steps that the other methods took.
    let mut rounds = Rounds::default();
    let mut other_steps = 0;
    // Steps that rebalancing may still take before the next dive.
    let mut share = budget.left() / 4;
    // Every round spends steps, so the budget ends the loop.
    while found.requests > bound && (searchable || diving.is_some()) && budget.spend(40 * instance.len() as u64) {
        let mut before = budget.left();
        if searchable && !dive_first {
            let tail = Tail::new(instance, &found, bound);
            if tail.least > tail.goal {
                searchable = false;
                continue;
            }
            rounds.start_from(found.requests, bound);
            if rounds.are_due(other_steps)
                && let Some(partitioning) = SetPartitioning::new(&tail.part, tail.least)
            {
                match partitioning.round(&mut rounds, &mut random, budget) {
                    Outcome::Found(better) => found = tail.join(instance, better),
                    Outcome::Impossible if tail.kept.is_empty() => bound = tail.least + 1,
                    Outcome::Impossible | Outcome::Unknown => {}
                }
                continue;
            }
            if let Some(better) = tail.rebalanced(patience, &mut random, budget) {
                found = tail.join(instance, better);
                patience = PATIENCE;
                continue;
            }
            patience = (patience + patience / 4).min(8 * PATIENCE);
            share = share.saturating_sub(before - budget.left());
            other_steps += before - budget.left();
            if share > 0 {
                continue;
            }
            before = budget.left();
        }
        dive_first = false;
        if let Some(diving) = &mut diving
            && let Some(better) = diving.dive(instance, found.requests - 1, &mut bound, &mut random, budget)
        {
            found = better;
            searchable = true;
        }
        // The steps of a dive are the share of the rebalancing that follows.
        share = before - budget.left();
        other_steps += share;
    }
    if budget.is_interrupted() { Err(Error::Interrupted) } else { Ok((found, bound)) }
}

/// The emptiest requests of a packing: those that a local search considers.
struct Tail {
    /// The documents of the other requests.
    kept: Vec<Vec<u32>>,
    /// The document of each position in `part`.
    positions: Vec<u32>,
    part: Instance,
    /// These documents need no fewer requests.
    least: usize,
    /// One request fewer than these documents have.
    goal: usize,
}

impl Tail {
    fn new(instance: &Instance, found: &Assignment, bound: usize) -> Self {
        let mut kept = found.to_requests();
        // The fullest requests first.
        let load = |request: &Vec<u32>| request.iter().map(|&i| u64::from(instance.tokens[i as usize])).sum::<u64>();
        kept.sort_by_cached_key(|request| std::cmp::Reverse(load(request)));
        let mut count = 0;
        let mut documents = instance.len();
        while documents > SEARCHED && kept.len() - count > 2 {
            documents -= kept[count].len();
            count += 1;
        }
        let searched = kept.split_off(count);
        let positions: Vec<u32> = searched.iter().flatten().copied().collect();
        let part = instance.part(&positions);
        let least = lower_bounds::ceilings(&part).max(bound.saturating_sub(kept.len()));
        Self { kept, positions, part, least, goal: searched.len() - 1 }
    }

    /// Fewer requests for these documents: the fewest possible, or halfway there, or one fewer.
    fn rebalanced(&self, patience: u32, random: &mut Random, budget: &mut Budget<'_>) -> Option<Vec<Vec<u32>>> {
        let mut goals = vec![self.least, self.least.midpoint(self.goal), self.goal];
        goals.dedup();
        goals.into_iter().find_map(|goal| {
            let mut rebalance = Rebalance::new(&self.part, goal);
            rebalance.run(patience, random, budget).then(|| rebalance.into_requests())
        })
    }

    /// The whole packing, with `better` in place of the tail.
    fn join(self, instance: &Instance, better: Vec<Vec<u32>>) -> Assignment {
        let mut requests = self.kept;
        let renumber = |request: Vec<u32>| request.into_iter().map(|i| self.positions[i as usize]).collect();
        requests.extend(better.into_iter().map(renumber));
        Assignment::from_requests(instance.len(), requests)
    }
}
