//! Column generation: the linear relaxation over patterns, which gives the strongest bound.
//!
//! A pattern is what one request may hold, counted by kind of document. Covering every document with the least sum of
//! fractions of patterns is a linear program whose patterns are generated when they improve it (Gilmore and Gomory, "A
//! linear programming approach to the cutting-stock problem", Operations Research 9, 1961). Its dual prices are a dual
//! feasible function: rounded to integers and divided by the exact maximum worth of a request, they prove a bound without
//! a floating-point number in the proof.

use super::super::budget::Budget;
use super::super::instance::{Assignment, Instance, Limits};
use super::super::sort::decreasing;
use super::knapsack::{DEAREST, Knapsack, ONE};

/// Most kinds of documents for which the program is solved.
const KINDS: usize = 700;
/// Branches of the search for an improving pattern.
const QUICK: u64 = 20_000;
/// Patterns of the pool that are checked before all the others.
const CANDIDATES: usize = 64;
/// Reduced costs and steps below this are rounding errors.
const TINY: f64 = 1e-7;

/// Kinds of documents and the count of each.
pub(super) type Pattern = Vec<(u32, u32)>;

/// Documents by kind. A kind has equal tokens and chunks.
pub(super) struct Kinds {
    limits: Limits,
    tokens: Vec<u32>,
    chunks: Vec<u32>,
    /// The documents of each kind.
    pub(super) members: Vec<Vec<u32>>,
}

impl Kinds {
    /// The kinds of an instance, if there are no more than [`KINDS`].
    pub(super) fn of(instance: &Instance) -> Option<Self> {
        // Most large inputs have too many kinds, which shows early, so they are not sorted.
        let mut seen = std::collections::HashSet::new();
        for i in 0..instance.len() {
            if seen.insert((instance.tokens[i], instance.chunks_of(i))) && seen.len() > KINDS {
                return None;
            }
        }
        let mut order = decreasing(instance);
        if instance.has_chunks() {
            order.sort_by_key(|&i| std::cmp::Reverse((instance.tokens[i as usize], instance.chunks_of(i as usize))));
        }
        let (mut tokens, mut chunks): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut members: Vec<Vec<u32>> = Vec::new();
        for i in order {
            let kind = (instance.tokens[i as usize], instance.chunks_of(i as usize));
            if tokens.last() != Some(&kind.0) || chunks.last() != Some(&kind.1) {
                tokens.push(kind.0);
                chunks.push(kind.1);
                members.push(Vec::new());
            }
            members.last_mut()?.push(i);
        }
        Some(Self { limits: instance.limits, tokens, chunks, members })
    }

    /// The patterns of the requests of a packing.
    pub(super) fn patterns(&self, assignment: &Assignment) -> Vec<Pattern> {
        let mut patterns: Vec<Pattern> = vec![Vec::new(); assignment.requests];
        for (kind, members) in (0..).zip(&self.members) {
            for &i in members {
                let pattern = &mut patterns[assignment.request_of[i as usize] as usize];
                match pattern.last_mut() {
                    Some(last) if last.0 == kind => last.1 += 1,
                    _ => pattern.push((kind, 1)),
                }
            }
        }
        patterns.sort_unstable();
        patterns.dedup();
        patterns
    }

    /// The number of documents of each kind.
    pub(super) fn demand(&self) -> Vec<u32> {
        self.members.iter().map(|members| members.len() as u32).collect()
    }

    /// The most documents of one kind that a request holds.
    fn most(&self, kind: usize) -> u32 {
        let by_chunks = self.limits.chunks.checked_div(self.chunks[kind]).unwrap_or(u32::MAX);
        (self.limits.tokens / self.tokens[kind]).min(by_chunks).min(self.limits.documents)
    }
}

/// A solution of the linear program.
pub(super) struct Solution {
    /// No packing of the demand needs fewer requests. Proven in integers.
    pub(super) bound: u64,
    /// Patterns and their fractions.
    pub(super) patterns: Vec<(Pattern, f64)>,
}

/// A column of the basis.
#[derive(Clone, Copy)]
enum Column {
    /// A pattern of the pool.
    Pattern(usize),
    /// More of a kind than the demand, at no cost.
    Surplus,
}

