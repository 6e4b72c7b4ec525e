//! Best-fit-decreasing under all limits, in O(n log n) for any sizes.
//!
//! Open requests are kept in buckets by their free tokens. A request with its number of documents is removed, so the
//! cardinality constraint costs nothing. Where chunks can bind, each bucket is a heap by free chunks below a tree of
//! maxima, which finds the request with the least free tokens and enough free chunks in one descent.

use super::instance::{Assignment, Instance, Limits, Room};
use super::max_tree::{HIGHEST, MaxTree};

/// Documents whose costs are loaded together, which hides the latency of random access.
const BLOCK: usize = 64;

/// Number of times that the outlook is computed. Each goes over all requests.
const CHECKS: usize = 16;

/// Best-fit of the documents in `order`. None as soon as it must need more than `most` requests.
pub(super) fn in_order(instance: &Instance, order: &[u32], most: usize) -> Option<Assignment> {
    if instance.has_chunks() {
        place(instance, order, most, &mut ByTokensAndChunks::new(&instance.limits))
    } else {
        place(instance, order, most, &mut ByTokens::new(instance.limits.tokens))
    }
}

fn place(instance: &Instance, order: &[u32], most: usize, open: &mut impl Open) -> Option<Assignment> {
    let mut request_of = vec![0; instance.len()];
    let mut rooms: Vec<Room> = Vec::new();
    let mut outlook = Outlook::new(instance);
    let mut costs = [(0, 0); BLOCK];
    let interval = order.len() / BLOCK / CHECKS + 1;
    for (number, block) in order.chunks(BLOCK).enumerate() {
        let is_check = number % interval == interval - 1;
        if rooms.len() > most || (is_check && outlook.least(&rooms) > most) {
            return None;
        }
        for (cost, &i) in costs.iter_mut().zip(block) {
            *cost = (instance.tokens[i as usize], instance.chunks_of(i as usize));
        }
        for (&i, &(tokens, chunks)) in block.iter().zip(&costs) {
            let request = open.take(tokens, chunks, &rooms).unwrap_or_else(|| {
                rooms.push(instance.room());
                (rooms.len() - 1) as u32
            });
            let room = &mut rooms[request as usize];
            room.take(tokens, chunks);
            let room = *room;
            // A document costs a token at least, and a chunk where chunks can bind.
            if room.documents > 0 && room.tokens > 0 && (room.chunks > 0 || !instance.has_chunks()) {
                open.put(request, room);
            }
            request_of[i as usize] = request;
            outlook.place(tokens, chunks);
        }
    }
    (rooms.len() <= most).then_some(Assignment { request_of, requests: rooms.len() })
}

/// What is left to place.
struct Outlook<'a> {
    instance: &'a Instance,
    documents: u64,
    tokens: u64,
    chunks: u64,
    /// The highest ratio of chunks to tokens of a document, times 2^20, rounded up.
    density: u64,
}

impl<'a> Outlook<'a> {
    fn new(instance: &'a Instance) -> Self {
        let (mut tokens, mut chunks) = (0, 0);
        let mut densest = (1, 0);
        for (i, &t) in instance.tokens.iter().enumerate() {
            let (t, c) = (u64::from(t), u64::from(instance.chunks_of(i)));
            tokens += t;
            chunks += c;
            if c * densest.0 > densest.1 * t {
                densest = (t, c);
            }
        }
        let density = (densest.1 << 20).div_ceil(densest.0);
        Self { instance, documents: instance.len() as u64, tokens, chunks, density }
    }

    fn place(&mut self, tokens: u32, chunks: u32) {
        self.documents -= 1;
        self.tokens -= u64::from(tokens);
        self.chunks -= u64::from(chunks);
    }

    /// The fewest requests in the end, given the open requests `rooms`, whose unusable room is lost.
    fn least(&self, rooms: &[Room]) -> usize {
        let (mut documents, mut tokens, mut chunks) = (0, 0, 0);
        for room in rooms.iter().filter(|room| room.documents > 0) {
            let (t, c) = (u64::from(room.tokens), u64::from(room.chunks));
            // Where chunks cannot bind, `room.chunks` stays at its limit.
            documents += u64::from(room.documents).min(t).min(c);
            tokens += t;
            chunks += c.min(((t * self.density) >> 20) + 1);
        }
        let limits = &self.instance.limits;
        let more = self.documents.saturating_sub(documents).div_ceil(u64::from(limits.documents));
        let more = more.max(self.tokens.saturating_sub(tokens).div_ceil(u64::from(limits.tokens)));
        let more = more.max(self.chunks.saturating_sub(chunks).div_ceil(u64::from(limits.chunks)));
        rooms.len() + more as usize
    }
}

