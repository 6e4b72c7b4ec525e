//! Tests of all packings: limits, numbering, errors.

use super::*;

fn effort(seconds: f64) -> Effort<'static> {
    Effort { seconds, interrupted: &|| false }
}

const LIMITS: Limits = Limits { documents: 512, chunks: 16_000, tokens_per_document: 32_000, tokens: 120_000 };

fn check(tokens: &[i64], chunks: Option<&[i64]>, limits: Limits, packing: &Packing) {
    assert_eq!(packing.request_of.len(), tokens.len());
    let mut loads = vec![(0i64, 0i64, 0u32); packing.requests];
    let mut highest = 0;
    for (i, &request) in packing.request_of.iter().enumerate() {
        assert!(request <= highest, "requests are numbered by their first document");
        highest = highest.max(request + 1);
        let count = chunks.map_or(1, |chunks| chunks[i]);
        let load = &mut loads[request as usize];
        load.0 += tokens[i] + count - 1;
        load.1 += count;
        load.2 += 1;
    }
    for load in loads {
        assert!(load.0 <= i64::from(limits.tokens) && load.1 <= i64::from(limits.chunks));
        assert!((1..=limits.documents).contains(&load.2));
    }
    assert!(packing.lower_bound <= packing.requests);
}

fn random_sizes(n: usize, low: u32, high: u32, seed: u64) -> Vec<i64> {
    let mut random = random::Random::new(seed);
    (0..n).map(|_| i64::from(low + random.below(high - low + 1))).collect()
}

#[test]
fn every_order_keeps_every_limit() {
    let limits = [
        LIMITS,
        Limits { documents: 3, ..LIMITS },
        Limits { chunks: 40, ..LIMITS },
        Limits { tokens: 32_768, chunks: 64, documents: 9, ..LIMITS },
        Limits { tokens: i32::MAX as u32, chunks: 64, documents: 9, tokens_per_document: i32::MAX as u32 },
    ];
    for (seed, limits) in (0..).zip(limits) {
        for n in [1, 2, 17, 300, 2_000] {
            let tokens = random_sizes(n, 1, 31_000, seed);
            let chunks = random_sizes(n, 1, 30, seed + 100);
            for order in [Order::Any, Order::Input, Order::Window] {
                for chunks in [None, Some(chunks.as_slice())] {
                    let packing = pack(&tokens, chunks, limits, order, &effort(0.002)).expect("valid input");
                    check(&tokens, chunks, limits, &packing);
                }
            }
        }
    }
}

#[test]
fn a_document_over_a_limit_is_named() {
    let over =
        |tokens: &[i64], chunks: Option<&[i64]>, limits| match pack(tokens, chunks, limits, Order::Any, &effort(0.0)) {
            Err(Error::Value(message)) => message,
            other => panic!("{other:?}"),
        };
    assert_eq!(
        over(&[5, 31_999], Some(&[1, 3]), LIMITS),
        "document 1 costs 32001 tokens (31999 and 2 separators), more than limits.tokens_per_document = 32000"
    );
    assert_eq!(
        over(&[900], None, Limits { tokens: 800, ..LIMITS }),
        "document 0 costs 900 tokens, more than limits.tokens = 800"
    );
    assert!(over(&[5], Some(&[16_001]), LIMITS).contains("16001 chunks"));
    assert!(over(&[0], None, LIMITS).contains("token_counts[0] must be at least 1, got 0"));
    assert!(over(&[i64::MAX], Some(&[2]), LIMITS).contains("9223372036854775808 tokens"));
}

#[test]
fn equal_chunk_counts_are_a_bound_on_documents() {
    let limits = Limits { chunks: 10, ..LIMITS };
    let packing = pack(&[1; 7], Some(&[5; 7]), limits, Order::Any, &effort(0.0)).expect("valid input");
    assert_eq!((packing.requests, packing.lower_bound), (4, 4));
}
