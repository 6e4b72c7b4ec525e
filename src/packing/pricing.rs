//! The most that a request may be worth at given prices: a bounded knapsack under all limits, in integers.

use super::Limits;

/// Prices are in units of 1 / ONE of a request.
pub(super) const ONE: u64 = 1 << 30;
/// Prices above this are cut to it, so that price times tokens fits a word. A good price is at most [`ONE`].
pub(super) const DEAREST: u64 = 4 * ONE;

/// Bits of a price that [`Pricing::whole`] drops, so that a sum of prices fits 32 bits.
pub(super) const COARSE: u32 = 8;
/// Words of decisions that [`Pricing::whole`] may keep.
const MEMORY: usize = 1 << 22;

/// The best pattern found.
pub(super) struct Best {
    pub(super) worth: u64,
    /// No pattern is worth more: `worth` itself where the search was complete.
    pub(super) at_most: u64,
    /// Entry and count.
    pub(super) pattern: Vec<(usize, u32)>,
    pub(super) nodes: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    tokens: u64,
    chunks: u64,
    available: u32,
    price: u64,
    at: usize,
    /// The largest price from here on.
    highest: u64,
    /// The least tokens from here on.
    least: u64,
}

/// A knapsack: entries by descending price a token.
pub(super) struct Pricing {
    entries: Vec<Entry>,
    tokens: u64,
    chunks: u64,
    documents: u32,
}

struct Search<'a> {
    entries: &'a [Entry],
    best: u64,
    pattern: Vec<(usize, u32)>,
    chosen: Vec<(usize, u32)>,
    nodes: u64,
    limit: u64,
}

impl Pricing {
    /// `kinds` gives tokens, chunks and how many there are; `prices` are in units of 1 / [`ONE`].
    pub(super) fn new(limits: &Limits, kinds: impl Iterator<Item = (u32, u32, u32)>, prices: &[u64]) -> Self {
        let mut entries: Vec<Entry> = kinds
            .zip(prices)
            .enumerate()
            .filter(|(_, (_, price))| **price > 0)
            .map(|(at, ((tokens, chunks, available), &price))| Entry {
                tokens: u64::from(tokens),
                chunks: u64::from(chunks),
                available,
                price,
                at,
                highest: 0,
                least: 0,
            })
            .collect();
        // Tokens are below 2^31 and prices at most 2^32, so products fit.
        entries.sort_by(|a, b| (b.price * a.tokens).cmp(&(a.price * b.tokens)).then(b.tokens.cmp(&a.tokens)));
        let (mut highest, mut least) = (0, u64::MAX);
        for entry in entries.iter_mut().rev() {
            highest = highest.max(entry.price);
            least = least.min(entry.tokens);
            (entry.highest, entry.least) = (highest, least);
        }
        Self {
            entries,
            tokens: u64::from(limits.tokens),
            chunks: u64::from(limits.chunks),
            documents: limits.documents,
        }
    }

    /// Search by depth, the dearest a token first, for at most `limit` branches.
    pub(super) fn solve(&self, limit: u64) -> Best {
        let mut search =
            Search { entries: &self.entries, best: 0, pattern: Vec::new(), chosen: Vec::new(), nodes: 0, limit };
        search.descend(0, self.tokens, self.chunks, self.documents, 0);
        let at_most = if search.nodes < limit {
            search.best
        } else {
            self.entries.first().map_or(0, |first| bound(first, self.tokens, self.documents)).max(search.best)
        };
        let pattern = search.pattern.iter().map(|&(entry, count)| (self.entries[entry].at, count)).collect();
        Best { worth: search.best, at_most, pattern, nodes: search.nodes }
    }
}

impl Pricing {
    /// Patterns worth more than `above`: one a kind, with the dearest a token beside it, then the last that fits.
    ///
    /// Many at once, of every kind, make the program converge in fewer steps than the best alone.
    pub(super) fn seeded(&self, above: u64) -> Vec<Vec<(usize, u32)>> {
        let mut found = Vec::new();
        for (seed, first) in self.entries.iter().enumerate() {
            let (mut tokens, mut chunks) = (self.tokens - first.tokens, self.chunks - first.chunks);
            let mut documents = self.documents - 1;
            let mut worth = first.price;
            let mut pattern = vec![(first.at, 1)];
            for (at, entry) in self.entries.iter().enumerate() {
                if documents == 0 || entry.least > tokens {
                    break;
                }
                let by_chunks = chunks.checked_div(entry.chunks).unwrap_or(u64::MAX);
                let available = u64::from(documents.min(entry.available - u32::from(at == seed)));
                let count = (tokens / entry.tokens).min(by_chunks).min(available);
                if count > 0 {
                    tokens -= count * entry.tokens;
                    chunks -= count * entry.chunks;
                    documents -= count as u32;
                    worth += count * entry.price;
                    if at == seed {
                        pattern[0].1 += count as u32;
                    } else {
                        pattern.push((entry.at, count as u32));
                    }
                }
            }
            if worth > above {
                found.push(pattern);
            }
        }
        found
    }
}

