//! AVX2: rows as they lie in memory, and panels.

mod panel;
mod rows;

pub(super) use panel::{pack, panel, vnni, widen_queries};
pub(super) use rows::{rows, rows_and_norms, squared_norms};
