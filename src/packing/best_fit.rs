//! Best-fit-decreasing under all limits, in O(n log n) whatever the sizes.
//!
//! Requests with room left stand in buckets by their free tokens. A request that is full in documents is closed and
//! leaves, so the cardinality bound costs nothing. Where chunks bind too, each bucket is a heap by free chunks under
//! a tournament tree, so that "the least free tokens that suffice, with enough free chunks" is one descent.

use std::collections::BinaryHeap;

use super::{Assignment, Instance, Room};

/// Documents by descending tokens, ties by position.
pub(super) fn decreasing(instance: &Instance) -> Vec<u32> {
    by_descending(instance.tokens.iter().copied())
}

/// Positions by descending key, ties by position.
pub(super) fn by_descending(keys: impl Iterator<Item = u32>) -> Vec<u32> {
    // One word holds key and position: sorting words is several times faster than sorting positions through a key.
    let mut words: Vec<u64> = keys.enumerate().map(|(i, key)| (u64::from(u32::MAX - key) << 32) | i as u64).collect();
    words.sort_unstable();
    words.iter().map(|&word| word as u32).collect()
}

/// Best-fit-decreasing.
pub(super) fn pack(instance: &Instance) -> Assignment {
    in_order(instance, &decreasing(instance))
}

/// Best-fit of the documents in the order given.
pub(super) fn in_order(instance: &Instance, order: &[u32]) -> Assignment {
    if instance.has_chunks() {
        place(instance, order, &mut ByTokensAndChunks::new(instance.limits.tokens))
    } else {
        place(instance, order, &mut ByTokens::new(instance.limits.tokens))
    }
}

fn place(instance: &Instance, order: &[u32], open: &mut impl Open) -> Assignment {
    let mut request_of = vec![0; instance.len()];
    let mut rooms: Vec<Room> = Vec::new();
    for &i in order {
        let i = i as usize;
        let (tokens, chunks) = (instance.tokens[i], instance.chunks_of(i));
        let request = open.take(tokens, chunks, &rooms).unwrap_or_else(|| {
            rooms.push(instance.room());
            (rooms.len() - 1) as u32
        });
        let room = &mut rooms[request as usize];
        room.take(tokens, chunks);
        let room = *room;
        // Every document costs at least a token (and a chunk, where chunks count): nothing fits an exhausted request.
        if room.documents > 0 && room.tokens > 0 && (room.chunks > 0 || !instance.has_chunks()) {
            open.put(request, room);
        }
        request_of[i] = request;
    }
    Assignment { request_of, requests: rooms.len() }
}

/// Requests that can still take something.
trait Open {
    /// Remove and return the request with the least free tokens that fits.
    fn take(&mut self, tokens: u32, chunks: u32, rooms: &[Room]) -> Option<u32>;
    /// Add a request.
    fn put(&mut self, request: u32, room: Room);
}

/// Entries looked at in the bucket that fits only in part, which exists only where a bucket spans several values.
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

/// As [`ByTokens`], each bucket a heap by free chunks: one a value up to 2^18 tokens.
struct ByTokensAndChunks {
    shift: u32,
    leaves: usize,
    /// Most free chunks below each node; the root is node 1, the leaves follow from node `leaves`.
    most: Vec<u32>,
    buckets: Vec<BinaryHeap<(u32, u32)>>,
}

impl ByTokensAndChunks {
    fn new(capacity: u32) -> Self {
        let shift = (32 - capacity.leading_zeros()).saturating_sub(18);
        let buckets = (capacity >> shift) as usize + 1;
        let leaves = buckets.next_power_of_two();
        Self { shift, leaves, most: vec![0; 2 * leaves], buckets: vec![BinaryHeap::new(); buckets] }
    }

    fn refresh(&mut self, bucket: usize) {
        let mut node = self.leaves + bucket;
        let mut value = self.buckets[bucket].peek().map_or(0, |&(chunks, _)| chunks);
        while self.most[node] != value {
            self.most[node] = value;
            if node == 1 {
                return;
            }
            value = value.max(self.most[node ^ 1]);
            node /= 2;
        }
    }

    /// The first bucket from `start` on with a request of at least `chunks` free chunks.
    fn first(&self, start: usize, chunks: u32) -> Option<usize> {
        if start >= self.leaves {
            return None;
        }
        let mut node = self.leaves + start;
        // Up, to the right, until a subtree qualifies; then down, to the left, to its first leaf that does.
        while self.most[node] < chunks {
            while node & 1 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node *= 2;
            if self.most[node] < chunks {
                node += 1;
            }
        }
        Some(node - self.leaves)
    }
}

impl Open for ByTokensAndChunks {
    fn take(&mut self, tokens: u32, chunks: u32, rooms: &[Room]) -> Option<u32> {
        let mut start = (tokens >> self.shift) as usize;
        if self.shift > 0 {
            let top = self.buckets[start].peek().copied();
            if let Some((free, request)) = top
                && free >= chunks
                && rooms[request as usize].tokens >= tokens
            {
                self.buckets[start].pop();
                self.refresh(start);
                return Some(request);
            }
            start += 1;
        }
        let bucket = self.first(start, chunks)?;
        let (_, request) = self.buckets[bucket].pop()?;
        self.refresh(bucket);
        Some(request)
    }

    fn put(&mut self, request: u32, room: Room) {
        let bucket = (room.tokens >> self.shift) as usize;
        self.buckets[bucket].push((room.chunks, request));
        self.refresh(bucket);
    }
}
