//! The scores of all queries with all rows, as a matrix.

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use super::blocks::{BlockPlan, BlockScorer};
use super::scan::{Scan, query_norms};
use super::threads::{InterruptCheck, Interrupts, run};
use crate::error::Error;
use crate::similarity::cosine::{cosine, inverse_norm};
use crate::similarity::dot::Dot;
use crate::similarity::{BATCH, Kernels};

/// Queries that share a block.
const TOGETHER: usize = 8 * BATCH;

/// Write every score: `out` has a row per query, with a column per row of the scan.
pub fn scores<K: Kernels>(
    scan: &Scan<'_, K>,
    out: &mut [MaybeUninit<i32>],
    check: InterruptCheck<'_>,
) -> Result<(), Error> {
    fill(scan, false, out, check, |_, scores, _, out| {
        for (out, &score) in out.iter_mut().zip(scores) {
            out.write(score);
        }
    })
}

/// Write every cosine, each the float32 nearest to the true value.
pub fn cosines(scan: &Scan<'_, Dot>, out: &mut [MaybeUninit<f32>], check: InterruptCheck<'_>) -> Result<(), Error> {
    let norms = query_norms(scan)?;
    fill(scan, true, out, check, |query, scores, rows, out| {
        for ((out, &score), &row) in out.iter_mut().zip(scores).zip(rows) {
            out.write(cosine(score, norms[query], (row, inverse_norm(row))));
        }
    })
}

/// Score everything. `write` gets a query, its scores with a run of rows, their norms if asked for, and the output.
fn fill<K: Kernels, T: Send>(
    scan: &Scan<'_, K>,
    norms: bool,
    out: &mut [MaybeUninit<T>],
    check: InterruptCheck<'_>,
    write: impl Fn(usize, &[i32], &[u32], &mut [MaybeUninit<T>]) + Sync,
) -> Result<(), Error> {
    let columns = scan.row_count();
    assert_eq!(out.len(), scan.query_count() * columns, "one place for each query and row");
    if columns == 0 {
        return Ok(());
    }
    let mut interrupts = Interrupts::new(check);
    for (group, out) in out.chunks_mut(TOGETHER * columns).enumerate() {
        let first = group * TOGETHER;
        let last = scan.query_count().min(first + TOGETHER);
        let width = scan.query_width();
        let scan = Scan { queries: &scan.queries[first * width..last * width], ..scan.clone() };
        let threads = scan.thread_count();
        let plan = BlockPlan::new(&scan, threads)?;
        let pieces = cut(out, columns, &plan.block_sizes());
        run(plan.blocks, threads, &mut interrupts, |for_each_block| {
            let mut scorer = BlockScorer::new(&scan, &plan);
            for_each_block(&mut |block| {
                let mut piece = std::mem::take(&mut *pieces[block].lock().unwrap_or_else(PoisonError::into_inner));
                scorer.load(block, norms)?;
                scorer.score(|rows, query, scores| write(first + query, scores, rows.norms, piece[query]));
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// A block's columns in each query's row.
type Piece<'a, T> = Mutex<Vec<&'a mut [MaybeUninit<T>]>>;

/// Cut rows of `columns` scores at the ends of the blocks, so that threads write blocks independently.
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
    use super::super::rows::{Ids, Part};
    use super::super::subset::Subset;
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::Matrix;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    #[test]
    fn scores_do_not_depend_on_parts_and_threads() {
        let mut random = Random(21);
        let width = 40;
        for queries in [1, 3, 70] {
            let (query_data, rows) = (random.bytes(width * queries), random.bytes(width * 5000));
            let (head, tail) = rows.split_at(width * 1801);
            let parts = [head, &[], tail].map(|rows| Part { rows, norms: None, ids: Ids::Consecutive(0) });
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
                scores(&scan, &mut out, &mut || Ok(())).expect("no interrupt");
                for (query, out) in query_data.chunks_exact(width).zip(out.chunks_exact(5000)) {
                    let mut expected = vec![0; 5000];
                    Hamming::rows(Isa::Scalar, query, Matrix::whole(&rows, width), &mut expected);
                    assert!(out.iter().zip(expected).all(|(got, expected)| read(*got) == expected));
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "reads the output of the function under test")]
    fn read(value: MaybeUninit<i32>) -> i32 {
        // SAFETY: every element was initialised before the call.
        unsafe { value.assume_init() }
    }
}
