//! Exact search: every row is compared.
//!
//! | modules | what they do |
//! |---|---|
//! | [`file`](mod@file), [`two_stage`], [`query`] | save and open an index; search it, in two stages or one |
//! | [`index`], [`segment`], `column` | own the rows and their ids |
//! | [`pairs`], [`range`], [`top_k`], [`matrix`] | find near pairs, all rows within a threshold, the best `k` rows, or all scores |
//! | `blocks` | cut the rows into blocks and score one block on one thread |
//! | [`scan`], [`rows`], [`subset`] | describe the rows, the queries and the rows to skip |
//! | [`merge`] | results of several indexes as one |
//! | [`order`], [`limit`], `threads`, `temporary` | ranking, the vectorised filter, threads of one call, atomic files |
//!
//! A module uses only modules below its own row, or to its right in the same row. Nothing but the index outlives a
//! call, so a forked process can go on searching.

mod blocks;
mod column;
pub mod file;
pub mod index;
pub mod limit;
pub mod matrix;
pub mod merge;
pub mod order;
pub mod pairs;
pub mod query;
pub mod range;
pub mod rows;
pub mod scan;
pub mod segment;
pub mod subset;
mod temporary;
pub mod threads;
pub mod top_k;
pub mod two_stage;
