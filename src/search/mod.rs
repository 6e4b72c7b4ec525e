//! Search: which rows are nearest, by scanning all of them.
//!
//! [`scan`] walks over blocks of rows ([`worker`]) with threads of its own ([`threads`]) and hands each block's scores
//! to [`top_k`], which keeps the best `k`; [`range`] keeps all that are near enough, [`pairs`] compares the rows with
//! each other, [`matrix`] writes all scores. [`index`] owns rows and their ids, [`query`] searches them, in one stage
//! or two, [`mod@file`] puts an index on disk. Nothing here outlives a call but the index, so that a `fork` finds
//! nothing broken.

mod column;
pub mod file;
pub mod filter;
pub mod index;
pub mod matrix;
pub mod pairs;
pub mod query;
pub mod range;
pub mod scan;
pub mod segment;
pub mod subset;
mod temporary;
mod threads;
pub mod top_k;
mod worker;
