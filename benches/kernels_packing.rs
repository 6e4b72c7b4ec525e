//! Packs a million documents of various sizes, and bounds token counts without a vocabulary.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctxembed::packing::{Effort, Limits, Order, pack};
use ctxembed::tokens::{inspect, upper};

const DOCUMENTS: usize = 1_000_000;
const LIMITS: Limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 32_000, tokens: 120_000 };

/// Pseudo-random numbers from 1 to `most`, by a linear congruential generator.
fn numbers(most: i64) -> Vec<i64> {
    let mut state = 1u64;
    (0..DOCUMENTS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            1 + (state >> 33) as i64 % most
        })
        .collect()
}

/// Name, tokens, chunks and order.
type Input<'a> = (&'a str, &'a [i64], Option<&'a [i64]>, Order);

fn packing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pack 1,000,000 documents");
    group.throughput(Throughput::Elements(DOCUMENTS as u64)).sample_size(10);
    let random = numbers(30_000);
    let mut sorted = random.clone();
    sorted.sort_unstable();
    let reversed: Vec<i64> = sorted.iter().rev().copied().collect();
    let (equal, ones) = (vec![25_000; DOCUMENTS], vec![1; DOCUMENTS]);
    let chunks = numbers(1_500);
    let inputs: [Input<'_>; 8] = [
        ("random", &random, None, Order::Any),
        ("sorted", &sorted, None, Order::Any),
        ("reversed", &reversed, None, Order::Any),
        ("equal", &equal, None, Order::Any),
        ("one token", &ones, None, Order::Any),
        ("random, chunks bind", &random, Some(&chunks), Order::Any),
        ("random, input order", &random, None, Order::Input),
        ("random, window", &random, None, Order::Window),
    ];
    for (name, tokens, chunks, order) in inputs {
        group.bench_function(name, |bencher| {
            let effort = Effort { seconds: 0.0, interrupted: &|| false };
            bencher.iter(|| pack(tokens, chunks, LIMITS, order, &effort));
        });
    }
    group.finish();
}

fn text(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text of 1 MB");
    let english = "The quick brown fox jumps over 13 lazy dogs, as `get_item(x)` shows.\n\n".repeat(14_000);
    let chinese = "研究人员证明,经常运动能改善健康。公司宣布利润有所增加。\n".repeat(12_000);
    for (name, text) in [("English", &english), ("Chinese", &chinese)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group
            .bench_function(format!("{name}: inspect"), |bencher| bencher.iter(|| inspect(text, None, &mut || Ok(()))));
        group.bench_function(format!("{name}: upper bound"), |bencher| bencher.iter(|| upper(text, &mut || Ok(()))));
    }
    group.finish();
}

criterion_group!(benches, packing, text);
criterion_main!(benches);