/// The open requests: those with room left.
trait Open {
    /// Remove and return the request with the least free tokens that fits.
    fn take(&mut self, tokens: u32, chunks: u32, rooms: &[Room]) -> Option<u32>;
    /// Add a request.
    fn put(&mut self, request: u32, room: Room);
}

/// Requests that are checked where some fit and others do not: in a bucket that spans several values, or heads of one level.
const PARTIAL: usize = 16;
/// No request.
const NONE: u32 = u32::MAX;

/// Buckets by free tokens. Each is one value for limits up to 2^21 tokens, otherwise a range of values.
struct ByTokens {
    shift: u32,
    /// A bit for each bucket that is not empty; on each further level, a bit for each word that is not 0.
    levels: [Vec<u64>; 4],
    /// The first request of each bucket.
    heads: Vec<u32>,
    /// For each request, the next one of its bucket.
    next: Vec<u32>,
}

impl ByTokens {
    fn new(capacity: u32) -> Self {
        let shift = (32 - capacity.leading_zeros()).saturating_sub(21);
        let buckets = (capacity >> shift) as usize + 1;
        let mut words = buckets;
        let levels = std::array::from_fn(|_| {
            words = words.div_ceil(64);
            vec![0; words]
        });
        Self { shift, levels, heads: vec![NONE; buckets], next: Vec::new() }
    }

    fn mark(&mut self, bucket: usize) {
        let mut at = bucket;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was = *word;
            *word |= 1 << (at % 64);
            if was != 0 {
                return;
            }
            at /= 64;
        }
    }

    fn clear(&mut self, bucket: usize) {
        let mut at = bucket;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The first bucket from `start` on that is not empty.
    fn first(&self, start: usize) -> Option<usize> {
        let mut at = start;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(at / 64).copied().unwrap_or(0) & (u64::MAX << (at % 64));
            if word != 0 {
                at = at / 64 * 64 + word.trailing_zeros() as usize;
                for lower in self.levels[..height].iter().rev() {
                    at = at * 64 + lower[at].trailing_zeros() as usize;
                }
                return Some(at);
            }
            at = at / 64 + 1;
        }
        None
    }

    /// Take from the bucket with values on both sides of `tokens`, of which a few requests are checked.
    fn take_partial(&mut self, bucket: usize, tokens: u32, rooms: &[Room]) -> Option<u32> {
        let mut before = NONE;
        let mut at = self.heads[bucket];
        for _ in 0..PARTIAL {
            if at == NONE {
                return None;
            }
            if rooms[at as usize].tokens >= tokens {
                let after = self.next[at as usize];
                if before == NONE {
                    self.heads[bucket] = after;
                } else {
                    self.next[before as usize] = after;
                }
                if self.heads[bucket] == NONE {
                    self.clear(bucket);
                }
                return Some(at);
            }
            before = at;
            at = self.next[at as usize];
        }
        None
    }
}

impl Open for ByTokens {
    fn take(&mut self, tokens: u32, _chunks: u32, rooms: &[Room]) -> Option<u32> {
        let mut start = (tokens >> self.shift) as usize;
        if self.shift > 0 {
            if let Some(request) = self.take_partial(start, tokens, rooms) {
                return Some(request);
            }
            start += 1;
        }
        let bucket = self.first(start)?;
        let request = self.heads[bucket];
        self.heads[bucket] = self.next[request as usize];
        if self.heads[bucket] == NONE {
            self.clear(bucket);
        }
        Some(request)
    }

    fn put(&mut self, request: u32, room: Room) {
        let bucket = (room.tokens >> self.shift) as usize;
        if self.next.len() <= request as usize {
            self.next.resize(request as usize + 1, NONE);
        }
        self.next[request as usize] = self.heads[bucket];
        if self.heads[bucket] == NONE {
            self.mark(bucket);
        }
        self.heads[bucket] = request;
    }
}

/// As [`ByTokens`], but each bucket is a skew heap by free chunks (Sleator and Tarjan, "Self-adjusting heaps", SIAM Journal
/// on Computing 15, 1986), below a tree of the most free chunks of each bucket.
struct ByTokensAndChunks {
    shift: u32,
    /// Chunks of an empty request.
    capacity: u64,
    /// The request with the most free chunks of each bucket.
    heads: Vec<u32>,
    /// The level of each bucket's head; 0 if the bucket is empty.
    levels: MaxTree,
    /// The heap node of each request.
    nodes: Vec<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    chunks: u32,
    below: [u32; 2],
}

