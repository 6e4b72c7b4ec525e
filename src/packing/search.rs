//! Local search at a fixed number of requests: exchange documents with those that found no place.
//!
//! A state is a feasible packing of some documents and a list of the rest. A step exchanges up to two documents of
//! one request with up to two of the list, choosing the exchange that leaves the least unplaced; documents that moved
//! lately stay where they are (tabu). When the list is empty, the number of requests is enough. After Buljubasic and
//! Vasquez, "Consistent neighborhood search for one-dimensional bin packing and two-dimensional vector packing",
//! Computers & Operations Research 76 (2016).

use std::time::{Duration, Instant};

use super::{Effort, Instance, Room};

/// Steps that count as one second of effort: some two thirds of what the searches take on one core of 2024. Each search
/// counts its work in units of about two nanoseconds.
const STEPS_A_SECOND: f64 = 3.0e8;
/// The clock ends a search that takes so many times its seconds: on a machine that much slower, or that much busier,
/// what is found depends on the machine.
const PATIENCE: f64 = 10.0;
/// Steps between two looks at the clock.
const STEPS_A_LOOK: u64 = 200_000;
/// Documents of one request that a step considers: a request of many small ones offers enough exchanges among these.
const CONSIDERED: usize = 24;
/// Unplaced documents that a step considers.
const OFFERED: usize = 16;

/// A budget of steps, with the clock as a far safety net.
pub(super) struct Clock<'a> {
    left: u64,
    until_look: u64,
    end: Option<Instant>,
    interrupted: &'a dyn Fn() -> bool,
    stopped: bool,
    cancelled: bool,
}

impl<'a> Clock<'a> {
    pub(super) fn new(effort: &Effort<'a>) -> Self {
        let end = Duration::try_from_secs_f64(PATIENCE * effort.seconds)
            .ok()
            .and_then(|time| Instant::now().checked_add(time));
        Self {
            left: (effort.seconds * STEPS_A_SECOND) as u64,
            until_look: 0,
            end,
            interrupted: effort.interrupted,
            stopped: false,
            cancelled: false,
        }
    }

    /// Account for `steps`; false when the search must end.
    pub(super) fn spend(&mut self, steps: u64) -> bool {
        if self.stopped || self.left < steps {
            self.stopped = true;
            return false;
        }
        self.left -= steps;
        if self.until_look < steps {
            self.until_look = STEPS_A_LOOK;
            self.cancelled = (self.interrupted)();
            self.stopped = self.cancelled || self.end.is_some_and(|end| Instant::now() >= end);
        } else {
            self.until_look -= steps;
        }
        !self.stopped
    }

    /// Steps that are left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

/// xorshift64*, seeded by a constant: the same input gives the same packing.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`, which must not be 0.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((u64::from((word >> 32) as u32) * u64::from(end)) >> 32) as u32
    }
}

/// One or two unplaced documents (or none of the second).
#[derive(Clone, Copy)]
struct Offer {
    tokens: u32,
    chunks: u32,
    documents: u32,
    /// Positions in the list of unplaced documents.
    at: [usize; 2],
    worth: i64,
}

/// An exchange: documents of a request by their places in it, and an offer by its number.
#[derive(Clone, Copy)]
struct Move {
    request: usize,
    leaving: [usize; 2],
    leavers: usize,
    offer: Offer,
    gain: i64,
}

/// A packing of some documents into a fixed number of requests.
pub(super) struct State<'a> {
    instance: &'a Instance,
    /// What placing a document is worth: its share of a request.
    worth: Vec<i64>,
    requests: Vec<Vec<u32>>,
    rooms: Vec<Room>,
    unplaced: Vec<u32>,
    /// The step until which a document stays where it is.
    held: Vec<u32>,
}

impl<'a> State<'a> {
    /// The first `count` of `requests`, the documents of the others unplaced.
    pub(super) fn new(instance: &'a Instance, mut requests: Vec<Vec<u32>>, count: usize) -> Self {
        requests.resize_with(requests.len().max(count), Vec::new);
        let unplaced = requests.drain(count..).flatten().collect();
        let rooms = requests
            .iter()
            .map(|request| {
                let mut room = instance.room();
                for &i in request {
                    room.take(instance.tokens[i as usize], instance.chunks_of(i as usize));
                }
                room
            })
            .collect();
        Self { instance, worth: worth(instance), requests, rooms, unplaced, held: vec![0; instance.len()] }
    }

    pub(super) fn into_requests(self) -> Vec<Vec<u32>> {
        self.requests
    }

    fn tokens(&self, i: u32) -> u32 {
        self.instance.tokens[i as usize]
    }

