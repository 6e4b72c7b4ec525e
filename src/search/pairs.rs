//! Rows that are near each other: every row against every later one, a triangle of tiles.

use std::num::NonZero;
use std::ops::Range;

use super::range::{Norm, Threshold, near};
use super::scan::{Ids, Part, Scan, Watch, useful_threads};
use super::subset::Subset;
use super::threads::{Pulse, run};
use super::worker::{Plan, Worker};
use crate::error::Error;
use crate::similarity::cosine::inverse_norm;
use crate::similarity::{Kernels, Matrix};

/// Rows that are compared with a stretch together, as queries.
const GROUP: usize = 256;
/// Bytes of a stretch: some milliseconds of work, after which a thread looks whether it is still wanted.
const STRETCH: usize = 4 << 20;
/// Rows of a stretch at least.
const SHORTEST: usize = 16;

/// Two rows by their numbers, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The rows.
    pub rows: [usize; 2],
    /// Hamming distance or inner product.
    pub score: i32,
    /// The squared norms where they were asked for, else zeros.
    pub norms: [u32; 2],
}

/// What is compared with itself.
pub(super) struct Triangle<'a, E> {
    pub(super) parts: &'a [Part<'a, E>],
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) threads: Option<NonZero<usize>>,
}

impl<E: Copy + Default + Send + Sync> Triangle<'_, E> {
    /// All pairs that are near enough, in no particular order.
    pub(super) fn near<K: Kernels<Query = E, Element = E>>(
        &self,
        threshold: Threshold,
        watch: Watch<'_>,
    ) -> Result<Vec<Pair>, Error> {
        let count: usize = self.parts.iter().map(|part| part.rows.len() / self.stride).sum();
        let stretch = (STRETCH / (self.width * size_of::<E>())).max(SHORTEST);
        // Tiles before each group; a group's first tile begins at its own first row.
        let mut before = vec![0];
        for first in (0..count).step_by(GROUP) {
            before.push(before.last().copied().unwrap_or_default() + (count - first).div_ceil(stretch));
        }
        let tiles = before.last().copied().unwrap_or_default();
        let bytes = tiles.saturating_mul(stretch.min(count) * self.width * size_of::<E>());
        let threads = self.threads.map_or_else(|| useful_threads(bytes.saturating_mul(GROUP / 4)), NonZero::get);
        let found = run(tiles, threads, &mut Pulse::new(watch), |units| {
            let mut pairs = vec![];
            let mut queries = (usize::MAX, vec![]);
            units(&mut |tile| {
                let group = before.partition_point(|&tiles| tiles <= tile) - 1;
                if queries.0 != group {
                    queries.0 = group;
                    self.copy(group * GROUP..count.min((group + 1) * GROUP), &mut queries.1);
                }
                let start = group * GROUP + (tile - before[group]) * stretch;
                self.tile::<K>(threshold, &queries.1, group * GROUP, start..count.min(start + stretch), &mut pairs)
            })?;
            Ok(pairs)
        })?;
        let mut all = vec![];
        all.try_reserve_exact(found.iter().map(Vec::len).sum())?;
        for pairs in found {
            all.extend(pairs);
        }
        Ok(all)
    }

    /// Compare some rows, of which `first` is the number of the first, with a range of them and later ones.
    fn tile<K: Kernels<Query = E, Element = E>>(
        &self,
        threshold: Threshold,
        queries: &[E],
        first: usize,
        rows: Range<usize>,
        pairs: &mut Vec<Pair>,
    ) -> Result<(), Error> {
        let isa = K::isa();
        let parts = self.cut(rows);
        let scan = Scan::<K> {
            isa,
            width: self.width,
            stride: self.stride,
            queries,
            parts: &parts,
            subset: Subset::All,
            threads: NonZero::new(1),
        };
        let mut norms = vec![0; if threshold.norms() { scan.query_count() } else { 0 }];
        if threshold.norms() {
            K::squared_norms(isa, Matrix::whole(queries, self.width), &mut norms);
        }
        let norms: Vec<Norm> = norms.into_iter().map(|norm| (norm, inverse_norm(norm))).collect();
        let plan = Plan::new(&scan, 1);
        let mut worker = Worker::new(&scan, &plan);
        let mut result = Ok(());
        for block in 0..plan.blocks {
            if worker.load(block, threshold.norms()) {
                worker.score(|rows, query, scores| {
                    let norm = norms.get(query).copied().unwrap_or_default();
                    let row = first + query;
                    let taken = near(&scan, scores, rows, threshold, norm, |_, other| {
                        if other.id > row as i64 {
                            pairs.try_reserve(1)?;
                            let pair = [row, other.id as usize];
                            pairs.push(Pair { rows: pair, score: other.score, norms: [norm.0, other.norm] });
                        }
                        Ok(())
                    });
                    result = std::mem::replace(&mut result, Ok(())).and(taken);
                });
            }
        }
        result
    }

    /// The parts of a range of rows, each known by its number over all parts.
    fn cut(&self, rows: Range<usize>) -> Vec<Part<'_, E>> {
        let (mut cut, mut first) = (vec![], 0);
        for part in self.parts {
            let count = part.rows.len() / self.stride;
            let range = rows.start.clamp(first, first + count) - first..rows.end.clamp(first, first + count) - first;
            if !range.is_empty() {
                cut.push(Part {
                    rows: &part.rows[range.start * self.stride..range.end * self.stride],
                    norms: part.norms.map(|norms| &norms[range.clone()]),
                    ids: Ids::From((first + range.start) as i64),
                });
            }
            first += count;
        }
        cut
    }

    fn copy(&self, rows: Range<usize>, out: &mut Vec<E>) {
        out.clear();
        for part in self.cut(rows) {
            for row in Matrix::new(part.rows, self.width, self.stride).iter() {
                out.extend_from_slice(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::similarity::dot::Dot;
    use crate::similarity::hamming::Hamming;
    use crate::similarity::testing::Random;

    fn check<K>(rows: &[K::Element], (width, stride): (usize, usize), threshold: Threshold)
    where
        K: Kernels<Query = <K as Kernels>::Element>,
    {
        let all = Matrix::new(rows, width, stride);
        let mut expected = vec![];
        for a in 0..all.len() {
            for b in a + 1..all.len() {
                let (mut score, mut norms) = ([0], [[0], [0]]);
                K::rows(Isa::Scalar, all.row(a), Matrix::whole(all.row(b), width), &mut score);
                if threshold.norms() {
                    K::squared_norms(Isa::Scalar, Matrix::whole(all.row(a), width), &mut norms[0]);
                    K::squared_norms(Isa::Scalar, Matrix::whole(all.row(b), width), &mut norms[1]);
                }
                let pair = Pair { rows: [a, b], score: score[0], norms: [norms[0][0], norms[1][0]] };
                let near = match threshold {
                    Threshold::AtMost(most) => pair.score <= most,
                    Threshold::AtLeast(least) => pair.score >= least,
                    Threshold::Cosine(least) => {
                        let product = f64::from(pair.norms[0]) * f64::from(pair.norms[1]);
                        let cosine = if product == 0.0 { 0.0 } else { f64::from(pair.score) / product.sqrt() };
                        f64::from(cosine as f32) >= least
                    }
                };
                if near {
                    expected.push(pair);
                }
            }
        }
        let cut = all.len() / 3 * stride;
        let part = |rows| Part { rows, norms: None, ids: Ids::From(7) };
        let parts = [part(&rows[..cut]), part(&rows[..0]), part(&rows[cut..])];
        for threads in [1, 3] {
            let triangle = Triangle { parts: &parts, width, stride, threads: NonZero::new(threads) };
            let mut found = triangle.near::<K>(threshold, &mut || Ok(())).expect("nothing stops it");
            found.sort_unstable_by_key(|pair| pair.rows);
            assert_eq!(found, expected, "{threshold:?}");
        }
    }

    #[test]
    fn pairs_are_those_of_two_loops() {
        let mut random = Random(71);
        for count in [0, 1, 2, 255, 256, 257, 700] {
            let bytes: Vec<u8> = random.bytes(count * 3).iter().map(|byte| byte & 0x11).collect();
            for most in [-1, 0, 2] {
                check::<Hamming>(&bytes, (3, 3), Threshold::AtMost(most));
                check::<Hamming>(&bytes, (1, 3), Threshold::AtMost(most));
            }
            let values: Vec<i8> = random.int8(count * 4).iter().map(|x| x % 4).collect();
            for least in [-2.0, -0.5, 0.0, 0.3, 0.99, 1.0, 1.5] {
                check::<Dot>(&values, (4, 4), Threshold::Cosine(least));
                check::<Dot>(&values, (3, 4), Threshold::Cosine(least));
            }
            check::<Dot>(&values, (4, 4), Threshold::AtLeast(15));
        }
    }
}
