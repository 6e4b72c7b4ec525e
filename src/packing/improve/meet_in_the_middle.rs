//! Subsets of documents that fill a request in tokens and in chunks at once, found by meeting in the middle.
//!
//! Two dozen documents have millions of subsets. To find those close to two limits, the documents are divided into halves
//! and the sums of both halves sorted by one dimension; each sum of the first half is combined only with the sums of the
//! second half that complete it (Horowitz and Sahni, "Computing partitions with applications to the knapsack problem",
//! Journal of the ACM 21, 1974).

use super::dimensions::{Cost, Waste};

/// Documents of each half.
pub(super) const HALF: usize = 12;

/// The costs of a subset in sum, and its members as bits.
#[derive(Clone, Copy, Default)]
struct Sum {
    cost: Cost,
    members: u32,
}

/// The sums of both halves, and memory that is reused.
#[derive(Default)]
pub(super) struct Halves {
    halves: [Vec<Sum>; 2],
    spare: Vec<Sum>,
}

impl Halves {
    /// The subset of up to `most` documents that wastes the least of `free`, and no more than `waste` in each dimension.
    ///
    /// The waste of both dimensions is added, each relative to its limit. Returns the members, and the steps taken.
    pub(super) fn fullest(&mut self, costs: &[Cost], free: Cost, most: u32, waste: Waste) -> (Option<u32>, u64) {
        let middle = costs.len() / 2;
        let [left, right] = &mut self.halves;
        sums(left, &mut self.spare, &costs[..middle], 0, free);
        sums(right, &mut self.spare, &costs[middle..], middle, free);
        let mut steps = 4 * (left.len() + right.len()) as u64;
        let mut best = None;
        // As the sums of one half ascend, the matching sums of the other half descend.
        let mut end = right.len();
        for one in left.iter() {
            let room = free[0] - one.cost[0];
            while end > 0 && right[end - 1].cost[0] > room {
                end -= 1;
            }
            for other in right[..end].iter().rev() {
                steps += 1;
                let wasted = room - other.cost[0];
                if wasted > waste[0] {
                    break;
                }
                let cost = one.cost[1] + other.cost[1];
                let members = one.members | other.members;
                if cost > free[1] || free[1] - cost > waste[1] || members.count_ones() > most {
                    continue;
                }
                let part = u64::from(wasted) * (u64::from(waste[1]) + 1)
                    + u64::from(free[1] - cost) * (u64::from(waste[0]) + 1);
                if best.is_none_or(|(least, _)| part < least) {
                    best = Some((part, members));
                }
            }
        }
        (best.map(|(_, members)| members), steps)
    }
}

/// All sums of `costs` that fit `free`, ascending in the first dimension. Members are bits from `first` on.
fn sums(to: &mut Vec<Sum>, spare: &mut Vec<Sum>, costs: &[Cost], first: usize, free: Cost) {
    to.clear();
    to.push(Sum::default());
    for (k, cost) in costs.iter().enumerate() {
        spare.clear();
        let mut without = to.iter().copied().peekable();
        for sum in to.iter() {
            let with = [sum.cost[0] + cost[0], sum.cost[1] + cost[1]];
            if with[0] > free[0] {
                break;
            }
            if with[1] > free[1] {
                continue;
            }
            while let Some(sum) = without.next_if(|sum| sum.cost[0] <= with[0]) {
                spare.push(sum);
            }
            spare.push(Sum { cost: with, members: sum.members | 1 << (first + k) });
        }
        spare.extend(without);
        std::mem::swap(to, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::random::Random;
    use super::*;

    #[test]
    fn the_fullest_subset_is_found() {
        let mut random = Random::new(4);
        let mut halves = Halves::default();
        for case in 0..60 {
            let count = 1 + random.below(12) as usize;
            let costs: Vec<Cost> = (0..count).map(|_| [1 + random.below(40), random.below(30)]).collect();
            let free = [20 + random.below(60), 20 + random.below(40)];
            let most = 1 + random.below(6);
            let waste = [random.below(12), random.below(12)];
            let part = |members: u32| {
                let sum = |d: usize| (0..count).filter(|k| members >> k & 1 == 1).map(|k| costs[k][d]).sum::<u32>();
                let wasted = [free[0].checked_sub(sum(0))?, free[1].checked_sub(sum(1))?];
                let fits = wasted[0] <= waste[0] && wasted[1] <= waste[1] && members.count_ones() <= most;
                fits.then(|| wasted[0] * (waste[1] + 1) + wasted[1] * (waste[0] + 1))
            };
            let wanted = (0..1u32 << count).filter_map(part).min();
            let (found, _) = halves.fullest(&costs, free, most, waste);
            assert_eq!(found.and_then(part), wanted, "{case}");
            assert_eq!(found.is_some(), wanted.is_some());
        }
    }
}
