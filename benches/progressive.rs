//! An experiment: exact search by cosine that reads the high nibbles of all rows first, and the low ones only of rows
//! that may still be among the best. `docs/search-notes.md` has the result.
//!
//! `CTXEMBED_ROWS=rows.i8 CTXEMBED_QUERIES=queries.i8 cargo bench --bench progressive`, both raw int8 of 1,024
//! dimensions; `python -m benches.vectors` writes them. Without them, or without AVX-512 VNNI, nothing is measured.
#![expect(unsafe_code, reason = "AVX-512 intrinsics")]

#[cfg(not(target_arch = "x86_64"))]
fn main() {}

#[cfg(target_arch = "x86_64")]
fn main() {
    experiment::main();
}

#[cfg(target_arch = "x86_64")]
mod experiment {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::num::NonZero;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Instant;

    use ctxembed::isa::Isa;
    use ctxembed::search::order::ByCosine;
    use ctxembed::search::rows::{Ids, Part};
    use ctxembed::search::scan::Scan;
    use ctxembed::search::subset::Subset;
    use ctxembed::similarity::dot::Dot;
    use ctxembed::similarity::{Batches as _, Kernels, Matrix, cosine};

    const DIMS: usize = 1024;
    /// Bytes of a plane's row.
    const HALF: usize = DIMS / 2;
    const BLOCK: usize = 256;
    const K: usize = 10;
    const REPEATS: usize = 7;

    /// The rows as two planes of nibbles, and the factors that bound a cosine by the high one alone.
    ///
    /// With `x = 16 h + l`, `h` from -8 to 7 and `l` from 0 to 15, the high plane knows `x' = 16 h + 8`. No cosine
    /// with `x` exceeds `cos(max(0, angle(q, x') - theta))`, `theta = angle(x, x')`. So `x` can reach the cosine `t`
    /// only where `q x' >= |q| (t a - sqrt(1 - t^2) b)` with `a = |x'| cos(theta)`, `b = |x'| sin(theta)`: two floats
    /// a row.
    struct Planes {
        high: Vec<u8>,
        low: Vec<u8>,
        along: Vec<f32>,
        across: Vec<f32>,
        inverse: Vec<f64>,
    }

    /// A chunk of 128 elements fills 64 bytes: the first 64 elements in the low nibbles, the others in the high ones.
    fn pack(row: &[i8], nibble: impl Fn(i8) -> u8, out: &mut Vec<u8>) {
        for chunk in row.chunks_exact(128) {
            out.extend((0..64).map(|at| nibble(chunk[at]) | nibble(chunk[at + 64]) << 4));
        }
    }

    /// `h + 8`, from 0 to 15.
    fn high(x: i8) -> u8 {
        ((x >> 4) + 8) as u8
    }

    fn low(x: i8) -> u8 {
        x as u8 & 15
    }

    impl Planes {
        fn new(rows: &[i8]) -> Self {
            let mut planes = Self { high: vec![], low: vec![], along: vec![], across: vec![], inverse: vec![] };
            for row in rows.chunks_exact(DIMS) {
                pack(row, high, &mut planes.high);
                pack(row, low, &mut planes.low);
                let (mut product, mut coarse, mut norm) = (0i64, 0i64, 0i64);
                for &x in row {
                    let (x, near) = (i64::from(x), i64::from(x >> 4) * 16 + 8);
                    product += x * near;
                    coarse += near * near;
                    norm += x * x;
                }
                let inverse = cosine::inverse_norm(norm as u32);
                let along = product as f64 * inverse;
                planes.along.push(along as f32);
                planes.across.push((coarse as f64 - along * along).max(0.0).sqrt() as f32);
                planes.inverse.push(inverse);
            }
            planes
        }
    }

    /// A query's elements in the order of a plane's nibbles, its sum and its length.
    struct Query {
        elements: Vec<i8>,
        sum: i32,
        length: f32,
    }

    impl Query {
        fn new(query: &[i8]) -> Self {
            let sum = query.iter().map(|&x| i32::from(x)).sum();
            let norm: f64 = query.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            Self { elements: query.to_vec(), sum, length: norm.sqrt() as f32 }
        }

