//! Local search over packings with a fixed number of requests, some of which exceed their limits.
//!
//! A step takes a request that is too full and another at random, and divides up to [`MOVED`] of their documents anew.
//! Among all divisions, found by meeting in the middle (Horowitz and Sahni, "Computing partitions with applications to the
//! knapsack problem", Journal of the ACM 21, 1974), it takes one with the least excess of both. Divisions as good as the
//! present one are accepted, so that an excess moves about until it meets enough room; somewhat worse ones now and then.
//! All three limits count alike, as shares of a request.

use super::super::budget::Budget;
use super::super::instance::Instance;
use super::super::random::Random;
use super::super::sort::by_descending;

/// Documents that are divided anew. Each half of them has at most 2^8 sums.
const MOVED: usize = 16;
/// Most divisions that a step accepts and compares.
const CONSIDERED: u32 = 400;
/// The worth of a whole request, in each dimension.
const WHOLE: i64 = 1 << 32;
/// One step in this many may increase the excess, by up to this much. Measured on triplets and on sizes 1 to 700 in 1,000:
/// without it one instance in five is not solved within a second; from 8 to 64 and from 1/1000 to 1/200 all are.
const SELDOM: u32 = 16;
const SOMEWHAT: i64 = WHOLE / 500;
/// Tokens, chunks, documents.
const DIMENSIONS: usize = 3;

type Load = [i64; DIMENSIONS];

/// The load of a subset of documents, and its members as bits.
#[derive(Clone, Copy, Default)]
struct Sum {
    load: Load,
    members: u32,
}

/// A packing whose requests may exceed their limits.
pub(super) struct Rebalance {
    costs: Vec<Load>,
    limits: Load,
    /// What each unit above a limit adds to the excess.
    weights: Load,
    /// The dimension with the least room.
    tightest: usize,
    requests: Vec<Vec<u32>>,
    loads: Vec<Load>,
    /// Requests above a limit, and the place of each request in this list.
    over: Vec<u32>,
    place: Vec<u32>,
    excess: i64,
    left: Vec<Sum>,
    right: Vec<Sum>,
    spare: Vec<Sum>,
}

const NOWHERE: u32 = u32::MAX;

impl Rebalance {
    /// Start from worst-fit-decreasing: each document into the request with the most room.
    pub(super) fn new(instance: &Instance, count: usize) -> Self {
        let limits = &instance.limits;
        let limits = [i64::from(limits.tokens), i64::from(limits.chunks), i64::from(limits.documents)];
        let costs: Vec<Load> =
            (0..instance.len()).map(|i| [i64::from(instance.tokens[i]), i64::from(instance.chunks_of(i)), 1]).collect();
        let mut totals = [0; DIMENSIONS];
        for cost in &costs {
            add(&mut totals, cost);
        }
        let room = |d: usize| (limits[d] as f64 * count as f64 - totals[d] as f64) / limits[d] as f64;
        let tightest = usize::from(instance.has_chunks() && room(1) < room(0));
        let mut this = Self {
            costs,
            limits,
            weights: limits.map(|limit| WHOLE / limit),
            tightest,
            requests: vec![Vec::new(); count],
            loads: vec![[0; DIMENSIONS]; count],
            over: Vec::new(),
            place: vec![NOWHERE; count],
            excess: 0,
            left: Vec::new(),
            right: Vec::new(),
            spare: Vec::new(),
        };
        this.spread(instance);
        this
    }

    fn spread(&mut self, instance: &Instance) {
        let count = self.requests.len();
        let limits = self.limits;
        let share = |i: usize| {
            let cost = &self.costs[i];
            (0..DIMENSIONS - 1).map(|d| cost[d] * self.weights[d]).max().unwrap_or(0)
        };
        let order = by_descending((0..instance.len()).map(|i| (share(i) >> 2) as u32));
        let mut rooms: std::collections::BinaryHeap<(i64, u32)> =
            (0..count as u32).map(|request| (WHOLE, request)).collect();
        for i in order {
            let Some((_, request)) = rooms.pop() else { return };
            self.requests[request as usize].push(i);
            let load = &mut self.loads[request as usize];
            add(load, &self.costs[i as usize]);
            let fullest = (0..DIMENSIONS).map(|d| (limits[d] - load[d]) * self.weights[d]).min().unwrap_or(0);
            rooms.push((fullest, request));
        }
        for request in 0..count {
            self.update(request, 0);
        }
    }

    /// The excess of a request with this load.
    fn excess_of(&self, load: &Load) -> i64 {
        (0..DIMENSIONS).map(|d| (load[d] - self.limits[d]).max(0) * self.weights[d]).sum()
    }

