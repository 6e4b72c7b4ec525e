//! The two dimensions of a request, the scarcer one first.

use super::super::instance::Instance;

/// What a document costs: in the scarcer dimension, and in the other.
pub(super) type Cost = [u32; 2];

/// What a request leaves unused, or what all requests together may: in the scarcer dimension, and in the other.
pub(super) type Waste = [u32; 2];

/// An instance whose dimensions are ordered by the room that a number of requests leaves in them.
#[derive(Clone, Copy)]
pub(super) struct Dimensions<'a> {
    pub(super) instance: &'a Instance,
    /// What each document costs in the scarcer dimension, and what a request holds of it.
    pub(super) sizes: &'a [u32],
    pub(super) capacity: u32,
    by_chunks: bool,
}

impl<'a> Dimensions<'a> {
    /// Order the dimensions for `requests` requests. Also returns the room that these leave in both; None if there is not
    /// enough.
    pub(super) fn new(instance: &'a Instance, requests: usize) -> Option<(Self, [u64; 2])> {
        let limits = &instance.limits;
        let room = |sizes: &[u32], limit: u32| {
            let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
            (requests as u64 * u64::from(limit)).checked_sub(total)
        };
        let tokens = room(&instance.tokens, limits.tokens)?;
        let chunks = if instance.has_chunks() { room(&instance.chunks, limits.chunks)? } else { 0 };
        // Relative to the limits.
        let by_chunks = instance.has_chunks() && chunks * u64::from(limits.tokens) < tokens * u64::from(limits.chunks);
        Some(if by_chunks {
            (Self { instance, sizes: &instance.chunks, capacity: limits.chunks, by_chunks }, [chunks, tokens])
        } else {
            (Self { instance, sizes: &instance.tokens, capacity: limits.tokens, by_chunks }, [tokens, chunks])
        })
    }

    pub(super) fn cost(&self, i: u32) -> Cost {
        let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
        if self.by_chunks { [chunks, tokens] } else { [tokens, chunks] }
    }

    /// What a request of these documents wastes; None if it exceeds a limit.
    pub(super) fn waste(&self, documents: impl Iterator<Item = u32>) -> Option<Waste> {
        let mut room = self.instance.room();
        for i in documents {
            let (tokens, chunks) = (self.instance.tokens[i as usize], self.instance.chunks_of(i as usize));
            if !room.fits(tokens, chunks) {
                return None;
            }
            room.take(tokens, chunks);
        }
        let chunks = if self.instance.has_chunks() { room.chunks } else { 0 };
        Some(if self.by_chunks { [chunks, room.tokens] } else { [room.tokens, chunks] })
    }
}
