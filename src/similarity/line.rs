//! Sixteen words in a cache line: what panels of int8 rows and tiles are made of.

/// Words in a line, and rows in a group.
pub(super) const GROUP: usize = 16;

/// The same word of sixteen rows.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Line(pub(crate) [u32; GROUP]);
