//! Search: which rows are nearest, by scanning all of them.
//!
//! [`scan`] walks over blocks of rows with threads of its own and hands each block's scores to [`top_k`], which keeps
//! the best `k`; [`matrix`] writes all scores instead. [`index`] owns rows and their ids, [`mod@file`] puts an index on
//! disk. Nothing here outlives a call but the index, so that a `fork` finds nothing broken.

mod column;
pub mod file;
pub mod filter;
pub mod index;
pub mod matrix;
pub mod scan;
pub mod top_k;
