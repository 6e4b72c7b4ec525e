//! Kernels and scans on one core, by instruction set. Throughput counts pairs of a query and a row.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::num::NonZero;

use ctxembed::isa::Isa;
use ctxembed::search::order::{ByCosine, ByHamming, Order};
use ctxembed::search::rows::{Ids, Part};
use ctxembed::search::scan::Scan;
use ctxembed::search::subset::Subset;
use ctxembed::similarity::dot::Dot;
use ctxembed::similarity::hamming::Hamming;
use ctxembed::similarity::{BATCH, Kernels, Matrix};

/// Rows that fit in a core's L2 cache.
const ROWS: usize = 256;

/// Well-mixed bytes, the same in every run.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn kernels<K>(c: &mut Criterion, name: &str, width: usize, elements: impl Fn(usize) -> Vec<K::Element>)
where
    K: Kernels<Query = <K as Kernels>::Element>,
{
    let matrix = |rows| Matrix::whole(black_box(rows), width);
    let (queries, rows) = (elements(BATCH * width), elements(ROWS * width));
    let mut group = c.benchmark_group(name);
    for isa in Isa::ALL.into_iter().filter(|&isa| isa <= K::isa()) {
        let mut out = vec![0; 32 * ROWS];
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function(BenchmarkId::new("rows", isa.name()), |b| {
            b.iter(|| K::rows(isa, black_box(&queries[..width]), matrix(&rows), &mut out[..ROWS]));
        });
        group.bench_function(BenchmarkId::new("pack", isa.name()), |b| {
            let mut panel = vec![];
            b.iter(|| K::pack_rows(isa, matrix(&rows), &mut panel));
        });
        let mut norms = vec![0; ROWS];
        group.bench_function(BenchmarkId::new("norms", isa.name()), |b| {
            b.iter(|| K::squared_norms(isa, matrix(&rows), &mut norms));
        });
        let packed = K::pack_queries(isa, &queries, width).expect("memory");
        let mut panel = vec![];
        K::pack_rows(isa, matrix(&rows), &mut panel).expect("memory");
        group.throughput(Throughput::Elements((ROWS * BATCH) as u64));
        group.bench_function(BenchmarkId::new("panel", isa.name()), |b| {
            b.iter(|| K::panel(isa, matrix(&rows), black_box(&panel), &packed, 0, &mut out, ROWS));
        });
    }
    group.finish();
}

fn scans<K, O: Order>(c: &mut Criterion, name: &str, width: usize, elements: impl Fn(usize) -> Vec<K::Element>)
where
    K: Kernels<Query = <K as Kernels>::Element>,
{
    let rows = elements(20_000 * width);
    let part = [Part { rows: &rows, norms: None, ids: Ids::Consecutive(0) }];
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    for count in [1, 4, 16, 64, 256] {
        let queries = elements(count * width);
        let scan = Scan::<K> {
            isa: K::isa(),
            width,
            stride: width,
            queries: &queries,
            parts: &part,
            subset: Subset::All,
            threads: NonZero::new(1),
        };
        group.throughput(Throughput::Elements((20_000 * count) as u64));
        group.bench_function(BenchmarkId::new("top 10", count), |b| {
            b.iter_batched(
                || (),
                |()| scan.top_k::<O>(10, &mut || Ok(())).map(|found| found.columns).unwrap_or_default(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn benches(c: &mut Criterion) {
    let int8 = |length| bytes(length).into_iter().map(u8::cast_signed).collect::<Vec<i8>>();
    kernels::<Hamming>(c, "hamming 1024 bits", 128, bytes);
    kernels::<Dot>(c, "dot 1024 int8", 1024, int8);
    scans::<Hamming, ByHamming>(c, "scan 1024 bits", 128, bytes);
    scans::<Dot, ByCosine>(c, "scan 1024 int8 by cosine", 1024, int8);
}

criterion_group! {
    name = all;
    config = Criterion::default().measurement_time(std::time::Duration::from_secs(1)).warm_up_time(std::time::Duration::from_millis(300));
    targets = benches
}
criterion_main!(all);
