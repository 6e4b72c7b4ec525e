//! From best-fit-decreasing towards the lower bound, while the effort lasts.

use super::balance::Balance;
use super::few_first::{FewFirst, Outcome, Rounds};
use super::linear::{self, Kinds, Pattern};
use super::search::{Clock, Random, State};
use super::{Assignment, Effort, Instance, best_fit, fill, next_fit};
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
    effort: &Effort<'_>,
) -> Result<(Assignment, usize), Error> {
    let mut clock = Clock::new(effort);
    let mut random = Random::new(1);
    if found.requests > bound && instance.has_chunks() && clock.spend(10 * instance.len() as u64) {
        for packing in [mixed(instance), next_fit::pack(instance)] {
            if packing.requests < found.requests {
                found = packing;
            }
        }
    }
    if found.requests > bound && instance.has_chunks() {
        found = best_of_orders(instance, found, &mut clock);
    }
    // Evenness helps where requests hold many documents; where they hold few, it costs more than it finds.
    if found.requests > bound
        && (instance.len() <= 50_000 || instance.len() / bound >= 32)
        && clock.spend(10 * instance.len() as u64)
        && let Some(spread) = worst_fit(instance, bound)
    {
        found = spread;
    }
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
                match few_first.round(&mut rounds, &mut random, &mut clock) {
                    Outcome::Found(better) => found = tail.join(instance, better),
                    Outcome::Impossible if tail.kept.is_empty() => bound = tail.least + 1,
                    Outcome::Impossible | Outcome::Unknown => {}
                }
                continue;
            }
            if let Some(better) = tail.balanced(patience, &mut random, &mut clock) {
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
            if let Some(better) = tail.searched(&mut random, &mut clock) {
                found = tail.join(instance, better);
                continue;
            }
        }
        dive_first = false;
        if let Some(dives) = &mut dives
            && let Some(better) = dives.dive(instance, found.requests - 1, &mut bound, &mut random, &mut clock)
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
    let packing = best_fit::pack(&part);
    let renumbered = |requests: Vec<Vec<u32>>| {
        requests.iter().map(|request| request.iter().map(|&i| rest[i as usize]).collect()).collect()
    };
    if packing.requests <= count {
        return Some(renumbered(listed(&packing)));
    }
    // Close to the end the search is quick, and worth it.
    if count <= 12 && rest.len() <= 200 {
        return search(&part, listed(&packing), count, 2, random, clock).map(renumbered);
    }
    None
}

/// Documents that [`mixed`] looks at before it closes a request.
const AHEAD: usize = 32;

/// One request after the other, each from documents with many tokens a chunk and documents with few, in turn, so that
/// tokens and chunks run out together. Best-fit by either alone leaves documents at the end that fill requests in the
/// other only.
fn mixed(instance: &Instance) -> Assignment {
    let limits = &instance.limits;
    let whole = u64::from(u32::MAX / 2);
    let share = |i: usize| {
        let tokens = u64::from(instance.tokens[i]) * whole / u64::from(limits.tokens);
        (whole + tokens - u64::from(instance.chunks[i]) * whole / u64::from(limits.chunks)) as u32
    };
    let mut order = best_fit::by_descending((0..instance.len()).map(share));
    let mut request_of = vec![0; instance.len()];
    let (mut first, mut end) = (0, order.len());
    let mut request = 0;
    let mut room = instance.room();
    while first < end {
        let tokens_left = u64::from(room.tokens) * u64::from(limits.chunks);
        let by_tokens = tokens_left >= u64::from(room.chunks) * u64::from(limits.tokens);
        let place = |k: usize| if by_tokens { first + k } else { end - 1 - k };
        let fits = |&k: &usize| {
            let i = order[place(k)] as usize;
            room.fits(instance.tokens[i], instance.chunks[i])
        };
        let Some(k) = (0..AHEAD.min(end - first)).find(fits) else {
            request += 1;
            room = instance.room();
            continue;
        };
        let (at, front) = (place(k), place(0));
        order.swap(at, front);
        let i = order[front] as usize;
        room.take(instance.tokens[i], instance.chunks[i]);
        request_of[i] = request;
        if by_tokens {
            first += 1;
        } else {
            end -= 1;
        }
    }
    Assignment { request_of, requests: request as usize + 1 }
}

/// Best-fit by other measures of size: chunks, and each document's larger or summed share of a request.
fn best_of_orders(instance: &Instance, mut found: Assignment, clock: &mut Clock<'_>) -> Assignment {
    let limits = instance.limits;
    let share = |i: usize| {
        let tokens = f64::from(instance.tokens[i]) / f64::from(limits.tokens);
        let chunks = f64::from(instance.chunks[i]) / f64::from(limits.chunks);
        (tokens, chunks)
    };
    let scale = |share: f64| (share * f64::from(u32::MAX / 4)) as u32;
    let measures: [&dyn Fn(usize) -> u32; 3] =
        [&|i| instance.chunks[i], &|i| scale(share(i).0.max(share(i).1)), &|i| scale(share(i).0 + share(i).1)];
    for measure in measures {
        if !clock.spend(100 * instance.len() as u64) {
            break;
        }
        let order = best_fit::by_descending((0..instance.len()).map(measure));
        let packing = best_fit::in_order(instance, &order);
        if packing.requests < found.requests {
            found = packing;
        }
    }
    found
}

/// Worst-fit-decreasing into `count` requests: evens out what each has left, which suits tight numbers of documents.
fn worst_fit(instance: &Instance, count: usize) -> Option<Assignment> {
    let mut rooms: std::collections::BinaryHeap<(u32, u32, u32)> =
        (0..count as u32).map(|request| (instance.limits.tokens, instance.limits.documents, request)).collect();
    let mut chunks_left = vec![instance.limits.chunks; count];
    let mut request_of = vec![0; instance.len()];
    for i in best_fit::decreasing(instance) {
        let i = i as usize;
        let (tokens, documents, request) = rooms.pop()?;
        let chunks = &mut chunks_left[request as usize];
        if tokens < instance.tokens[i] || *chunks < instance.chunks_of(i) {
            return None;
        }
        *chunks -= instance.chunks_of(i);
        request_of[i] = request;
        if documents > 1 {
            rooms.push((tokens - instance.tokens[i], documents - 1, request));
        }
    }
    Some(Assignment { request_of, requests: count })
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
    let order = best_fit::decreasing(instance);
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
