//! The linear relaxation over patterns: the strongest bound, and a packing by rounding it.
//!
//! A pattern is what one request may hold, counted by kind of document. Covering every document with the least sum of
//! fractions of patterns is a linear program whose patterns are generated when they pay (Gilmore and Gomory, "A
//! linear programming approach to the cutting-stock problem", Operations Research 9, 1961). Its prices are a dual
//! feasible function: rounded to integers and divided by the exact most that a request may be worth, they prove a
//! bound without a floating-point number in the proof. Fixing the patterns of the largest fractions and solving for
//! what remains gives a packing (diving).

use super::order::decreasing;
use super::pricing::{COARSE, DEAREST, ONE, Pricing};
use super::search::{Clock, Random};
use super::{Assignment, Instance, Limits};

/// Kinds of documents up to which the program is small enough to solve.
const KINDS: usize = 700;
/// Branches that a search for a pattern that pays may take.
const QUICK: u64 = 20_000;
/// Patterns that are looked at again before the whole pool is.
const CANDIDATES: usize = 64;
/// Patterns beyond which only the best is kept of each search.
const POOL: usize = 10_000;
/// Reduced costs and steps below this are rounding errors.
const TINY: f64 = 1e-7;

/// A kind of document and how many of it.
pub(super) type Pattern = Vec<(u32, u32)>;

/// Documents by kind: those of equal tokens and chunks cannot be told apart.
pub(super) struct Kinds {
    limits: Limits,
    tokens: Vec<u32>,
    chunks: Vec<u32>,
    /// The documents of each kind.
    pub(super) members: Vec<Vec<u32>>,
}

impl Kinds {
    /// The kinds of an instance, if they are few enough.
    pub(super) fn of(instance: &Instance) -> Option<Self> {
        // Most large inputs have too many kinds, which shows long before they are sorted.
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

    /// What the requests of a packing hold.
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

    /// How many there are of each.
    pub(super) fn demand(&self) -> Vec<u32> {
        self.members.iter().map(|members| members.len() as u32).collect()
    }

    /// How many of one kind a request holds.
    fn most(&self, kind: usize) -> u32 {
        let by_chunks = self.limits.chunks.checked_div(self.chunks[kind]).unwrap_or(u32::MAX);
        (self.limits.tokens / self.tokens[kind]).min(by_chunks).min(self.limits.documents)
    }
}

/// A solution of the program.
pub(super) struct Solution {
    /// No packing of the demand needs fewer requests: proven in integers.
    pub(super) bound: u64,
    /// Patterns and their fractions.
    pub(super) patterns: Vec<(Pattern, f64)>,
}

/// What is in the basis.
#[derive(Clone, Copy)]
enum Column {
    /// A pattern of the pool.
    Pattern(usize),
    /// More of a kind than there are: costs nothing.
    Surplus,
}

/// The revised simplex method with an explicit inverse: dense, small, and quick to update.
struct Simplex {
    /// Kinds with a demand; rows of the program.
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

    /// What a pattern is worth at the current prices, never counting more of a kind than there are.
    fn worth(&self, pattern: &[(u32, u32)], demand: &[u32]) -> f64 {
        pattern
            .iter()
            .filter(|&&(kind, _)| demand[kind as usize] > 0)
            .map(|&(kind, count)| f64::from(count.min(demand[kind as usize])) * self.prices[self.row_of[kind as usize]])
            .sum()
    }

    /// The dearest of some patterns of the pool, and what it is worth.
    fn dearest(&self, which: impl Iterator<Item = usize>, demand: &[u32], pool: &[Pattern]) -> (f64, usize) {
        which
            .map(|at| (self.worth(&pool[at], demand), at))
            .fold((0.0, 0), |best, next| if next.0 > best.0 { next } else { best })
    }

    /// Refill `candidates` with the dearest patterns of the pool that pay.
    fn promising(&self, demand: &[u32], pool: &[Pattern], candidates: &mut Vec<usize>) {
        let mut paying: Vec<(f64, usize)> = pool
            .iter()
            .enumerate()
            .map(|(at, pattern)| (self.worth(pattern, demand), at))
            .filter(|&(worth, _)| worth > 1.0 + TINY)
            .collect();
        paying.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        candidates.clear();
        candidates.extend(paying.iter().take(CANDIDATES).map(|&(_, at)| at));
    }