    fn chunks(&self, i: u32) -> u32 {
        self.instance.chunks_of(i as usize)
    }

    fn unplaced_worth(&self) -> i64 {
        self.unplaced.iter().map(|&i| self.worth[i as usize]).sum()
    }

    /// Search for `patience` steps without progress; true when every document has a place.
    pub(super) fn run(&mut self, patience: u32, random: &mut Random, clock: &mut Clock<'_>) -> bool {
        let mut worth = self.unplaced_worth();
        let mut best = worth;
        let mut step = 0;
        let mut last = 0;
        self.held.fill(0);
        while !self.unplaced.is_empty() {
            step += 1;
            let Some(chosen) = self.choose(step, worth - best, random, clock) else {
                if clock.is_stopped() || step - last > patience {
                    return false;
                }
                continue;
            };
            worth -= chosen.gain;
            self.exchange(&chosen, step, random);
            if worth < best {
                best = worth;
                last = step;
            } else if step - last > patience {
                return false;
            }
        }
        true
    }

    /// The exchange with the largest gain that is not held back, or that leaves less unplaced than ever before.
    fn choose(&self, step: u32, record: i64, random: &mut Random, clock: &mut Clock<'_>) -> Option<Move> {
        let (free, held) = self.offers(step, random);
        let mut best: Option<Move> = None;
        let mut ties = 0;
        for request in 0..self.requests.len() {
            let documents = &self.requests[request];
            let count = documents.len().min(CONSIDERED);
            let from = if count < documents.len() { random.below(documents.len() as u32) as usize } else { 0 };
            if !clock.spend((5 * count * (count + 1) / 2 + 5) as u64) {
                return None;
            }
            let place = |k: usize| if from + k < documents.len() { from + k } else { from + k - documents.len() };
            let mut consider = |leaving: [usize; 2], leavers: usize, room: Room, loss: i64, movable: bool| {
                let bar = best.as_ref().map_or(i64::MIN, |best: &Move| best.gain);
                for (offers, needed) in [(&free, if movable { i64::MIN } else { record }), (&held, record)] {
                    let Some(offer) = find(offers, room) else { continue };
                    let gain = offer.worth - loss;
                    // A held document moves only for a new record.
                    if gain < bar || (needed != i64::MIN && gain <= needed) {
                        continue;
                    }
                    if gain > bar {
                        ties = 0;
                    }
                    ties += 1;
                    if ties == 1 || random.below(ties) == 0 {
                        best = Some(Move { request, leaving, leavers, offer: *offer, gain });
                    }
                    return;
                }
            };
            let room = self.rooms[request];
            consider([0, 0], 0, room, 0, true);
            for k in 0..count {
                let a = place(k);
                let first = documents[a];
                let mut without = room;
                without.give(self.tokens(first), self.chunks(first));
                let loss = self.worth[first as usize];
                let movable = self.held[first as usize] <= step;
                consider([a, 0], 1, without, loss, movable);
                for l in k + 1..count {
                    let b = place(l);
                    let second = documents[b];
                    let mut room = without;
                    room.give(self.tokens(second), self.chunks(second));
                    consider(
                        [a, b],
                        2,
                        room,
                        loss + self.worth[second as usize],
                        movable && self.held[second as usize] <= step,
                    );
                }
            }
        }
        best
    }

    /// Singles and pairs of unplaced documents by ascending tokens: those that may move, and those held back.
    fn offers(&self, step: u32, random: &mut Random) -> (Vec<Offer>, Vec<Offer>) {
        let count = self.unplaced.len().min(OFFERED);
        let from = if count < self.unplaced.len() { random.below(self.unplaced.len() as u32) as usize } else { 0 };
        let place = |k: usize| (from + k) % self.unplaced.len();
        let (mut free, mut held) = (Vec::new(), Vec::new());
        for k in 0..count {
            let a = place(k);
            let first = self.unplaced[a];
            let is_free = self.held[first as usize] <= step;
            let single = Offer {
                tokens: self.tokens(first),
                chunks: self.chunks(first),
                documents: 1,
                at: [a, usize::MAX],
                worth: self.worth[first as usize],
            };
            if is_free { &mut free } else { &mut held }.push(single);
            for l in k + 1..count {
                let b = place(l);
                let second = self.unplaced[b];
                let Some(tokens) = single.tokens.checked_add(self.tokens(second)) else { continue };
                if tokens > self.instance.limits.tokens {
                    continue;
                }
                let pair = Offer {
                    tokens,
                    chunks: single.chunks + self.chunks(second),
                    documents: 2,
                    at: [a, b],
                    worth: single.worth + self.worth[second as usize],
                };
                let is_free = is_free && self.held[second as usize] <= step;
                if is_free { &mut free } else { &mut held }.push(pair);
            }
        }
        free.sort_unstable_by_key(|offer| (offer.tokens, offer.chunks, offer.at));
        held.sort_unstable_by_key(|offer| (offer.tokens, offer.chunks, offer.at));
        (free, held)
    }

