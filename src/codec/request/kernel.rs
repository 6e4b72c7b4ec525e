//! The interface of the paths: a search for special bytes, and work that is compiled once for each.

/// Bytes that are searched together.
pub(super) const BLOCK: usize = 64;

/// What a block contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// A bit a byte, from the lowest up, for bytes that JSON (RFC 8259, section 7) escapes. All of them are ASCII, so
    /// UTF-8 can be searched by bytes.
    pub(super) escapes: u64,
    /// There is a `<`.
    pub(super) less_than: bool,
    /// There is a byte beyond ASCII.
    pub(super) non_ascii: bool,
}

/// The search of one path. A value of it proves that the CPU can run the path.
pub(super) trait Kernel: Copy {
    fn find(self, block: &[u8; BLOCK]) -> Found;
}

/// Work on many texts. It is compiled once for each path, with the path's kernel inside, so that a block costs neither a
/// dispatch nor a call. `run` must be `#[inline(always)]` for this.
pub(super) trait Task {
    type Output;
    fn run(self, kernel: impl Kernel) -> Self::Output;
}
