//! Lower bounds on the requests of any packing.
//!
//! Every bound holds for all packings under all limits. Sources: Martello and Toth, "Lower bounds and reduction
//! procedures for the bin packing problem", Discrete Applied Mathematics 28 (1990), bound L2; Fekete and Schepers, "New
//! classes of fast lower bounds for bin packing problems", Mathematical Programming 91 (2001), the dual feasible
//! functions u(k) and their composition with the thresholds of L2; Carlier, Clautiaux and Moukrim, "New reduction
//! procedures and lower bounds for the two-dimensional bin packing problem with fixed orientation", Computers &
//! Operations Research 34 (2007), the function f2; Lueker, "Bin packing with items uniformly distributed over intervals
//! [a, b]", Symposium on Foundations of Computer Science (1983), the capped line of `capped`. The thresholds of L2
//! also count documents and the other dimension: a document that excludes all remaining smaller ones needs a request of
//! its own, and each dimension bounds the requests of the rest.

use super::instance::Instance;
use super::sort::by_descending;

/// Largest parameter of u(k). Beyond it the function hardly differs from the identity for documents of interest.
const STEPS: u64 = 64;
/// Largest number of documents a request that [`View::capped`] is tried for.
const CAPS: u64 = 32;
/// Evaluations of functions on sizes, for each dimension, in [`strong`].
const BUDGET: usize = 400_000;

/// The totals of documents, tokens and chunks, each divided by what a request holds and rounded up.
pub(super) fn ceilings(instance: &Instance) -> usize {
    let limits = &instance.limits;
    let total = |values: &[u32]| values.iter().map(|&value| u64::from(value)).sum::<u64>();
    let documents = (instance.len() as u64).div_ceil(u64::from(limits.documents));
    let tokens = total(&instance.tokens).div_ceil(u64::from(limits.tokens));
    let chunks = total(&instance.chunks).div_ceil(u64::from(limits.chunks));
    documents.max(tokens).max(chunks) as usize
}

/// The best bound found in bounded time. Stops at `known`, the requests of a known packing.
pub(super) fn strong(instance: &Instance, known: usize) -> usize {
    let limits = &instance.limits;
    let of_tokens = View {
        capacity: u64::from(limits.tokens),
        other_capacity: u64::from(limits.chunks),
        documents: u64::from(limits.documents),
    };
    let mut best = of_tokens.best(&classes(&instance.tokens, &instance.chunks), known as u64);
    if instance.has_chunks() && best < known as u64 {
        let of_chunks = View { capacity: of_tokens.other_capacity, other_capacity: of_tokens.capacity, ..of_tokens };
        best = best.max(of_chunks.best(&classes(&instance.chunks, &instance.tokens), known as u64));
    }
    best as usize
}

/// The documents of one size.
#[derive(Clone, Copy, Debug)]
struct Class {
    size: u64,
    count: u64,
    /// Their sum in the other dimension.
    other: u64,
}

/// The distinct sizes, descending.
fn classes(sizes: &[u32], others: &[u32]) -> Vec<Class> {
    let other = |i: usize| others.get(i).map_or(0, |&value| u64::from(value));
    let largest = sizes.iter().max().map_or(0, |&size| size as usize);
    let mut classes: Vec<Class> = Vec::new();
    if largest <= sizes.len() {
        // Counting by size is several times faster than sorting.
        classes.extend((0..=largest as u64).rev().map(|size| Class { size, count: 0, other: 0 }));
        for (i, &size) in sizes.iter().enumerate() {
            let class = &mut classes[largest - size as usize];
            class.count += 1;
            class.other += other(i);
        }
        classes.retain(|class| class.count > 0);
        return classes;
    }
    for i in by_descending(sizes.iter().copied()) {
        let size = u64::from(sizes[i as usize]);
        match classes.last_mut() {
            Some(last) if last.size == size => {
                last.count += 1;
                last.other += other(i as usize);
            }
            _ => classes.push(Class { size, count: 1, other: other(i as usize) }),
        }
    }
    classes
}

/// One dimension, with the limits of the others.
#[derive(Clone, Copy)]
struct View {
    capacity: u64,
    other_capacity: u64,
    documents: u64,
}

impl View {
    fn best(self, classes: &[Class], known: u64) -> u64 {
        let mut best = self.thresholds(classes, self.capacity);
        let mut left = BUDGET;
        let mut spend = |cost: usize| {
            let affordable = left >= cost;
            left = left.saturating_sub(cost);
            affordable
        };
        let full = self.capacity;
        for k in 2..=CAPS.min(self.documents) {
            // Sizes of which more than k fit have no worth here, nor for any larger k.
            if best >= known || !spend(2 * classes.len()) {
                return best;
            }
            best = best.max(self.capped(classes, k));
        }
        let mut image = classes.to_vec();
        // Sums of images stay below 2^63.
        let documents: u64 = classes.iter().map(|class| class.count).sum();
        let headroom = (u64::MAX / 2) / (documents * full);
        for k in 1..=STEPS.min(headroom) {
            if best >= known || !spend(classes.len()) {
                return best;
            }
            for (to, from) in image.iter_mut().zip(classes) {
                let scaled = (k + 1) * from.size;
                to.size = if scaled.is_multiple_of(full) { k * from.size } else { scaled / full * full };
            }
            best = best.max(self.thresholds(&image, k * full));
        }
        // f2 changes where k divides a size or its complement, so sizes, complements and their parts are the parameters.
        for part in 1..=4 * u64::from(headroom > 2) {
            for class in classes {
                for k in [class.size / part, (full - class.size) / part] {
                    if k == 0 || 2 * k > full {
                        continue;
                    }
                    if best >= known || !spend(classes.len()) {
                        return best;
                    }
                    for (to, from) in image.iter_mut().zip(classes) {
                        to.size = f2(from.size, k, full);
                    }
                    best = best.max(self.thresholds(&image, 2 * (full / k)));
                }
            }
        }
        best
    }