    /// Bring a column with reduced cost `cost` into the basis; false where rounding errors forbid it.
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

/// Solve for `demand`; None when the clock ran out first. `pool` keeps every pattern that was ever generated.
pub(super) fn solve(kinds: &Kinds, demand: &[u32], pool: &mut Vec<Pattern>, clock: &mut Clock<'_>) -> Option<Solution> {
    let mut simplex = Simplex::new(kinds, demand, pool);
    let m = simplex.rows.len();
    let mut best_bound = 0;
    let mut candidates = Vec::new();
    loop {
        if !clock.spend((m * m / 8 + m) as u64) {
            return None;
        }
        let objective = simplex.objective();
        // Surplus first: a price below zero says that covering more is free.
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
        // Then what was generated earlier, the most promising of it as long as it pays; then a new pattern.
        let (mut worth, mut at) = simplex.dearest(candidates.iter().copied(), demand, pool);
        if worth <= 1.0 + TINY {
            simplex.promising(demand, pool, &mut candidates);
            (worth, at) = simplex.dearest(candidates.iter().copied(), demand, pool);
        }
        let (worth, at) = if worth > 1.0 + TINY {
            (worth, at)
        } else {
            let prices: Vec<u64> = simplex
                .rows
                .iter()
                .map(|&kind| ((simplex.prices[simplex.row_of[kind]].max(0.0) * ONE as f64) as u64).min(DEAREST))
                .collect();
            let problem = Pricing::new(
                &kinds.limits,
                simplex.rows.iter().map(|&kind| (kinds.tokens[kind], kinds.chunks[kind], demand[kind])),
                &prices,
            );
            let best = problem.solve(QUICK);
            if !clock.spend(2 * best.nodes + m as u64) {
                return None;
            }
            let total = |shift: u32| -> u128 {
                let whole = simplex.rows.iter().zip(&prices);
                whole.map(|(&kind, &price)| u128::from(demand[kind]) * u128::from(price >> shift)).sum()
            };
            best_bound = best_bound.max(total(0).div_ceil(u128::from(best.at_most.max(1))) as u64);
            let mut worth = best.worth as f64 / ONE as f64;
            let mut pattern = best.pattern;
            // Where the search stopped short of a proof that is within reach, the exact most decides.
            if best.nodes >= QUICK
                && (objective / worth.max(1.0)).ceil() >= (objective - TINY).ceil()
                && let Some(whole) = problem.whole()
            {
                if !clock.spend(whole.steps) {
                    return None;
                }
                best_bound = best_bound.max(total(COARSE).div_ceil(u128::from(whole.at_most.max(1))) as u64);
                if !whole.pattern.is_empty() {
                    worth = whole.at_most as f64 / (ONE >> COARSE) as f64;
                    pattern = whole.pattern;
                }
            }
            // The bound has reached the value rounded up, or no pattern pays: no more can be proven.
            if worth <= 1.0 + TINY || best_bound as f64 >= objective - TINY {
                return Some(simplex.finish(best_bound, demand, pool));
            }
            let named = |pattern: &[(usize, u32)]| -> Pattern {
                pattern.iter().map(|&(row, count)| (simplex.rows[row] as u32, count)).collect()
            };
            if pool.len() < POOL {
                // Others at least half as good.
                let above = ONE + ((worth - 1.0) / 2.0 * ONE as f64) as u64;
                pool.extend(problem.seeded(above).iter().map(|pattern| named(pattern)));
            }
            pool.push(named(&pattern));
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

/// Fix patterns of `solution` and take them from `demand`: whole parts, or else the largest fractions.
///
/// Returns the patterns that were fixed, one a request. `random` perturbs the choice after the first dive.
pub(super) fn fix(solution: &Solution, demand: &mut [u32], dive: u32, random: &mut Random) -> Vec<Pattern> {
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
        // Several at a time where there are many, so that a dive takes few programs.
        let wanted = 1 + solution.patterns.len() / 16;
        for (pattern, value) in &solution.patterns {
            if dive > 0 && random.below(4) == 0 && *value < 0.95 {
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