    /// Update the totals for a request whose excess was `before`.
    fn update(&mut self, request: usize, before: i64) {
        let now = self.excess_of(&self.loads[request]);
        self.excess += now - before;
        if now > 0 && self.place[request] == NOWHERE {
            self.place[request] = self.over.len() as u32;
            self.over.push(request as u32);
        } else if now == 0 && self.place[request] != NOWHERE {
            let at = std::mem::replace(&mut self.place[request], NOWHERE);
            self.over.swap_remove(at as usize);
            if let Some(&moved) = self.over.get(at as usize) {
                self.place[moved as usize] = at;
            }
        }
    }

    /// Search until all requests are within their limits: true. False after `patience` steps without progress.
    pub(super) fn run(&mut self, patience: u32, random: &mut Random, budget: &mut Budget<'_>) -> bool {
        let mut least = self.excess;
        let mut idle = 0;
        while !self.over.is_empty() {
            if idle > patience || self.requests.len() < 2 {
                return false;
            }
            idle += 1;
            let a = self.over[random.below(self.over.len() as u32) as usize] as usize;
            let b = (a + 1 + random.below(self.requests.len() as u32 - 1) as usize) % self.requests.len();
            if !self.divide(a, b, random, budget) {
                return false;
            }
            if self.excess < least {
                least = self.excess;
                idle = 0;
            }
        }
        true
    }

    /// Divide the documents of two requests anew. False when the budget ran out.
    fn divide(&mut self, a: usize, b: usize, random: &mut Random, budget: &mut Budget<'_>) -> bool {
        let of_a = choose(&mut self.requests[a], MOVED / 2, random);
        let of_b = choose(&mut self.requests[b], MOVED - of_a, random);
        let of_a = choose(&mut self.requests[a], MOVED - of_b, random).max(of_a);
        let mut moved = [0u32; MOVED];
        let count = of_a + of_b;
        let at_a = self.requests[a].len() - of_a;
        let at_b = self.requests[b].len() - of_b;
        // Shuffled, so that both halves hold documents of both requests.
        moved[..of_a].copy_from_slice(&self.requests[a][at_a..]);
        moved[of_a..count].copy_from_slice(&self.requests[b][at_b..]);
        let mut present = (1u32 << of_a) - 1;
        for k in 0..count {
            let l = k + random.below((count - k) as u32) as usize;
            moved.swap(k, l);
            let (x, y) = (present >> k & 1, present >> l & 1);
            present = present & !(1 << k | 1 << l) | y << k | x << l;
        }
        let middle = count / 2;
        if !budget.spend(40 + ((1 << middle) + (1 << (count - middle))) as u64 * 8) {
            return false;
        }
        let tightest = self.tightest;
        let costs = &self.costs;
        sums(&mut self.left, &mut self.spare, moved[..middle].iter().map(|&i| costs[i as usize]), 0, tightest);
        sums(
            &mut self.right,
            &mut self.spare,
            moved[middle..count].iter().map(|&i| costs[i as usize]),
            middle,
            tightest,
        );

        // What request a keeps in any case, and the range of loads that it should take.
        let mut fixed = self.loads[a];
        let mut total = self.loads[a];
        add(&mut total, &self.loads[b]);
        for (k, &i) in moved[..count].iter().enumerate() {
            if present >> k & 1 == 1 {
                sub(&mut fixed, &self.costs[i as usize]);
            }
        }
        let (mut low, mut high) = ([0; DIMENSIONS], [0; DIMENSIONS]);
        let mut base = 0;
        for d in 0..DIMENSIONS {
            let other = total[d] - self.limits[d];
            low[d] = other.min(self.limits[d]) - fixed[d];
            high[d] = other.max(self.limits[d]) - fixed[d];
            base += (other - self.limits[d]).max(0) * self.weights[d];
        }
        let before = (self.excess_of(&self.loads[a]), self.excess_of(&self.loads[b]));
        let bar = before.0 + before.1 - base + if random.below(SELDOM) == 0 { SOMEWHAT } else { 0 };
        let Some(members) = self.nearest(&low, &high, bar, present, random) else { return true };

        self.requests[a].truncate(at_a);
        self.requests[b].truncate(at_b);
        let mut load = fixed;
        for (k, &i) in moved[..count].iter().enumerate() {
            if members >> k & 1 == 1 {
                add(&mut load, &self.costs[i as usize]);
                self.requests[a].push(i);
            } else {
                self.requests[b].push(i);
            }
        }
        sub(&mut total, &load);
        (self.loads[a], self.loads[b]) = (load, total);
        self.update(a, before.0);
        self.update(b, before.1);
        true
    }