    /// A line with a cap, given that at most k documents larger than capacity / (k + 1) fit a request.
    ///
    /// Such a size is worth 1/k + a (size / capacity - 1/k), but no more than 1/(k - 1). The worth of k documents that fit
    /// is at most 1 by the line, that of fewer by the cap. Smaller sizes are worth 0. The slope a is the best of those at
    /// which the cap meets a size, and the steepest that leaves no worth negative.
    fn capped(self, classes: &[Class], k: u64) -> u64 {
        let full = self.capacity;
        let classes = &classes[..classes.partition_point(|class| class.size * (k + 1) > full)];
        let Some(least) = classes.last() else { return 0 };
        // 1/a in units of 1 / capacity: the line is den + k * size - full over k * den.
        let steepest = full.saturating_sub(k * least.size).max(1);
        let of_line = |count: u64, sum: u64, den: u64| {
            count as f64 * (den as f64 - full as f64) + k as f64 * sum as f64 // times 1 / (k * den)
        };
        let (all, whole) = classes.iter().fold((0, 0), |(n, s), class| (n + class.count, s + class.count * class.size));
        let mut best = (f64::MIN, steepest);
        let (mut count, mut sum) = (0, 0);
        let mut consider = |den: u64, count: u64, sum: u64| {
            let cap = count as f64 / (k - 1) as f64;
            let value = cap + of_line(all - count, whole - sum, den) / (k * den) as f64;
            if den >= steepest && value > best.0 {
                best = (value, den);
            }
        };
        for class in classes {
            count += class.count;
            sum += class.count * class.size;
            if k * class.size <= full {
                break;
            }
            consider((k - 1) * (k * class.size - full), count, sum);
        }
        let above = |class: &&Class| k * class.size > full && (k - 1) * (k * class.size - full) >= steepest;
        let (count, sum) = classes
            .iter()
            .take_while(above)
            .fold((0, 0), |(n, s), class| (n + class.count, s + class.count * class.size));
        consider(steepest, count, sum);
        let den = best.1;
        let capacity = k * (k - 1) * den;
        if u128::from(capacity) * u128::from(all) > u128::from(u64::MAX / 2) {
            return 0;
        }
        let image: Vec<Class> = classes
            .iter()
            .map(|class| {
                let line = (k - 1) * (den + k * class.size - full);
                Class { size: line.min(k * den), ..*class }
            })
            .collect();
        self.thresholds(&image, capacity)
    }

    /// L2 over `classes` (by descending size) and `capacity`, with documents and the other dimension.
    ///
    /// For a threshold e: documents above `capacity - e` exclude all others of at least e, documents above half the
    /// capacity exclude each other, and the rest of those of at least e share the remaining room.
    fn thresholds(self, classes: &[Class], capacity: u64) -> u64 {
        let half = classes.partition_point(|class| 2 * class.size > capacity);
        let mut alone = half; // classes[..alone] are above capacity - e
        let (mut count_alone, mut count_shared, mut sum, mut other) = (0, 0, 0, 0);
        for class in &classes[..half] {
            count_alone += class.count;
        }
        // First e is just above half, and everything above it is alone. Then e falls from size to size.
        let mut best = count_alone;
        for class in &classes[half..] {
            let e = class.size;
            if e == 0 {
                break;
            }
            while alone > 0 && classes[alone - 1].size + e <= capacity {
                alone -= 1;
                let freed = &classes[alone];
                count_alone -= freed.count;
                count_shared += freed.count;
                sum += freed.count * freed.size;
                other += freed.other;
            }
            count_shared += class.count;
            sum += class.count * class.size;
            other += class.other;
            // Products are faster than quotients, which are needed only if the bound rises.
            let need = best.saturating_sub(count_alone);
            if count_shared > need * self.documents || sum > need * capacity || other > need * self.other_capacity {
                let shared = count_shared
                    .div_ceil(self.documents)
                    .max(sum.div_ceil(capacity))
                    .max(other.div_ceil(self.other_capacity));
                best = best.max(count_alone + shared);
            }
        }
        best
    }
}

/// The dual feasible function f2 of Carlier, Clautiaux and Moukrim, times `2 * (full / k)`.
fn f2(size: u64, k: u64, full: u64) -> u64 {
    match (2 * size).cmp(&full) {
        std::cmp::Ordering::Greater => 2 * (full / k - (full - size) / k),
        std::cmp::Ordering::Equal => full / k,
        std::cmp::Ordering::Less => 2 * (size / k),
    }
}
