//! From best-fit-decreasing towards the lower bound, while the effort lasts.

use super::search::{Clock, Random, State};
use super::{Assignment, Effort, Instance, best_fit, fill};
use crate::error::Error;

/// Documents that one search looks at; of a larger input, the emptiest requests that hold about so many.
const SEARCHED: usize = 2_500;

/// A packing with fewer requests where one is found, and the lower bound.
pub(super) fn improve(
    instance: &Instance,
    mut found: Assignment,
    bound: usize,
    effort: &Effort<'_>,
) -> Result<(Assignment, usize), Error> {
    let mut clock = Clock::new(effort);
    let mut random = Random::new(1);
    if found.requests > bound && instance.has_chunks() && clock.spend(instance.len() as u64) {
        found = best_of_orders(instance, found, &mut clock);
    }
    if found.requests > bound
        && clock.spend(instance.len() as u64)
        && let Some(spread) = worst_fit(instance, bound)
    {
        found = spread;
    }
    while found.requests > bound && !clock.is_stopped() {
        let Some(better) = one_fewer(instance, &found, bound, &mut random, &mut clock) else { break };
        found = better;
    }
    if clock.is_cancelled() { Err(Error::Interrupted) } else { Ok((found, bound)) }
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
        if !clock.spend(4 * instance.len() as u64) {
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

/// A packing with at least one request fewer.
fn one_fewer(
    instance: &Instance,
    found: &Assignment,
    bound: usize,
    random: &mut Random,
    clock: &mut Clock<'_>,
) -> Option<Assignment> {
    let mut requests = vec![Vec::new(); found.requests];
    for (i, &request) in found.request_of.iter().enumerate() {
        requests[request as usize].push(i as u32);
    }
    // The fullest first, so that the emptiest are dissolved.
    let load = |request: &Vec<u32>| request.iter().map(|&i| u64::from(instance.tokens[i as usize])).sum::<u64>();
    requests.sort_by_cached_key(|request| std::cmp::Reverse(load(request)));
    let mut kept = 0;
    let mut documents = instance.len();
    while documents > SEARCHED && requests.len() - kept > 2 {
        documents -= requests[kept].len();
        kept += 1;
    }
    let (kept, searched) = requests.split_at(kept);
    if documents > 4 * SEARCHED {
        return None;
    }
    let positions: Vec<u32> = searched.iter().flatten().copied().collect();
    let part = Instance {
        tokens: positions.iter().map(|&i| instance.tokens[i as usize]).collect(),
        chunks: if instance.has_chunks() {
            positions.iter().map(|&i| instance.chunks_of(i as usize)).collect()
        } else {
            Vec::new()
        },
        limits: instance.limits,
    };
    let part_bound = super::bounds::ceilings(&part).max(bound.saturating_sub(kept.len()));
    if part_bound >= searched.len() {
        return None;
    }
    let mut next = 0;
    let start = searched
        .iter()
        .map(|request| {
            next += request.len() as u32;
            (next - request.len() as u32..next).collect()
        })
        .collect();
    let better = search(&part, start, part_bound, random, clock)?;
    let mut request_of = vec![0; instance.len()];
    let renumbered = better.iter().map(|request| request.iter().map(|&i| positions[i as usize]).collect());
    let mut count = 0;
    for request in kept.iter().cloned().chain(renumbered) {
        for i in request {
            request_of[i as usize] = count;
        }
        count += 1;
    }
    Some(Assignment { request_of, requests: count as usize })
}

/// Fewer requests than `start` has, at least `bound`.
fn search(
    instance: &Instance,
    start: Vec<Vec<u32>>,
    bound: usize,
    random: &mut Random,
    clock: &mut Clock<'_>,
) -> Option<Vec<Vec<u32>>> {
    let goal = start.len() - 1;
    let order = best_fit::decreasing(instance);
    let mut state = State::new(instance, start, goal);
    let mut round = 0u32;
    loop {
        if !instance.has_chunks() {
            let filled = fill::pack(instance, &order, if round == 0 { 0 } else { 24 }, random, clock)?;
            let requests = listed(&filled);
            if requests.len() <= goal {
                return Some(requests);
            }
            state = State::new(instance, requests, goal.max(bound));
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
        round += 1;
    }
}

fn listed(assignment: &Assignment) -> Vec<Vec<u32>> {
    let mut requests = vec![Vec::new(); assignment.requests];
    for (i, &request) in assignment.request_of.iter().enumerate() {
        requests[request as usize].push(i as u32);
    }
    requests
}
