//! The interface of the paths: a decoder, and work that is compiled once for each.

use std::mem::MaybeUninit;

/// The decoder of one path. A value of it proves that the CPU can run the path.
pub(crate) trait Kernel: Copy {
    /// See [`decode_well_formed`](super::decode_well_formed).
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool;
}

/// Work that decodes many texts. It is compiled once for each path, with the path's kernel inside or called directly, so
/// that a text costs no dispatch. `run` must be `#[inline(always)]` for this.
pub(crate) trait Task {
    type Output;
    fn run(self, kernel: impl Kernel) -> Self::Output;
}
