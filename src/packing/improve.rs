//! From best-fit-decreasing towards the lower bound, while the effort lasts.

use super::balance::Balance;
use super::few_first::{FewFirst, Outcome, Rounds};
use super::linear::{self, Kinds, Pattern};
use super::order::decreasing;
use super::search::{Clock, Random, State};
use super::{Assignment, Instance, best_fit, fill};
use crate::error::Error;

/// Documents that one search looks at; of a larger input, the emptiest requests that hold about so many.
const SEARCHED: usize = 2_500;

/// Kinds of documents up to which the linear program comes before the search.
const SMALL: usize = 128;

/// Steps without progress after which balancing starts anew, in the first round; more in later ones.
const PATIENCE: u32 = 5_000;

/// A packing with fewer requests where one is found, and the lower bound, which may have risen.
pub(super) fn improve(
    instance: &Instance,
    mut found: Assignment,
    mut bound: usize,
    clock: &mut Clock<'_>,
) -> Result<(Assignment, usize), Error> {
    let mut random = Random::new(1);
    let mut dives = if found.requests > bound { Dives::new(instance, &found) } else { None };
    // A small program that stands for many documents is solved before a search has warmed up.
    let mut dive_first = dives.as_ref().is_some_and(|dives| {
        let kinds = dives.kinds.members.len();
        kinds <= SMALL && 2 * kinds <= instance.len()
    });
    let mut patience = PATIENCE;
    let mut searchable = true;
    // Exact cover takes turns with all that others spend.
    let mut rounds = Rounds::default();
    let mut others = 0;
    // What balancing may still spend before the others, which may take all that is left, have their turn.
    let mut share = clock.left() / 4;
    // Every round spends steps, whatever it does, so the budget ends the loop.
    while found.requests > bound && (searchable || dives.is_some()) && clock.spend(40 * instance.len() as u64) {
        let mut before = clock.left();
        if searchable && !dive_first {
            let tail = Tail::of(instance, &found, bound);
            if tail.least > tail.most() {
                searchable = false;
                continue;
            }
            rounds.start_from(found.requests, bound);
            if rounds.are_due(others)
                && let Some(few_first) = FewFirst::new(&tail.part, tail.least)
            {
                match few_first.round(&mut rounds, &mut random, clock) {
                    Outcome::Found(better) => found = tail.join(instance, better),
                    Outcome::Impossible if tail.kept.is_empty() => bound = tail.least + 1,
                    Outcome::Impossible | Outcome::Unknown => {}
                }
                continue;
            }
            if let Some(better) = tail.balanced(patience, &mut random, clock) {
                found = tail.join(instance, better);
                patience = PATIENCE;
                continue;
            }
            patience = (patience + patience / 4).min(8 * PATIENCE);
            share = share.saturating_sub(before - clock.left());
            others += before - clock.left();
            if share > 0 {
                continue;
            }
            before = clock.left();
            if let Some(better) = tail.searched(&mut random, clock) {
                found = tail.join(instance, better);
                continue;
            }
        }
        dive_first = false;
        if let Some(dives) = &mut dives
            && let Some(better) = dives.dive(instance, found.requests - 1, &mut bound, &mut random, clock)
        {
            found = better;
            searchable = true;
        }
        share = before - clock.left();
        others += share;
    }
    if clock.is_cancelled() { Err(Error::Interrupted) } else { Ok((found, bound)) }
}

/// Dives into the linear program, each with what the others generated.
struct Dives {
    kinds: Kinds,
    pool: Vec<Pattern>,
    count: u32,
}

impl Dives {
    fn new(instance: &Instance, found: &Assignment) -> Option<Self> {
        let kinds = Kinds::of(instance)?;
        let pool = kinds.patterns(found);
        Some(Self { kinds, pool, count: 0 })
    }

    /// One dive for at most `goal` requests; raises `bound` where the program proves more.
    fn dive(
        &mut self,
        instance: &Instance,
        goal: usize,
        bound: &mut usize,
        random: &mut Random,
        clock: &mut Clock<'_>,
    ) -> Option<Assignment> {
        let mut demand = self.kinds.demand();
        let mut left = self.kinds.members.clone();
        let mut requests: Vec<Vec<u32>> = Vec::new();
        let number = self.count;
        self.count += 1;
        loop {
            let solution = linear::solve(&self.kinds, &demand, &mut self.pool, clock)?;
            if requests.is_empty() {
                *bound = (*bound).max(solution.bound as usize);
            }
            if requests.len() + solution.bound as usize > goal {
                return None;
            }
            let fixed = linear::fix(&solution, &mut demand, number, random);
            let stuck = fixed.is_empty();
            for pattern in fixed {
                let mut request = Vec::new();
                for (kind, count) in pattern {
                    let members = &mut left[kind as usize];
                    request.extend(members.drain(members.len() - count as usize..));
                }
                requests.push(request);
            }
            let rest: Vec<u32> = left.iter().flatten().copied().collect();
            if let Some(last) = goal.checked_sub(requests.len())
                && let Some(tail) = finish(instance, &rest, last, random, clock)
            {
                requests.extend(tail);
                return Some(assigned(instance.len(), requests));
            }
            if stuck || requests.len() >= goal || clock.is_stopped() {
                return None;
            }
        }
    }
}