    /// The members of a sum of both halves nearest to the range, at most `bar` away and other than `present`.
    fn nearest(&self, low: &Load, high: &Load, bar: i64, present: u32, random: &mut Random) -> Option<u32> {
        let d = self.tightest;
        let weight = self.weights[d];
        let mut best = bar;
        let mut reach = best / weight;
        let mut found = None;
        let mut ties = 0;
        let mut considered = CONSIDERED;
        let start = random.below(self.left.len() as u32) as usize;
        let (before, from) = self.left.split_at(start);
        for left in from.iter().chain(before) {
            let first = low[d] - left.load[d] - reach;
            let mut at = self.right.partition_point(|right| right.load[d] < first);
            while let Some(right) = self.right.get(at)
                && right.load[d] + left.load[d] <= high[d] + reach
            {
                at += 1;
                let mut distance = 0;
                for d in 0..DIMENSIONS {
                    let sum = left.load[d] + right.load[d];
                    distance += (low[d] - sum).max(sum - high[d]).max(0) * self.weights[d];
                }
                let members = left.members | right.members;
                if distance > best || members == present {
                    continue;
                }
                if distance < best {
                    best = distance;
                    reach = best / weight;
                    ties = 0;
                }
                ties += 1;
                if ties == 1 || random.below(ties) == 0 {
                    found = Some(members);
                }
                considered -= 1;
                if considered == 0 {
                    return found;
                }
            }
        }
        found
    }

    pub(super) fn into_requests(self) -> Vec<Vec<u32>> {
        self.requests
    }
}

/// Move `count` documents (all, if there are fewer), chosen at random, to the end of `request`; returns how many.
fn choose(request: &mut [u32], count: usize, random: &mut Random) -> usize {
    let n = request.len();
    let count = count.min(n);
    if count < n {
        for k in 0..count {
            let other = random.below((n - k) as u32) as usize;
            request.swap(n - 1 - k, other);
        }
    }
    count
}

fn add(load: &mut Load, other: &Load) {
    for (to, from) in load.iter_mut().zip(other) {
        *to += from;
    }
}

fn sub(load: &mut Load, other: &Load) {
    for (to, from) in load.iter_mut().zip(other) {
        *to -= from;
    }
}

/// All sums of `costs`, ascending in dimension `d`. Members are bits from `first` on.
fn sums(to: &mut Vec<Sum>, spare: &mut Vec<Sum>, costs: impl Iterator<Item = Load>, first: usize, d: usize) {
    to.clear();
    to.push(Sum::default());
    for (k, cost) in costs.enumerate() {
        spare.clear();
        let mut without = to.iter().copied().peekable();
        let mut with = to.iter().map(|sum| {
            let mut load = sum.load;
            add(&mut load, &cost);
            Sum { load, members: sum.members | 1 << (first + k) }
        });
        let mut next = with.next();
        while let Some(larger) = next {
            while let Some(sum) = without.next_if(|sum| sum.load[d] <= larger.load[d]) {
                spare.push(sum);
            }
            spare.push(larger);
            next = with.next();
        }
        std::mem::swap(to, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::budget::Effort;
    use super::super::super::instance::Limits;
    use super::*;

    #[test]
    fn sums_are_complete_and_ascend() {
        let (mut to, mut spare) = (Vec::new(), Vec::new());
        let costs = [[5, 1, 1], [3, 9, 1], [5, 2, 1], [8, 0, 1]];
        sums(&mut to, &mut spare, costs.into_iter(), 2, 0);
        assert_eq!(to.len(), 16);
        assert!(to.is_sorted_by_key(|sum| sum.load[0]));
        for sum in &to {
            let mut load = [0; DIMENSIONS];
            for (k, cost) in costs.iter().enumerate() {
                if sum.members >> (k + 2) & 1 == 1 {
                    add(&mut load, cost);
                }
            }
            assert_eq!((load, sum.members & 3), (sum.load, 0));
        }
    }

    #[test]
    fn requests_full_in_tokens_and_documents_are_found() {
        let limits = Limits { documents: 6, chunks: 110, tokens_per_document: 1000, tokens: 1000 };
        let mut random = Random::new(3);
        let (mut tokens, mut chunks) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (mut t, mut c) = (1000, 100);
            for k in 0..6 {
                let (dt, dc) = if k == 5 { (t, c) } else { (20 + random.below(180), 2 + random.below(16)) };
                tokens.push(dt);
                chunks.push(dc);
                (t, c) = (t - dt.min(t), c - dc.min(c));
            }
        }
        let instance = Instance { tokens: tokens.clone(), chunks: chunks.clone(), limits };
        let mut rebalance = Rebalance::new(&instance, 20);
        let mut budget = Budget::new(&Effort { seconds: 10.0, interrupted: &|| false });
        assert!(rebalance.run(u32::MAX, &mut random, &mut budget));
        let requests = rebalance.into_requests();
        assert_eq!(requests.iter().map(Vec::len).sum::<usize>(), 120);
        for request in requests {
            assert_eq!(request.len(), 6);
            assert_eq!(request.iter().map(|&i| tokens[i as usize]).sum::<u32>(), 1000);
            assert!(request.iter().map(|&i| chunks[i as usize]).sum::<u32>() <= 110);
        }
    }
}
