//! Greedy packings. The best of them is the start of a search, and the result for a million documents.

use super::budget::Budget;
use super::instance::{Assignment, Instance, Room};
use super::sort::{by_descending, decreasing};
use super::{best_fit, next_fit};

/// Documents up to which best-fit-decreasing, as the usual heuristic, is preferred to another packing with as few requests.
const FEW: usize = 10_000;

/// Best-fit-decreasing, or another packing with fewer requests. Of many documents, the first packing that meets the lower
/// bound `bound`.
pub(super) fn pack(instance: &Instance, bound: usize, budget: &mut Budget<'_>) -> Assignment {
    let mut found = next_fit::pack(instance);
    if found.requests > bound
        && let Some(scarce) = Dimension::scarce(instance)
        && budget.spend(10 * instance.len() as u64)
    {
        let packing = mixed(instance, scarce);
        if packing.requests < found.requests {
            found = packing;
        }
    }
    if (found.requests > bound || instance.len() <= FEW)
        && let Some(packing) = best_fit::in_order(instance, &decreasing(instance), found.requests)
    {
        found = packing;
    }
    found
}

/// A packing that meets `bound`, if worst-fit finds one.
pub(super) fn better(instance: &Instance, found: Assignment, bound: usize, budget: &mut Budget<'_>) -> Assignment {
    // Worst-fit rarely succeeds if requests hold few documents, so it is skipped for many of those.
    if (instance.len() <= 50_000 || instance.len() / bound >= 32)
        && budget.spend(10 * instance.len() as u64)
        && let Some(balanced) = worst_fit(instance, bound)
    {
        return balanced;
    }
    found
}

/// The second dimension matters if it needs more than the first's requests divided by this.
const NEAR: f64 = 4.0;

/// A dimension of requests and documents.
#[derive(Clone, Copy)]
enum Dimension {
    Tokens,
    Chunks,
    Documents,
}

impl Dimension {
    /// The two dimensions that need the most requests, if the second is [`NEAR`] the first.
    fn scarce(instance: &Instance) -> Option<[Self; 2]> {
        let need = |of: Self| {
            let all: u64 = (0..instance.len()).map(|i| u64::from(of.cost(instance, i))).sum();
            all as f64 / f64::from(of.left(instance.room()))
        };
        let mut all = [Self::Tokens, Self::Chunks, Self::Documents].map(|of| (need(of), of));
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        (all[1].0 * NEAR > all[0].0).then_some([all[0].1, all[1].1])
    }

    fn cost(self, instance: &Instance, i: usize) -> u32 {
        match self {
            Self::Tokens => instance.tokens[i],
            Self::Chunks => instance.chunks_of(i),
            Self::Documents => 1,
        }
    }

    fn left(self, room: Room) -> u32 {
        match self {
            Self::Tokens => room.tokens,
            Self::Chunks => room.chunks,
            Self::Documents => room.documents,
        }
    }
}

/// Documents that [`mixed`] checks on either side before it closes a request.
const AHEAD: usize = 32;

/// Fill one request after the other, alternating between documents that cost more of one dimension and documents that cost
/// more of the other, so that both are used up together. Best-fit by one dimension leaves documents to the end that fill
/// requests in the other only.
fn mixed(instance: &Instance, of: [Dimension; 2]) -> Assignment {
    // Shares of a request are in units of 2^-20, which sort faster than finer ones.
    const WHOLE: u32 = 1 << 20;
    let whole = of.map(|of| of.left(instance.room()));
    let parts = whole.map(|whole| (u64::from(WHOLE) << 31) / u64::from(whole));
    let share = |i: usize, d: usize| ((u64::from(of[d].cost(instance, i)) * parts[d]) >> 31) as u32;
    let mut order = by_descending((0..instance.len()).map(|i| WHOLE + share(i, 0) - share(i, 1)));
    let largest = |order: &[u32], at: usize| share(order[at] as usize, 0).max(share(order[at] as usize, 1));
    let mut costs: Vec<(u32, u32)> =
        order.iter().map(|&i| (instance.tokens[i as usize], instance.chunks_of(i as usize))).collect();
    let mut request_of = vec![0; instance.len()];
    let (mut first, mut end) = (0, order.len());
    let mut request = 0;
    let mut room = instance.room();
    while first < end {
        let near = |k: usize, head: bool| if head { first + k } else { end - 1 - k };
        let fitting = |head: bool| {
            let fits = |&k: &usize| {
                let (tokens, chunks) = costs[near(k, head)];
                room.fits(tokens, chunks)
            };
            (0..AHEAD.min(end - first)).find(fits).map(|k| (near(k, head), head))
        };
        let head = if room == instance.room() {
            // The larger document comes first, because later it might not fit.
            largest(&order, near(0, true)) >= largest(&order, near(0, false))
        } else {
            let left = of.map(|of| u64::from(of.left(room)));
            left[0] * u64::from(whole[1]) >= left[1] * u64::from(whole[0])
        };
        let Some((at, head)) = fitting(head).or_else(|| fitting(!head)) else {
            request += 1;
            room = instance.room();
            continue;
        };
        let next = near(0, head);
        order.swap(at, next);
        costs.swap(at, next);
        room.take(costs[next].0, costs[next].1);
        request_of[order[next] as usize] = request;
        if head {
            first += 1;
        } else {
            end -= 1;
        }
    }
    Assignment { request_of, requests: request as usize + 1 }
}

/// Worst-fit-decreasing into `count` requests. It balances them, which suits a tight limit of documents.
fn worst_fit(instance: &Instance, count: usize) -> Option<Assignment> {
    let mut rooms: std::collections::BinaryHeap<(u32, u32, u32)> =
        (0..count as u32).map(|request| (instance.limits.tokens, instance.limits.documents, request)).collect();
    let mut chunks_left = vec![instance.limits.chunks; count];
    let mut request_of = vec![0; instance.len()];
    for i in decreasing(instance) {
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
