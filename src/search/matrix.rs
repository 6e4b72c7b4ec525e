//! All scores of all queries, as a matrix: what [`super::scan`] computes, without selection.

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use super::scan::{Scan, Watch};
use super::threads::{Pulse, run};
use super::worker::{Plan, Worker};
use crate::error::Error;
use crate::similarity::cosine::{cosine, inverse_norm};
use crate::similarity::dot::Dot;
use crate::similarity::{BATCH, Kernels, Matrix};

/// Queries that share a block.
const TOGETHER: usize = 8 * BATCH;

/// Write every score: `out` is one row a query, as long as there are rows in all parts.
pub fn scores<K: Kernels>(scan: &Scan<'_, K>, out: &mut [MaybeUninit<i32>], watch: Watch<'_>) -> Result<(), Error> {
    fill(scan, false, out, watch, |_, scores, _, out| {
        for (out, &score) in out.iter_mut().zip(scores) {
            out.write(score);
        }
    })
}

/// Write every cosine, each the float32 nearest to the true value.
pub fn cosines(scan: &Scan<'_, Dot>, out: &mut [MaybeUninit<f32>], watch: Watch<'_>) -> Result<(), Error> {
    let norms = query_norms(scan);
    fill(scan, true, out, watch, |query, scores, rows, out| {
        for ((out, &score), &row) in out.iter_mut().zip(scores).zip(rows) {
            out.write(cosine(score, norms[query], (row, inverse_norm(row))));
        }
    })
}

/// The squared norm of each query, and its inverse.
pub fn query_norms(scan: &Scan<'_, Dot>) -> Vec<(u32, f64)> {
    squared_norms(scan.queries, scan.width)
}

/// The squared norm of each vector, and its inverse.
pub fn squared_norms(vectors: &[i8], width: usize) -> Vec<(u32, f64)> {
    let mut squared = vec![0; vectors.len() / width];
    Dot::squared_norms(Dot::isa(), Matrix::whole(vectors, width), &mut squared);
    squared.into_iter().map(|norm| (norm, inverse_norm(norm))).collect()
}

/// Score everything; `write` gets a query, its scores with a run of rows, their norms if asked for, and the place.
fn fill<K: Kernels, T: Send>(
    scan: &Scan<'_, K>,
    norms: bool,
    out: &mut [MaybeUninit<T>],
    watch: Watch<'_>,
    write: impl Fn(usize, &[i32], &[u32], &mut [MaybeUninit<T>]) + Sync,
) -> Result<(), Error> {
    let columns = scan.row_count();
    assert_eq!(out.len(), scan.query_count() * columns, "one place for each query and row");
    if columns == 0 {
        return Ok(());
    }
    let mut pulse = Pulse::new(watch);
    for (group, out) in out.chunks_mut(TOGETHER * columns).enumerate() {
        let first = group * TOGETHER;
        let last = scan.query_count().min(first + TOGETHER);
        let width = scan.query_width();
        let scan = Scan { queries: &scan.queries[first * width..last * width], ..scan.clone() };
        let threads = scan.thread_count();
        let plan = Plan::new(&scan, threads);
        let pieces = cut(out, columns, &plan.rows_of_blocks());
        run(plan.blocks, threads, &mut pulse, |blocks| {
            let mut worker = Worker::new(&scan, &plan);
            blocks(&mut |block| {
                let mut piece = std::mem::take(&mut *pieces[block].lock().unwrap_or_else(PoisonError::into_inner));
                worker.load(block, norms);
                worker.score(|rows, query, scores| write(first + query, scores, rows.norms, piece[query]));
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// A block's piece of each query's row.
type Piece<'a, T> = Mutex<Vec<&'a mut [MaybeUninit<T>]>>;

/// Cut rows of `columns` scores at the ends of the blocks, so that each block can be written on a thread of its own.
fn cut<'a, T>(out: &'a mut [MaybeUninit<T>], columns: usize, blocks: &[usize]) -> Vec<Piece<'a, T>> {
    let mut pieces: Vec<_> = blocks.iter().map(|_| Vec::with_capacity(out.len() / columns)).collect();
    for mut row in out.chunks_mut(columns) {
        for (piece, &rows) in pieces.iter_mut().zip(blocks) {
            let (head, tail) = row.split_at_mut(rows);
            piece.push(head);
            row = tail;
        }
    }
    pieces.into_iter().map(Mutex::new).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Ids, Part};
    use super::super::subset::Subset;
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    #[test]
    fn every_score_lands_in_its_place_whatever_the_parts_and_threads() {
        let mut random = Random(21);
        let width = 40;
        for queries in [1, 3, 70] {
            let (query_data, rows) = (random.bytes(width * queries), random.bytes(width * 5000));
            let (head, tail) = rows.split_at(width * 1801);
            let parts = [head, &[], tail].map(|rows| Part { rows, norms: None, ids: Ids::From(0) });
            for threads in [1, 2, 5] {
                let scan = Scan::<Hamming> {
                    isa: Isa::hamming(),
                    width,
                    stride: width,
                    queries: &query_data,
                    parts: &parts,
                    subset: Subset::All,
                    threads: threads.try_into().ok(),
                };
                let mut out = vec![MaybeUninit::new(-1); queries * 5000];
                scores(&scan, &mut out, &mut || Ok(())).expect("nothing stops it");
                for (query, out) in query_data.chunks_exact(width).zip(out.chunks_exact(5000)) {
                    let mut expected = vec![0; 5000];
                    Hamming::rows(Isa::Scalar, query, Matrix::whole(&rows, width), &mut expected);
                    assert!(out.iter().zip(expected).all(|(got, expected)| read(*got) == expected));
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "reads what the function under test wrote")]
    fn read(value: MaybeUninit<i32>) -> i32 {
        // SAFETY: every element was initialised before the call.
        unsafe { value.assume_init() }
    }
}
