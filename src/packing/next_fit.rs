//! Next-fit: contiguous requests in the order of the input.
//!
//! Next-fit is optimal among contiguous packings. By induction, the k-th request of this packing ends no earlier than the k-th of any
//! other contiguous packing: it starts no earlier, and every subset of a feasible request is feasible.

use super::instance::{Assignment, Instance};

/// Fill one request after the other.
pub(super) fn pack(instance: &Instance) -> Assignment {
    let mut request_of = Vec::with_capacity(instance.len());
    let mut request = 0;
    let mut room = instance.room();
    for (i, &tokens) in instance.tokens.iter().enumerate() {
        let chunks = instance.chunks_of(i);
        if !room.fits(tokens, chunks) {
            request += 1;
            room = instance.room();
        }
        room.take(tokens, chunks);
        request_of.push(request);
    }
    Assignment { request_of, requests: request as usize + 1 }
}