impl ByTokensAndChunks {
    fn new(limits: &Limits) -> Self {
        let shift = (32 - limits.tokens.leading_zeros()).saturating_sub(18);
        let buckets = (limits.tokens >> shift) as usize + 1;
        Self {
            shift,
            capacity: u64::from(limits.chunks),
            heads: vec![NONE; buckets],
            levels: MaxTree::new(buckets),
            nodes: Vec::new(),
        }
    }

    /// Free chunks on a scale from 1 to [`HIGHEST`], monotone.
    fn level(&self, chunks: u32) -> u8 {
        1 + (u64::from(chunks) * u64::from(HIGHEST - 1) / self.capacity) as u8
    }

    /// Replace the heap of a bucket.
    fn replace(&mut self, bucket: usize, head: u32) {
        self.heads[bucket] = head;
        let level = self.nodes.get(head as usize).map_or(0, |node| self.level(node.chunks));
        self.levels.set(bucket, level);
    }

    /// Remove and return the head of a bucket that is not empty.
    fn pop(&mut self, bucket: usize) -> u32 {
        let request = self.heads[bucket];
        let [left, right] = self.nodes[request as usize].below;
        let head = self.merge(left, right);
        self.replace(bucket, head);
        request
    }

    /// Merge two heaps, which may be empty.
    fn merge(&mut self, a: u32, b: u32) -> u32 {
        if a == NONE || b == NONE {
            return a.min(b);
        }
        let (root, mut low) = self.ordered(a, b);
        let mut at = root;
        // `low` goes below `at`: its left child becomes the right one, and `low` is merged with the former right child.
        loop {
            let [left, right] = self.nodes[at as usize].below;
            if right == NONE {
                self.nodes[at as usize].below = [low, left];
                return root;
            }
            let high;
            (high, low) = self.ordered(right, low);
            self.nodes[at as usize].below = [high, left];
            at = high;
        }
    }

    /// The one with more chunks first.
    fn ordered(&self, a: u32, b: u32) -> (u32, u32) {
        if self.nodes[a as usize].chunks < self.nodes[b as usize].chunks { (b, a) } else { (a, b) }
    }
}

impl Open for ByTokensAndChunks {
    fn take(&mut self, tokens: u32, chunks: u32, rooms: &[Room]) -> Option<u32> {
        let mut start = (tokens >> self.shift) as usize;
        if self.shift > 0 {
            let head = self.heads[start];
            if rooms.get(head as usize).is_some_and(|room| room.fits(tokens, chunks)) {
                return Some(self.pop(start));
            }
            start += 1;
        }
        // A head of the same level may have slightly fewer chunks, one of the next level has enough.
        let level = self.level(chunks);
        for _ in 0..PARTIAL {
            let bucket = self.levels.first(start, level)?;
            if self.nodes[self.heads[bucket] as usize].chunks >= chunks {
                return Some(self.pop(bucket));
            }
            start = bucket + 1;
        }
        let bucket = self.levels.first(start, level + 1)?;
        Some(self.pop(bucket))
    }

    fn put(&mut self, request: u32, room: Room) {
        if self.nodes.len() <= request as usize {
            self.nodes.resize(request as usize + 1, Node { chunks: 0, below: [NONE; 2] });
        }
        self.nodes[request as usize] = Node { chunks: room.chunks, below: [NONE; 2] };
        let bucket = (room.tokens >> self.shift) as usize;
        let head = self.merge(self.heads[bucket], request);
        self.replace(bucket, head);
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::sort::decreasing;
    use super::*;

    /// Documents whose chunks vary at most as much as their tokens.
    fn instance(n: u32, spread: u32, seed: u64) -> Instance {
        let mut random = Random::new(seed);
        let limits = Limits { documents: 40, chunks: 2_000, tokens_per_document: 3_000, tokens: 12_000 };
        let chunks: Vec<u32> = (0..n).map(|_| 1 + random.below(spread)).collect();
        let mut more = || {
            let most = 1 + random.below(2_500);
            random.below(most)
        };
        let tokens = chunks.iter().map(|&chunks| chunks + more()).collect();
        Instance { tokens, chunks, limits }
    }

    #[test]
    fn a_packing_is_abandoned_only_if_it_needs_too_many_requests() {
        for (seed, spread) in (0..).zip([2, 20, 100, 200, 400, 500]) {
            let instance = instance(60_000, spread, seed);
            let order = decreasing(&instance);
            let needs =
                in_order(&instance, &order, instance.len()).expect("one request for each document is enough").requests;
            for most in [needs / 2, needs - needs / 20, needs - 1] {
                assert!(in_order(&instance, &order, most).is_none(), "{needs} requests, at most {most}");
            }
            for most in [needs, needs + 1] {
                assert_eq!(in_order(&instance, &order, most).map(|packing| packing.requests), Some(needs));
            }
        }
    }
}