/// The revised simplex method with an explicit inverse, which is dense and small.
struct Simplex {
    /// The kind of each row: those with a demand.
    rows: Vec<usize>,
    /// The row of each kind.
    row_of: Vec<usize>,
    inverse: Vec<f64>,
    basis: Vec<Column>,
    value: Vec<f64>,
    prices: Vec<f64>,
    direction: Vec<f64>,
}

impl Simplex {
    fn new(kinds: &Kinds, demand: &[u32], pool: &mut Vec<Pattern>) -> Self {
        let rows: Vec<usize> = (0..demand.len()).filter(|&kind| demand[kind] > 0).collect();
        let m = rows.len();
        let mut row_of = vec![usize::MAX; demand.len()];
        let mut inverse = vec![0.0; m * m];
        let mut basis = Vec::with_capacity(m);
        let mut value = Vec::with_capacity(m);
        let mut prices = Vec::with_capacity(m);
        for (row, &kind) in rows.iter().enumerate() {
            row_of[kind] = row;
            let most = kinds.most(kind).min(demand[kind]);
            basis.push(Column::Pattern(pool.len()));
            pool.push(vec![(kind as u32, most)]);
            let share = 1.0 / f64::from(most);
            inverse[row * m + row] = share;
            value.push(f64::from(demand[kind]) * share);
            prices.push(share);
        }
        Self { rows, row_of, inverse, basis, value, prices, direction: vec![0.0; m] }
    }

    fn objective(&self) -> f64 {
        self.basis
            .iter()
            .zip(&self.value)
            .map(|(column, value)| if matches!(column, Column::Pattern(_)) { *value } else { 0.0 })
            .sum()
    }

    /// The worth of a pattern at the current prices. It never counts more of a kind than the demand.
    fn worth(&self, pattern: &[(u32, u32)], demand: &[u32]) -> f64 {
        pattern
            .iter()
            .filter(|&&(kind, _)| demand[kind as usize] > 0)
            .map(|&(kind, count)| f64::from(count.min(demand[kind as usize])) * self.prices[self.row_of[kind as usize]])
            .sum()
    }

    /// The pattern of the pool with the highest worth, among `which`, after that worth.
    fn best(&self, which: impl Iterator<Item = usize>, demand: &[u32], pool: &[Pattern]) -> (f64, usize) {
        which
            .map(|at| (self.worth(&pool[at], demand), at))
            .fold((0.0, 0), |best, next| if next.0 > best.0 { next } else { best })
    }

    /// Refill `candidates` with the patterns of the pool that improve the solution most.
    fn select(&self, demand: &[u32], pool: &[Pattern], candidates: &mut Vec<usize>) {
        let mut improving: Vec<(f64, usize)> = pool
            .iter()
            .enumerate()
            .map(|(at, pattern)| (self.worth(pattern, demand), at))
            .filter(|&(worth, _)| worth > 1.0 + TINY)
            .collect();
        improving.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        candidates.clear();
        candidates.extend(improving.iter().take(CANDIDATES).map(|&(_, at)| at));
    }

    /// Bring a column with reduced cost `cost` into the basis. False if rounding errors forbid it.
    fn enter(&mut self, column: Column, entries: &[(usize, f64)], cost: f64) -> bool {
        let m = self.rows.len();
        for (row, to) in self.direction.iter_mut().enumerate() {
            let inverse = &self.inverse[row * m..(row + 1) * m];
            *to = entries.iter().map(|&(at, count)| inverse[at] * count).sum();
        }
        let mut leaving = None;
        let mut least = f64::INFINITY;
        for (row, &step) in self.direction.iter().enumerate() {
            if step > TINY {
                let ratio = self.value[row].max(0.0) / step;
                let better = ratio < least - 1e-10
                    || (ratio < least + 1e-10 && leaving.is_some_and(|old: usize| step > self.direction[old]));
                if better {
                    least = least.min(ratio);
                    leaving = Some(row);
                }
            }
        }
        let Some(leaving) = leaving else { return false };
        let pivot = self.direction[leaving];
        let (above, rest) = self.inverse.split_at_mut(leaving * m);
        let (row, below) = rest.split_at_mut(m);
        for entry in row.iter_mut() {
            *entry /= pivot;
        }
        let step = self.value[leaving] / pivot;
        let others = above
            .chunks_exact_mut(m)
            .enumerate()
            .chain(below.chunks_exact_mut(m).enumerate().map(|(at, chunk)| (at + leaving + 1, chunk)));
        for (at, other) in others {
            let factor = self.direction[at];
            if factor != 0.0 {
                for (to, from) in other.iter_mut().zip(row.iter()) {
                    *to -= factor * from;
                }
                self.value[at] -= factor * step;
            }
        }
        self.value[leaving] = step;
        for (price, from) in self.prices.iter_mut().zip(row.iter()) {
            *price += cost * from;
        }
        self.basis[leaving] = column;
        true
    }
}

