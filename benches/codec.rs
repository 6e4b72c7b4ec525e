//! The codec on one core, by instruction set: base64 and bit kernels by size, and whole response bodies.
//!
//! Throughput counts bytes of the vectors, except for bodies, where it counts bytes of the body.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write as _;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::time::Duration;

use ctxembed::codec::response::{Expected, SliceRows, decode};
use ctxembed::codec::{Encoding, base64, bits};
use ctxembed::isa::Isa;

/// Bytes of a row: a bit vector, the two models' int8 vectors, and many of them.
const SIZES: [usize; 4] = [128, 1024, 2560, 1 << 20];

/// The paths that this CPU and `CTXEMBED_ISA` allow.
fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|&isa| isa <= Isa::codec())
}

/// Well-mixed bytes, the same in every run.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn encoded(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    base64::encode_into(Isa::codec(), bytes, &mut text);
    text
}

fn base64_kernels(c: &mut Criterion) {
    for size in SIZES {
        let plain = bytes(size);
        let text = encoded(&plain);

        let mut group = c.benchmark_group("base64 decode");
        group.throughput(Throughput::Bytes(size as u64));
        for isa in paths() {
            let mut out = vec![MaybeUninit::new(0); size];
            group.bench_function(BenchmarkId::new(isa.name(), size), |b| {
                b.iter(|| base64::decode_exact(isa, black_box(&text), &mut out));
            });
        }
        group.finish();

        let mut group = c.benchmark_group("base64 encode");
        group.throughput(Throughput::Bytes(size as u64));
        for isa in paths() {
            let mut out = Vec::with_capacity(text.len());
            group.bench_function(BenchmarkId::new(isa.name(), size), |b| {
                b.iter(|| {
                    out.clear();
                    base64::encode_into(isa, black_box(&plain), &mut out);
                });
            });
        }
        group.finish();
    }
}

/// A body of `documents` documents of `chunks` vectors of `row_bytes` bytes, spelled as by the API.
fn body(documents: usize, chunks: usize, row_bytes: usize) -> Vec<u8> {
    let values = bytes(documents * chunks * row_bytes);
    let mut rows = values.chunks_exact(row_bytes);
    let mut body = String::from(r#"{"object":"list","data":["#);
    for document in 0..documents {
        let comma = if document == 0 { "" } else { "," };
        let _ = write!(body, r#"{comma}{{"object":"list","index":{document},"data":["#);
        for (chunk, row) in rows.by_ref().take(chunks).enumerate() {
            let comma = if chunk == 0 { "" } else { "," };
            let text = String::from_utf8(encoded(row)).expect("base64 is ASCII");
            let _ = write!(body, r#"{comma}{{"object":"embedding","index":{chunk},"embedding":"{text}"}}"#);
        }
        body.push_str("]}");
    }
    body.push_str(r#"],"model":"pplx-embed-context-v1-0.6b","usage":{"prompt_tokens":9,"total_tokens":9}}"#);
    body.into_bytes()
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("response");
    for (name, documents, chunks, dimensions, encoding) in [
        ("480 x 1024 int8", 24, 20, 1024, Encoding::Int8),
        ("480 x 2560 int8", 24, 20, 2560, Encoding::Int8),
        ("480 x 1024 bits", 24, 20, 1024, Encoding::Binary),
        ("15872 x 1024 int8", 512, 31, 1024, Encoding::Int8),
    ] {
        let row_bytes = encoding.row_bytes(dimensions);
        let body = body(documents, chunks, row_bytes);
        let expected = Expected { shape: Some(vec![chunks; documents]), row_bytes: Some(row_bytes), encoding };
        let mut memory = vec![MaybeUninit::new(0); documents * chunks * row_bytes];
        group.throughput(Throughput::Bytes(body.len() as u64));
        for isa in paths() {
            group.bench_function(BenchmarkId::new(isa.name(), name), |b| {
                b.iter_batched(
                    || expected.clone(),
                    |expected| {
                        let decoded = decode(isa, black_box(&body), expected, &mut SliceRows::new(&mut memory));
                        assert_eq!(decoded.expect("the body is well formed").rows(), documents * chunks);
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn bit_kernels(c: &mut Criterion) {
    let rows = 1000;
    let values: Vec<i8> = bytes(rows * 1024).into_iter().map(u8::cast_signed).collect();
    let packed = bytes(rows * 128);
    let mut group = c.benchmark_group("bits, 1000 x 1024");
    group.throughput(Throughput::Bytes(values.len() as u64));
    for isa in paths() {
        let mut out = vec![MaybeUninit::new(0); packed.len()];
        group.bench_function(BenchmarkId::new("pack", isa.name()), |b| {
            b.iter(|| bits::pack(isa, black_box(&values), &mut out));
        });
        let mut out = vec![MaybeUninit::new(0_u8); values.len()];
        group.bench_function(BenchmarkId::new("unpack", isa.name()), |b| {
            b.iter(|| bits::unpack_signs(isa, black_box(&packed), 128, 1024, &mut out));
        });
    }
    group.throughput(Throughput::Bytes(packed.len() as u64));
    for isa in paths() {
        let mut out = vec![MaybeUninit::new(0); packed.len()];
        group.bench_function(BenchmarkId::new("reverse", isa.name()), |b| {
            b.iter(|| bits::reverse(isa, black_box(&packed), &mut out));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Short: kernels of microseconds settle soon, and all benches together should take two minutes.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    targets = base64_kernels, bodies, bit_kernels
}
criterion_main!(benches);