/// Pack the documents `rest` into `count` requests, with little effort.
fn finish(
    instance: &Instance,
    rest: &[u32],
    count: usize,
    random: &mut Random,
    clock: &mut Clock<'_>,
) -> Option<Vec<Vec<u32>>> {
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let part = instance.part(rest);
    if super::bounds::ceilings(&part) > count {
        return None;
    }
    let order = decreasing(&part);
    let renumbered = |requests: Vec<Vec<u32>>| {
        requests.iter().map(|request| request.iter().map(|&i| rest[i as usize]).collect()).collect()
    };
    if let Some(packing) = best_fit::in_order(&part, &order, count) {
        return Some(renumbered(listed(&packing)));
    }
    // Close to the end the search is quick, and worth it.
    if count <= 12 && rest.len() <= 200 {
        let packing = best_fit::in_order(&part, &order, rest.len())?;
        return search(&part, listed(&packing), count, 2, random, clock).map(renumbered);
    }
    None
}

/// The emptiest requests of a packing: those that a search looks at.
struct Tail {
    kept: Vec<Vec<u32>>,
    /// Documents of each, by their places in `positions`.
    requests: Vec<Vec<u32>>,
    positions: Vec<u32>,
    part: Instance,
    /// Requests that these documents need in any case.
    least: usize,
}

impl Tail {
    fn of(instance: &Instance, found: &Assignment, bound: usize) -> Self {
        let mut kept = listed(found);
        // The fullest first, so that the emptiest are dissolved.
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
        let least = super::bounds::ceilings(&part).max(bound.saturating_sub(kept.len()));
        let mut next = 0;
        let requests = searched
            .iter()
            .map(|request| {
                next += request.len() as u32;
                (next - request.len() as u32..next).collect()
            })
            .collect();
        Self { kept, requests, positions, part, least }
    }

    /// Requests of a packing that is better by one.
    fn most(&self) -> usize {
        self.requests.len() - 1
    }

    /// Fewer requests for these documents: as few as may be, or halfway there, or one fewer.
    fn balanced(&self, patience: u32, random: &mut Random, clock: &mut Clock<'_>) -> Option<Vec<Vec<u32>>> {
        let mut goals = vec![self.least, self.least.midpoint(self.most()), self.most()];
        goals.dedup();
        goals.into_iter().find_map(|goal| {
            let mut balance = Balance::new(&self.part, goal);
            balance.run(patience, random, clock).then(|| balance.into_requests())
        })
    }

    /// One request fewer, after a round of search.
    fn searched(&self, random: &mut Random, clock: &mut Clock<'_>) -> Option<Vec<Vec<u32>>> {
        search(&self.part, self.requests.clone(), self.most(), 1, random, clock)
    }

    /// The whole packing, with `better` in place of the tail.
    fn join(self, instance: &Instance, better: Vec<Vec<u32>>) -> Assignment {
        let mut requests = self.kept;
        let named = |request: Vec<u32>| request.into_iter().map(|i| self.positions[i as usize]).collect();
        requests.extend(better.into_iter().map(named));
        assigned(instance.len(), requests)
    }
}

/// A packing into `goal` requests, found from `start` in so many rounds.
fn search(
    instance: &Instance,
    start: Vec<Vec<u32>>,
    goal: usize,
    rounds: u32,
    random: &mut Random,
    clock: &mut Clock<'_>,
) -> Option<Vec<Vec<u32>>> {
    let order = decreasing(instance);
    let mut state = State::new(instance, start, goal);
    for round in 0..rounds {
        if !instance.has_chunks() {
            let filled = fill::pack(instance, &order, if round == 0 { 0 } else { 24 }, random, clock)?;
            let requests = listed(&filled);
            if requests.len() <= goal {
                return Some(requests);
            }
            state = State::new(instance, requests, goal);
        }
        for _ in 0..4 {
            if state.run(300, random, clock) {
                return Some(state.into_requests());
            }
            if clock.is_stopped() {
                return None;
            }
            state.shake(instance.len(), random, clock);
        }
    }
    None
}

fn listed(assignment: &Assignment) -> Vec<Vec<u32>> {
    let mut requests = vec![Vec::new(); assignment.requests];
    for (i, &request) in assignment.request_of.iter().enumerate() {
        requests[request as usize].push(i as u32);
    }
    requests
}

fn assigned(documents: usize, requests: Vec<Vec<u32>>) -> Assignment {
    let mut request_of = vec![0; documents];
    let count = requests.len();
    for (number, request) in requests.into_iter().enumerate() {
        for i in request {
            request_of[i as usize] = number as u32;
        }
    }
    Assignment { request_of, requests: count }
}