/// Solve the program for `demand`; None if the budget ends first. `pool` keeps all patterns that were generated.
pub(super) fn solve(
    kinds: &Kinds,
    demand: &[u32],
    pool: &mut Vec<Pattern>,
    budget: &mut Budget<'_>,
) -> Option<Solution> {
    let mut simplex = Simplex::new(kinds, demand, pool);
    let m = simplex.rows.len();
    let mut best_bound = 0;
    let mut candidates = Vec::new();
    loop {
        if !budget.spend((m * m / 8 + m) as u64) {
            return None;
        }
        let objective = simplex.objective();
        // Surplus first: a negative price means that covering more improves the solution.
        if let Some(row) = (0..m)
            .filter(|&row| simplex.prices[row] < -TINY)
            .min_by(|&a, &b| simplex.prices[a].total_cmp(&simplex.prices[b]))
        {
            let cost = simplex.prices[row];
            if simplex.enter(Column::Surplus, &[(row, -1.0)], cost) {
                continue;
            }
            return Some(simplex.finish(best_bound, demand, pool));
        }
        // Then patterns of the pool, as long as one improves the solution; then a new pattern.
        let (mut worth, mut at) = simplex.best(candidates.iter().copied(), demand, pool);
        if worth <= 1.0 + TINY {
            simplex.select(demand, pool, &mut candidates);
            (worth, at) = simplex.best(candidates.iter().copied(), demand, pool);
        }
        let (worth, at) = if worth > 1.0 + TINY {
            (worth, at)
        } else {
            let prices: Vec<u64> = simplex
                .rows
                .iter()
                .map(|&kind| ((simplex.prices[simplex.row_of[kind]].max(0.0) * ONE as f64) as u64).min(DEAREST))
                .collect();
            let knapsack = Knapsack::new(
                &kinds.limits,
                simplex.rows.iter().map(|&kind| (kinds.tokens[kind], kinds.chunks[kind], demand[kind])),
                &prices,
            );
            let best = knapsack.solve(QUICK);
            if !budget.spend(2 * best.nodes + m as u64) {
                return None;
            }
            let total: u128 = simplex
                .rows
                .iter()
                .zip(&prices)
                .map(|(&kind, &price)| u128::from(demand[kind]) * u128::from(price))
                .sum();
            best_bound = best_bound.max(total.div_ceil(u128::from(best.at_most.max(1))) as u64);
            let worth = best.worth as f64 / ONE as f64;
            // No more can be proven if the bound has reached the value rounded up, or if no pattern improves it.
            if worth <= 1.0 + TINY || best_bound as f64 >= objective - TINY {
                return Some(simplex.finish(best_bound, demand, pool));
            }
            pool.push(best.pattern.iter().map(|&(row, count)| (simplex.rows[row] as u32, count)).collect());
            (simplex.worth(&pool[pool.len() - 1], demand), pool.len() - 1)
        };
        let entries: Vec<(usize, f64)> = pool[at]
            .iter()
            .filter(|&&(kind, _)| demand[kind as usize] > 0)
            .map(|&(kind, count)| (simplex.row_of[kind as usize], f64::from(count.min(demand[kind as usize]))))
            .collect();
        if !simplex.enter(Column::Pattern(at), &entries, 1.0 - worth) {
            return Some(simplex.finish(best_bound, demand, pool));
        }
    }
}

impl Simplex {
    fn finish(self, bound: u64, demand: &[u32], pool: &[Pattern]) -> Solution {
        let mut patterns: Vec<(Pattern, f64)> = self
            .basis
            .iter()
            .zip(&self.value)
            .filter_map(|(column, &value)| match *column {
                Column::Pattern(at) if value > TINY => {
                    let clipped = pool[at]
                        .iter()
                        .map(|&(kind, count)| (kind, count.min(demand[kind as usize])))
                        .filter(|&(_, count)| count > 0)
                        .collect();
                    Some((clipped, value))
                }
                _ => None,
            })
            .collect();
        patterns.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Solution { bound, patterns }
    }
}