/// The exact most by tokens alone.
pub(super) struct Whole {
    /// No pattern is worth more, in units of 2^COARSE / ONE, each price rounded down to them.
    pub(super) at_most: u64,
    /// Entry and count; empty where it breaks another limit.
    pub(super) pattern: Vec<(usize, u32)>,
    pub(super) steps: u64,
}

impl Pricing {
    /// Dynamic programming over tokens; None where that takes too much memory.
    ///
    /// Chunks and documents are ignored, which can only raise the most: the bound stays one.
    pub(super) fn whole(&self) -> Option<Whole> {
        // Each kind as 1, 2, 4, ... of it, so that every count up to what there is can be made.
        let mut items: Vec<(usize, u32, usize, u32)> = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let price = (entry.price >> COARSE) as u32;
            let mut left = entry.available.min((self.tokens / entry.tokens) as u32);
            let mut count = 1;
            while left > 0 {
                count = left.min(count);
                items.push((at, count, (entry.tokens * u64::from(count)) as usize, price.checked_mul(count)?));
                left -= count;
                count *= 2;
            }
        }
        let states = self.tokens as usize + 1;
        let words = states.div_ceil(64);
        let highest = self.entries.first().map_or(0, |first| bound(first, self.tokens, u32::MAX)) >> COARSE;
        if items.len().checked_mul(words)? > MEMORY || highest >= 1 << 31 {
            return None;
        }
        let mut decisions = vec![0u64; items.len() * words];
        let (mut old, mut new) = (vec![0u32; states], vec![0u32; states]);
        for (&(_, _, size, price), taken) in items.iter().zip(decisions.chunks_exact_mut(words)) {
            new[..size].copy_from_slice(&old[..size]);
            let without = old[size..].chunks(64);
            let with = old[..states - size].chunks(64);
            for (((to, without), with), mask) in new[size..].chunks_mut(64).zip(without).zip(with).zip(taken) {
                let mut bits = 0;
                for (i, ((to, &without), &with)) in to.iter_mut().zip(without).zip(with).enumerate() {
                    let with = with + price;
                    *to = with.max(without);
                    bits |= u64::from(with > without) << i;
                }
                *mask = bits;
            }
            std::mem::swap(&mut old, &mut new);
        }
        let mut pattern: Vec<(usize, u32)> = Vec::new();
        let mut free = self.tokens as usize;
        for (&(at, count, size, _), taken) in items.iter().zip(decisions.chunks_exact(words)).rev() {
            if let Some(offset) = free.checked_sub(size)
                && taken[offset / 64] >> (offset % 64) & 1 == 1
            {
                free -= size;
                match pattern.last_mut() {
                    Some(last) if last.0 == at => last.1 += count,
                    _ => pattern.push((at, count)),
                }
            }
        }
        let (chunks, documents) = pattern.iter().fold((0, 0), |(chunks, documents), &(at, count)| {
            (chunks + self.entries[at].chunks * u64::from(count), documents + count)
        });
        if chunks > self.chunks || documents > self.documents {
            pattern.clear();
        }
        for entry in &mut pattern {
            entry.0 = self.entries[entry.0].at;
        }
        Some(Whole { at_most: u64::from(old[states - 1]), pattern, steps: (items.len() * words) as u64 * 24 })
    }
}

/// The most that `tokens` and `documents` may add, from `entry` on.
fn bound(entry: &Entry, tokens: u64, documents: u32) -> u64 {
    let by_tokens = tokens * entry.price / entry.tokens;
    by_tokens.min(u64::from(documents).saturating_mul(entry.highest))
}

impl Search<'_> {
    fn descend(&mut self, from: usize, tokens: u64, chunks: u64, documents: u32, worth: u64) {
        if worth > self.best {
            self.best = worth;
            self.pattern.clone_from(&self.chosen);
        }
        for at in from..self.entries.len() {
            let entry = self.entries[at];
            if documents == 0
                || entry.least > tokens
                || self.nodes >= self.limit
                || worth + bound(&entry, tokens, documents) <= self.best
            {
                return;
            }
            self.nodes += 1;
            let by_chunks = chunks.checked_div(entry.chunks).unwrap_or(u64::MAX);
            let most = (tokens / entry.tokens).min(by_chunks).min(u64::from(documents.min(entry.available))) as u32;
            for count in (1..=most).rev() {
                let taken = u64::from(count);
                self.chosen.push((at, count));
                self.descend(
                    at + 1,
                    tokens - taken * entry.tokens,
                    chunks - taken * entry.chunks,
                    documents - count,
                    worth + taken * entry.price,
                );
                self.chosen.pop();
            }
        }
    }
}