        /// The products with `x'` and with `x`, from the sums over the planes.
        fn coarse(&self, high: i32) -> i32 {
            16 * high - 120 * self.sum
        }

        fn exact(&self, high: i32, low: i32) -> i32 {
            16 * high - 128 * self.sum + low
        }
    }

    /// The sums of nibbles times elements over `R` rows of a plane.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn sums<const R: usize>(query: &[i8], rows: &[u8]) -> [i32; R] {
        let (query, rows) = (&query[..DIMS], &rows[..R * HALF]);
        let mask = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_si512(); R];
        for chunk in 0..HALF / 64 {
            // SAFETY: `query` has 1,024 elements and `chunk` is below 8.
            let (first, second) = unsafe {
                let at = query.as_ptr().add(128 * chunk);
                (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast()))
            };
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `rows` has `R` rows of 512 bytes, and 64 bytes at a multiple of 64 below that are read.
                let nibbles = unsafe { _mm512_loadu_si512(rows.as_ptr().add(row * HALF + 64 * chunk).cast()) };
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_and_si512(nibbles, mask), first);
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), mask), second);
            }
        }
        sums.map(|sum| _mm512_reduce_add_epi32(sum))
    }

    /// The best so far, best first: cosine times the query's length, and row.
    #[derive(Clone, Default)]
    struct Best(Vec<(f64, usize)>);

    impl Best {
        fn push(&mut self, score: f64, row: usize) {
            let at = self.0.partition_point(|&(s, r)| score.total_cmp(&s).then(r.cmp(&row)).is_lt());
            if at < K {
                self.0.insert(at, (score, row));
                self.0.truncate(K);
            }
        }

        /// The `t` and `u` of the bound `t a - u b` on `q x'`, the query's length included, a little too low.
        fn limit(&self, length: f32) -> Option<(f32, f32)> {
            let worst = self.0.get(K - 1)?.0;
            let cosine = (worst / f64::from(length)).clamp(-1.0, 1.0) - 1e-5;
            Some((cosine as f32 * length, (1.0 - cosine * cosine).max(0.0).sqrt() as f32 * length * 1.000_01))
        }
    }

    /// Rows of a block whose bound reaches the limit.
    fn survivors(limit: Option<(f32, f32)>, coarse: &[i32], along: &[f32], across: &[f32], out: &mut Vec<usize>) {
        out.clear();
        let Some((t, u)) = limit else { return out.extend(0..coarse.len()) };
        let mut keep = [false; BLOCK];
        for (((keep, &c), &a), &b) in keep.iter_mut().zip(coarse).zip(along).zip(across) {
            *keep = c as f32 >= t * a - u * b;
        }
        out.extend((0..coarse.len()).filter(|&at| keep[at]));
    }

    /// Score a block for one query; returns the number of rows whose low plane was read.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn one_block(planes: &Planes, query: &Query, block: usize, best: &mut Best, kept: &mut Vec<usize>) -> usize {
        let start = block * BLOCK;
        let count = BLOCK.min(planes.along.len() - start);
        let (mut high, mut coarse) = ([0; BLOCK], [0; BLOCK]);
        for row in (0..count).step_by(4) {
            let at = &planes.high[(start + row) * HALF..];
            if count - row >= 4 {
                high[row..row + 4].copy_from_slice(&sums::<4>(&query.elements, at));
            } else {
                for lane in 0..count - row {
                    high[row + lane] = sums::<1>(&query.elements, &at[lane * HALF..])[0];
                }
            }
        }
        for (coarse, &high) in coarse.iter_mut().zip(&high) {
            *coarse = query.coarse(high);
        }
        let range = start..start + count;
        survivors(
            best.limit(query.length),
            &coarse[..count],
            &planes.along[range.clone()],
            &planes.across[range],
            kept,
        );
        for &at in &*kept {
            let row = start + at;
            let low = sums::<1>(&query.elements, &planes.low[row * HALF..])[0];
            best.push(f64::from(query.exact(high[at], low)) * planes.inverse[row], row);
        }
        kept.len()
    }

    /// Run `work` on blocks that threads draw, and merge their results.
    fn threaded(
        threads: usize,
        count: usize,
        queries: usize,
        work: impl Fn(usize, &mut [Best]) -> usize + Sync,
    ) -> (Vec<Best>, usize) {
        let next = AtomicUsize::new(0);
        let run = || {
            let (mut best, mut kept) = (vec![Best::default(); queries], 0);
            loop {
                let block = next.fetch_add(1, Relaxed);
                if block * BLOCK >= count {
                    return (best, kept);
                }
                kept += work(block, &mut best);
            }
        };
        let mut all = vec![];
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            all.push(run());
            all.extend(others.into_iter().map(|other| other.join().expect("no panic")));
        });
        let (mut best, mut kept) = all.pop().expect("at least one");
        for (others, more) in all {
            kept += more;
            for (best, other) in best.iter_mut().zip(others) {
                for (score, row) in other.0 {
                    best.push(score, row);
                }
            }
        }
        (best, kept)
    }

    /// Proof that the CPU has AVX-512 F, BW, VL and VNNI.
    #[derive(Clone, Copy)]
    struct Vnni(());

    impl Vnni {
        fn detect() -> Option<Self> {
            (Dot::isa() >= Isa::Avx512).then_some(Self(()))
        }
    }

    fn progressive_one(_: Vnni, planes: &Planes, query: &Query, threads: usize) -> (Vec<Best>, usize) {
        threaded(threads, planes.along.len(), 1, |block, best| {
            // SAFETY: the value of `Vnni` exists only where `Isa::dot` names AVX-512 or a path above it.
            unsafe { one_block(planes, query, block, &mut best[0], &mut vec![]) }
        })
    }

    /// Many queries: the high nibbles of a block are scored by the crate's own panels.
    fn progressive_many(
        planes: &Planes,
        rows: &[i8],
        raw: &[i8],
        queries: &[Query],
        threads: usize,
    ) -> (Vec<Best>, usize) {
        let isa = Dot::isa();
        let packed = Dot::pack_queries(isa, raw, DIMS).expect("memory");
        threaded(threads, planes.along.len(), queries.len(), |block, best| {
            let start = block * BLOCK;
            let count = BLOCK.min(planes.along.len() - start);
            let range = start..start + count;
            let mut wide = vec![0i8; count * DIMS];
            for (row, wide) in range.clone().zip(wide.chunks_exact_mut(DIMS)) {
                for (bytes, wide) in planes.high[row * HALF..][..HALF].chunks_exact(64).zip(wide.chunks_exact_mut(128))
                {
                    for (at, &byte) in bytes.iter().enumerate() {
                        wide[at] = (byte & 15) as i8 - 8;
                        wide[at + 64] = (byte >> 4) as i8 - 8;
                    }
                }
            }
            let stride = count.next_multiple_of(Dot::GROUP);
            let batch_size = packed.size();
            let (mut panel, mut scores, mut kept, mut total) = (vec![], vec![0; batch_size * stride], vec![], 0);
            let wide = Matrix::whole(&wide, DIMS);
            Dot::pack_rows(isa, wide, &mut panel).expect("memory");
            for batch in 0..packed.count() {
                Dot::panel(isa, wide, &panel, &packed, batch, &mut scores, stride);
                let some = queries.iter().zip(best.iter_mut()).zip(raw.chunks_exact(DIMS)).skip(batch * batch_size);
                for (((query, best), raw), scores) in some.zip(scores.chunks_exact_mut(stride)) {
                    for score in &mut *scores {
                        *score = 16 * *score + 8 * query.sum;
                    }
                    let (along, across) = (&planes.along[range.clone()], &planes.across[range.clone()]);
                    survivors(best.limit(query.length), &scores[..count], along, across, &mut kept);
                    total += kept.len();
                    for &at in &kept {
                        let (row, mut exact) = (start + at, [0]);
                        Dot::rows(isa, raw, Matrix::whole(&rows[row * DIMS..][..DIMS], DIMS), &mut exact);
                        best.push(f64::from(exact[0]) * planes.inverse[row], row);
                    }
                }
            }
            total
        })
    }

    /// The quickest of some runs, in milliseconds, and the result of the last.
    fn time<T>(mut run: impl FnMut() -> T) -> (f64, T) {
        let mut last = None;
        let mut quickest = f64::MAX;
        for _ in 0..REPEATS {
            let start = Instant::now();
            last = Some(black_box(run()));
            quickest = quickest.min(start.elapsed().as_secs_f64() * 1e3);
        }
        (quickest, last.expect("ran"))
    }

    fn read(variable: &str) -> Option<Vec<i8>> {
        let path = std::env::var_os(variable)?;
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(bytes.len() >= DIMS && bytes.len() % DIMS == 0, "{}: not rows of {DIMS} bytes", path.display());
        Some(bytes.into_iter().map(u8::cast_signed).collect())
    }

    pub(super) fn main() {
        let (Some(rows), Some(queries)) = (read("CTXEMBED_ROWS"), read("CTXEMBED_QUERIES")) else {
            return println!("progressive: CTXEMBED_ROWS and CTXEMBED_QUERIES name no vectors, nothing is measured");
        };
        let Some(vnni) = Vnni::detect() else {
            return println!("progressive: this CPU has no AVX-512 VNNI, nothing is measured");
        };
        let count = rows.len() / DIMS;
        let planes = Planes::new(&rows);
        let asked: Vec<Query> = queries.chunks_exact(DIMS).map(Query::new).collect();
        let mut norms = vec![0; count];
        Dot::squared_norms(Dot::isa(), Matrix::whole(&rows, DIMS), &mut norms);
        let part = [Part { rows: &rows, norms: Some(&norms), ids: Ids::Consecutive(0) }];
        let exact = |queries: &[i8], threads: usize| -> Vec<Vec<usize>> {
            let threads = NonZero::new(threads);
            let scan = Scan::<Dot> {
                isa: Dot::isa(),
                width: DIMS,
                stride: DIMS,
                queries,
                parts: &part,
                subset: Subset::All,
                threads,
            };
            let found = scan.top_k::<ByCosine>(K, &mut || Ok(())).expect("nothing stops it");
            found.candidates.chunks(found.columns).map(|best| best.iter().map(|c| c.id as usize).collect()).collect()
        };
        let ids = |best: &[Best]| -> Vec<Vec<usize>> {
            best.iter().map(|best| best.0.iter().map(|&(_, row)| row).collect()).collect()
        };
        println!("{count} rows, {} queries; the quickest of {REPEATS}, in milliseconds", asked.len());
        for threads in [1, std::thread::available_parallelism().map_or(1, NonZero::get)] {
            let (mut plain, mut planar, mut shares) = (0.0, 0.0, vec![]);
            for (query, raw) in asked.iter().zip(queries.chunks_exact(DIMS)).take(16) {
                let (ms, expected) = time(|| exact(raw, threads));
                plain += ms / 16.0;
                let (ms, (best, kept)) = time(|| progressive_one(vnni, &planes, query, threads));
                planar += ms / 16.0;
                assert_eq!(ids(&best), expected, "the bound lost a row");
                shares.push(kept as f64 / count as f64);
            }
            shares.sort_by(f64::total_cmp);
            let rate = |ms: f64, bytes: f64| bytes / ms / 1e6;
            let read = (count * HALF) as f64 * (1.0 + shares.iter().sum::<f64>() / 16.0);
            println!("reading: {:.1} GB/s and {:.1} GB/s", rate(plain, rows.len() as f64), rate(planar, read));
            println!(
                "1 query, {threads} threads: exact {plain:.2}, progressive {planar:.2} ({:.2}x); low plane read of \
                 {:.3} % of the rows in the median, {:.3} % at most",
                plain / planar,
                100.0 * shares[8],
                100.0 * shares[15]
            );
            let (plain, expected) = time(|| exact(&queries, threads));
            let (planar, (best, kept)) = time(|| progressive_many(&planes, &rows, &queries, &asked, threads));
            assert_eq!(ids(&best), expected, "the bound lost a row");
            println!(
                "{} queries, {threads} threads: exact {plain:.1}, progressive {planar:.1} ({:.2}x); {:.3} % of the \
                 pairs survive",
                asked.len(),
                plain / planar,
                100.0 * kept as f64 / (count * asked.len()) as f64
            );
        }
    }
}
