//! A bounded knapsack under all limits, in integers: the maximum worth of a request at given prices.

use super::super::instance::Limits;

/// Prices are in units of 1 / ONE of a request.
pub(super) const ONE: u64 = 1 << 30;
/// The highest price, so that price times tokens fits 64 bits. A useful price is at most [`ONE`].
pub(super) const DEAREST: u64 = 4 * ONE;

/// The best pattern found.
pub(super) struct Best {
    pub(super) worth: u64,
    /// No pattern is worth more. Equals `worth` if the search was complete.
    pub(super) at_most: u64,
    /// Kinds, by their place in the input, and counts.
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
    /// The highest price of this and later entries.
    highest: u64,
    /// The fewest tokens of this and later entries.
    least: u64,
}

/// Choices of a count that take as long as a node.
const CHOICES_PER_NODE: u64 = 2;
/// Choices of a count for each branch that a search may take.
const MOST_CHOICES: u64 = 16;

/// A knapsack problem. Entries are sorted by descending price per token.
pub(super) struct Knapsack {
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
    /// Choices of a count: many for a node, where a request holds many documents of a kind.
    choices: u64,
    limit: u64,
}

impl Knapsack {
    /// `kinds` gives tokens, chunks and the number available; `prices` are in units of 1 / [`ONE`].
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

    /// Depth-first branch and bound, the highest price per token first, for at most `limit` branches.
    pub(super) fn solve(&self, limit: u64) -> Best {
        let mut search = Search {
            entries: &self.entries,
            best: 0,
            pattern: Vec::new(),
            chosen: Vec::new(),
            nodes: 0,
            choices: 0,
            limit,
        };
        search.descend(0, self.tokens, self.chunks, self.documents, 0);
        let at_most = if search.is_over() {
            self.entries.first().map_or(0, |first| bound(first, self.tokens, self.documents)).max(search.best)
        } else {
            search.best
        };
        let pattern = search.pattern.iter().map(|&(entry, count)| (self.entries[entry].at, count)).collect();
        Best { worth: search.best, at_most, pattern, nodes: search.nodes.max(search.choices / CHOICES_PER_NODE) }
    }
}

/// An upper bound on the worth that `tokens` and `documents` may add from `entry` on.
fn bound(entry: &Entry, tokens: u64, documents: u32) -> u64 {
    let by_tokens = tokens * entry.price / entry.tokens;
    by_tokens.min(u64::from(documents).saturating_mul(entry.highest))
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.nodes >= self.limit || self.choices >= self.limit * MOST_CHOICES
    }

    fn descend(&mut self, from: usize, tokens: u64, chunks: u64, documents: u32, worth: u64) {
        if worth > self.best {
            self.best = worth;
            self.pattern.clone_from(&self.chosen);
        }
        for at in from..self.entries.len() {
            let entry = self.entries[at];
            if documents == 0
                || entry.least > tokens
                || self.is_over()
                || worth + bound(&entry, tokens, documents) <= self.best
            {
                return;
            }
            self.nodes += 1;
            let by_chunks = chunks.checked_div(entry.chunks).unwrap_or(u64::MAX);
            let most = (tokens / entry.tokens).min(by_chunks).min(u64::from(documents.min(entry.available))) as u32;
            for count in (1..=most).rev() {
                if self.is_over() {
                    return;
                }
                self.choices += 1;
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
