//! Packing with bounded lookahead, for streams.
//!
//! Documents are read ahead until they would fill [`WINDOW_REQUESTS`] requests by tokens, chunks or number. Then one
//! request is completed: the oldest document, and the largest others that fit. So no document waits long, requests are
//! completed in the order of their first documents, and the window bounds the memory.

use std::collections::BTreeSet;

use super::instance::{Assignment, Instance, Room};
use super::next_fit;

/// The most that is read ahead of the oldest waiting document, as a number of full requests.
pub const WINDOW_REQUESTS: u32 = 8;

/// Pack with bounded lookahead, into no more requests than next-fit.
pub(super) fn pack(instance: &Instance) -> Assignment {
    let assignment = look_ahead(instance);
    let greedy = next_fit::pack(instance);
    if greedy.requests < assignment.requests { greedy } else { assignment }
}

fn look_ahead(instance: &Instance) -> Assignment {
    let n = instance.len();
    let mut request_of = vec![u32::MAX; n];
    let mut window = Window::new(instance);
    let mut request = 0;
    let mut oldest = 0;
    loop {
        window.read();
        while oldest < n && request_of[oldest] != u32::MAX {
            oldest += 1;
        }
        if oldest == n {
            break;
        }
        window.complete(oldest as u32, |i| request_of[i as usize] = request);
        request += 1;
    }
    Assignment { request_of, requests: request as usize }
}

/// Documents that are read and not yet in a request.
struct Window<'a> {
    instance: &'a Instance,
    /// The first document not read.
    next: usize,
    /// (tokens, inverted position): the last is the largest document, of equals the first.
    waiting: BTreeSet<(u32, u32)>,
    tokens: u64,
    chunks: u64,
}

impl<'a> Window<'a> {
    fn new(instance: &'a Instance) -> Self {
        Self { instance, next: 0, waiting: BTreeSet::new(), tokens: 0, chunks: 0 }
    }

    fn is_full(&self) -> bool {
        let limits = &self.instance.limits;
        let window = u64::from(WINDOW_REQUESTS);
        self.tokens >= window * u64::from(limits.tokens)
            || self.chunks >= window * u64::from(limits.chunks)
            || self.waiting.len() as u64 >= window * u64::from(limits.documents)
    }

    fn read(&mut self) {
        while self.next < self.instance.len() && !self.is_full() {
            let i = self.next;
            self.next += 1;
            self.waiting.insert((self.instance.tokens[i], u32::MAX - i as u32));
            self.tokens += u64::from(self.instance.tokens[i]);
            self.chunks += u64::from(self.instance.chunks_of(i));
        }
    }

    fn remove(&mut self, i: u32, room: &mut Room) {
        let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
        self.waiting.remove(&(tokens, u32::MAX - i));
        self.tokens -= u64::from(tokens);
        self.chunks -= u64::from(chunks);
        room.take(tokens, chunks);
    }

    /// Complete a request that starts with `oldest`; `assign` is called with each of its documents.
    fn complete(&mut self, oldest: u32, mut assign: impl FnMut(u32)) {
        let mut room = self.instance.room();
        self.remove(oldest, &mut room);
        assign(oldest);
        // All candidates are below `end`, so each is considered once.
        let mut end = (room.tokens + 1, 0);
        while room.documents > 0
            && let Some(&(tokens, inverted)) = self.waiting.range(..end).next_back()
        {
            let i = u32::MAX - inverted;
            if room.fits(tokens, self.instance.chunks_of(i as usize)) {
                self.remove(i, &mut room);
                assign(i);
            }
            end = (tokens, inverted).min((room.tokens + 1, 0));
        }
    }
}
