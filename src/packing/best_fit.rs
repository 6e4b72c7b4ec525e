//! Best-fit-decreasing under all limits, in O(n log n) whatever the sizes.
//!
//! Requests with room left stand in buckets by their free tokens. A request that is full in documents is closed and
//! leaves, so the cardinality bound costs nothing. Where chunks bind too, each bucket is a heap by free chunks under
//! a tree of maxima, so that "the least free tokens that suffice, with enough free chunks" is one descent.

use super::levels::{HIGHEST, Levels};
use super::{Assignment, Instance, Limits, Room};

/// Documents whose costs are fetched together: they lie anywhere, so one by one each would wait for memory.
const BLOCK: usize = 64;

/// Looks at whether a packing can still succeed: each goes over all requests, so there are only so many.
const LOOKS: usize = 16;

/// Best-fit of the documents in the order given; nothing as soon as it is sure to need more than `most` requests.
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
    let patience = order.len() / BLOCK / LOOKS + 1;
    for (number, block) in order.chunks(BLOCK).enumerate() {
        let look = number % patience == patience - 1;
        if rooms.len() > most || (look && outlook.least(&rooms) > most) {
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
            // Every document costs at least a token (and a chunk, where chunks count): nothing fits an exhausted one.
            if room.documents > 0 && room.tokens > 0 && (room.chunks > 0 || !instance.has_chunks()) {
                open.put(request, room);
            }
            request_of[i as usize] = request;
            outlook.place(tokens, chunks);
        }
    }
    (rooms.len() <= most).then_some(Assignment { request_of, requests: rooms.len() })
}

/// What is not placed yet.
struct Outlook<'a> {
    instance: &'a Instance,
    documents: u64,
    tokens: u64,
    chunks: u64,
    /// Chunks a token of the document that has the most, times 2^20, rounded up.
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

    /// Requests needed in the end if `rooms` are kept: what these have left that no document can use is lost.
    fn least(&self, rooms: &[Room]) -> usize {
        let (mut documents, mut tokens, mut chunks) = (0, 0, 0);
        for room in rooms.iter().filter(|room| room.documents > 0) {
            let (t, c) = (u64::from(room.tokens), u64::from(room.chunks));
            // A document costs a token at least, and a chunk where chunks count; `room.chunks` stays whole elsewhere.
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

/// Requests that can still take something.
trait Open {
    /// Remove and return the request with the least free tokens that fits.
    fn take(&mut self, tokens: u32, chunks: u32, rooms: &[Room]) -> Option<u32>;
    /// Add a request.
    fn put(&mut self, request: u32, room: Room);
}

/// Entries looked at where some fit and others do not: in a bucket that spans several values, or heads of one level.
const PARTIAL: usize = 16;
/// No request.
const NONE: u32 = u32::MAX;

/// Buckets by free tokens: one a value up to 2^21 tokens, equal ranges of values beyond.
struct ByTokens {
    shift: u32,
    /// Which buckets hold something: one bit a bucket, then one bit a word of the level below.
    levels: [Vec<u64>; 4],
    /// First request of each bucket.
    heads: Vec<u32>,
    /// Next request of the same bucket, by request.
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

    /// The first bucket from `start` on that holds something.
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

    /// The bucket that holds values on both sides of `tokens`: a few of its requests are looked at.
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

/// As [`ByTokens`], each bucket a skew heap by free chunks (Sleator and Tarjan, "Self-adjusting heaps", SIAM Journal on
/// Computing 15, 1986), under a tree of the most free chunks in each.
struct ByTokensAndChunks {
    shift: u32,
    /// Chunks of an empty request.
    capacity: u64,
    /// The request with the most free chunks of each bucket.
    heads: Vec<u32>,
    /// The level of each bucket's head; 0 where there is none.
    levels: Levels,
    /// Where each request stands in its heap.
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
            levels: Levels::new(buckets),
            nodes: Vec::new(),
        }
    }

    /// So many free chunks in 1 to [`HIGHEST`]: more are never lower.
    fn level(&self, chunks: u32) -> u8 {
        1 + (u64::from(chunks) * u64::from(HIGHEST - 1) / self.capacity) as u8
    }

    /// Put a heap in place of a bucket's.
    fn replace(&mut self, bucket: usize, head: u32) {
        self.heads[bucket] = head;
        let level = self.nodes.get(head as usize).map_or(0, |node| self.level(node.chunks));
        self.levels.set(bucket, level);
    }

    /// Remove and return a bucket's head, which exists.
    fn pop(&mut self, bucket: usize) -> u32 {
        let request = self.heads[bucket];
        let [left, right] = self.nodes[request as usize].below;
        let head = self.merge(left, right);
        self.replace(bucket, head);
        request
    }

    /// One heap of two, either of which may be empty.
    fn merge(&mut self, a: u32, b: u32) -> u32 {
        if a == NONE || b == NONE {
            return a.min(b);
        }
        let (root, mut low) = self.ordered(a, b);
        let mut at = root;
        // `low` goes below `at`: the left part becomes the right, and what was there is merged with `low` on the left.
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
        // A head of the same level may have a few chunks less, one of the next never has.
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
    use super::super::order::decreasing;
    use super::super::search::Random;
    use super::*;

    /// Documents whose chunks vary as much as their tokens, or less.
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
    fn a_packing_is_given_up_only_if_it_needs_too_many_requests() {
        for (seed, spread) in (0..).zip([2, 20, 100, 200, 400, 500]) {
            let instance = instance(60_000, spread, seed);
            let order = decreasing(&instance);
            let needs = in_order(&instance, &order, instance.len()).expect("a request a document is enough").requests;
            for most in [needs / 2, needs - needs / 20, needs - 1] {
                assert!(in_order(&instance, &order, most).is_none(), "{needs} requests, at most {most}");
            }
            for most in [needs, needs + 1] {
                assert_eq!(in_order(&instance, &order, most).map(|packing| packing.requests), Some(needs));
            }
        }
    }
}
