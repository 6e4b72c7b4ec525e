//! The core of ctxembed: everything between the bytes of an API response and a list of matches.
//!
//! Data flows one way: `documents -> plan (tokens, packing) -> requests -> response bytes -> codec -> vectors ->
//! search -> matches`. Each step is a module of its own: [`similarity`] has the kernels, [`search`] adds threads and
//! selection. The binding (`python`) is the only module that names `PyO3` or `NumPy`.
//!
//! [`isa`] chooses a path once a process. Every SIMD path gives the scalar path's values and errors.

pub mod codec;
pub mod error;
pub mod isa;
mod memory;
pub mod packing;
pub mod search;
pub mod similarity;
pub mod tokens;

#[cfg(feature = "python")]
mod python;