    fn exchange(&mut self, chosen: &Move, step: u32, random: &mut Random) {
        let &Move { request, leaving, leavers, offer, .. } = chosen;
        let mut out = leaving[..leavers].to_vec();
        out.sort_unstable();
        let mut room = self.rooms[request];
        let mut left = Vec::with_capacity(2);
        for &at in out.iter().rev() {
            let i = self.requests[request].swap_remove(at);
            room.give(self.tokens(i), self.chunks(i));
            left.push(i);
        }
        let mut taken: Vec<usize> = offer.at[..offer.documents as usize].to_vec();
        taken.sort_unstable();
        for &at in taken.iter().rev() {
            let i = self.unplaced.swap_remove(at);
            room.take(self.tokens(i), self.chunks(i));
            self.requests[request].push(i);
            self.held[i as usize] = step + 1 + random.below(8) + self.unplaced.len() as u32;
        }
        for i in left {
            self.held[i as usize] = step + 2 + random.below(8) + self.unplaced.len() as u32;
            self.unplaced.push(i);
        }
        self.rooms[request] = room;
    }

    /// Swap documents of random pairs of requests where both stay feasible, to search elsewhere.
    pub(super) fn shake(&mut self, tries: usize, random: &mut Random, clock: &mut Clock<'_>) {
        let count = self.requests.len() as u32;
        if count < 2 {
            return;
        }
        for _ in 0..tries {
            if !clock.spend(1) {
                return;
            }
            let (r, s) = (random.below(count) as usize, random.below(count) as usize);
            if r == s || self.requests[r].is_empty() || self.requests[s].is_empty() {
                continue;
            }
            let a = random.below(self.requests[r].len() as u32) as usize;
            let b = random.below(self.requests[s].len() as u32) as usize;
            let (i, j) = (self.requests[r][a], self.requests[s][b]);
            let (mut of_r, mut of_s) = (self.rooms[r], self.rooms[s]);
            of_r.give(self.tokens(i), self.chunks(i));
            of_s.give(self.tokens(j), self.chunks(j));
            if of_r.fits(self.tokens(j), self.chunks(j)) && of_s.fits(self.tokens(i), self.chunks(i)) {
                of_r.take(self.tokens(j), self.chunks(j));
                of_s.take(self.tokens(i), self.chunks(i));
                (self.rooms[r], self.rooms[s]) = (of_r, of_s);
                (self.requests[r][a], self.requests[s][b]) = (j, i);
            }
        }
    }
}

/// The largest offer that fits; with chunks, the first that fits from the largest down.
fn find(offers: &[Offer], room: Room) -> Option<&Offer> {
    let fitting = offers.partition_point(|offer| offer.tokens <= room.tokens);
    offers[..fitting].iter().rev().find(|offer| offer.chunks <= room.chunks && offer.documents <= room.documents)
}

/// What each document is worth: its tokens, and its chunks by what a chunk is worth where chunks bind.
fn worth(instance: &Instance) -> Vec<i64> {
    if !instance.has_chunks() {
        return instance.tokens.iter().map(|&tokens| i64::from(tokens)).collect();
    }
    // Scaled so that a full request is worth the same in both dimensions: below 2^31 * 2^31 = 2^62 in sum of two.
    let (t, c) = (i64::from(instance.limits.chunks), i64::from(instance.limits.tokens));
    let shift = u32::from(t.max(c) > 1 << 24) * 8;
    instance
        .tokens
        .iter()
        .zip(&instance.chunks)
        .map(|(&tokens, &chunks)| ((i64::from(tokens) * t) >> shift) + ((i64::from(chunks) * c) >> shift))
        .collect()
}

/// How long the searches that start anew are, one after the other (Luby, Sinclair and Zuckerman, 1993): 1, 1, 2, 1, 1, 2,
/// 4, 1, 1, 2, 1, 1, 2, 4, 8, ...
pub(super) fn luby(number: u32) -> u64 {
    let mut number = number;
    loop {
        let bits = 32 - number.leading_zeros();
        if number == (1 << bits) - 1 {
            return 1 << (bits - 1);
        }
        number -= (1 << (bits - 1)) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_as_long_as_luby_says() {
        let lengths: Vec<u64> = (1..16).map(luby).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]);
    }
}
