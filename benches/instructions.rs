//! Kernels to count instructions of: `instructions KERNEL PATH ROWS` runs one on so many vectors of 1,024 dimensions,
//! and `instructions` lists the kernels, each with the number of results for a row. The rows are made before, all of
//! them every time, so that two runs differ by what the kernel does for the rows that one has more.
//!
//! `python -m benches.instructions` counts with an emulator of aarch64.

use std::hint::black_box;
use std::mem::MaybeUninit;

use ctxembed::codec::response::{self, Expected, SliceRows};
use ctxembed::codec::{Encoding, base64, bits};
use ctxembed::isa::Isa;
use ctxembed::similarity::asymmetric::Asymmetric;
use ctxembed::similarity::dot::Dot;
use ctxembed::similarity::hamming::Hamming;
use ctxembed::similarity::{Batches as _, Kernels, Matrix};

const DIMENSIONS: usize = 1024;
/// Most rows that can be asked for.
const ROWS: usize = 64;
/// Queries of a batch search.
const MANY: usize = 64;

/// A kernel on a path, over a number of rows.
type Run = fn(Isa, usize);

/// Names, results for a row, and kernels.
const KERNELS: &[(&str, usize, Run)] = &[
    ("hamming-1", 1, |isa, rows| scores::<Hamming>(isa, &bytes(DIMENSIONS / 8), &bytes(ROWS * DIMENSIONS / 8), rows)),
    ("hamming-64", MANY, |isa, rows| {
        scores::<Hamming>(isa, &bytes(MANY * DIMENSIONS / 8), &bytes(ROWS * DIMENSIONS / 8), rows);
    }),
    ("int8-1", 1, |isa, rows| scores::<Dot>(isa, &int8(DIMENSIONS), &int8(ROWS * DIMENSIONS), rows)),
    ("int8-64", MANY, |isa, rows| scores::<Dot>(isa, &int8(MANY * DIMENSIONS), &int8(ROWS * DIMENSIONS), rows)),
    ("int8-norms", 1, |isa, rows| {
        let (data, mut out) = (int8(ROWS * DIMENSIONS), vec![0; rows]);
        Dot::squared_norms(isa, Matrix::whole(&data[..rows * DIMENSIONS], DIMENSIONS), black_box(&mut out));
    }),
    ("asymmetric-1", 1, |isa, rows| {
        scores::<Asymmetric>(isa, &int8(DIMENSIONS), &bytes(ROWS * DIMENSIONS / 8), rows);
    }),
    ("asymmetric-64", MANY, |isa, rows| {
        scores::<Asymmetric>(isa, &int8(MANY * DIMENSIONS), &bytes(ROWS * DIMENSIONS / 8), rows);
    }),
    ("base64-decode-int8", 1, |isa, rows| decode(isa, DIMENSIONS, rows)),
    ("base64-decode-bits", 1, |isa, rows| decode(isa, DIMENSIONS / 8, rows)),
    ("base64-encode-int8", 1, |isa, rows| encode(isa, DIMENSIONS, rows)),
    ("base64-encode-bits", 1, |isa, rows| encode(isa, DIMENSIONS / 8, rows)),
    ("response-int8", 1, |isa, rows| respond(isa, Encoding::Int8, rows)),
    ("response-bits", 1, |isa, rows| respond(isa, Encoding::Binary, rows)),
    ("bits-pack", 1, |isa, rows| {
        let (values, mut out) = (int8(ROWS * DIMENSIONS), [MaybeUninit::uninit(); DIMENSIONS / 8]);
        for row in values.chunks_exact(DIMENSIONS).take(rows) {
            bits::pack(isa, row, black_box(&mut out));
        }
    }),
    ("bits-unpack", 1, |isa, rows| {
        let (packed, mut out) = (bytes(ROWS * DIMENSIONS / 8), [MaybeUninit::uninit(); DIMENSIONS]);
        for row in packed.chunks_exact(DIMENSIONS / 8).take(rows) {
            bits::unpack_signs(isa, row, DIMENSIONS / 8, DIMENSIONS, black_box(&mut out));
        }
    }),
];

/// Decode a row's base64 text for each row.
fn decode(isa: Isa, width: usize, rows: usize) {
    let (text, mut out) = (text(width), vec![MaybeUninit::uninit(); width]);
    for _ in 0..rows {
        base64::decode_exact(isa, black_box(&text), black_box(&mut out)).expect("the text is well formed");
    }
}

/// Encode each row to base64.
fn encode(isa: Isa, width: usize, rows: usize) {
    let mut out = Vec::with_capacity(2 * width);
    for row in bytes(ROWS * width).chunks_exact(width).take(rows) {
        base64::encode_into(isa, row, black_box(&mut out));
        out.clear();
    }
}

/// Decode a response that has the rows as chunks of one document.
fn respond(isa: Isa, encoding: Encoding, rows: usize) {
    let row_bytes = encoding.row_bytes(DIMENSIONS);
    let mut body = br#"{"object":"list","data":[{"object":"list","index":0,"data":["#.to_vec();
    let (text, mut ends) = (text(row_bytes), vec![]);
    for index in 0..ROWS {
        let comma = if index > 0 { "," } else { "" };
        body.extend(format!(r#"{comma}{{"object":"embedding","index":{index},"embedding":""#).bytes());
        body.extend_from_slice(&text);
        body.extend(br#""}"#);
        ends.push(body.len());
    }
    body.truncate(ends[rows - 1]);
    body.extend(br#"]}],"model":"pplx-embed-context-v1-0.6b","usage":{"prompt_tokens":9,"total_tokens":9}}"#);
    let expected = Expected { shape: Some(vec![rows]), row_bytes: Some(row_bytes), encoding };
    let mut out = vec![MaybeUninit::new(0); ROWS * row_bytes];
    let decoded = response::decode(isa, black_box(&body), expected, &mut SliceRows::new(&mut out));
    assert_eq!(decoded.expect("the body is well formed").rows(), rows);
}

/// The base64 text of a row of `width` bytes.
fn text(width: usize) -> Vec<u8> {
    let mut text = Vec::new();
    base64::encode_into(Isa::Scalar, &bytes(width), &mut text);
    text
}

/// Scores of all queries with the first rows, by the kernels that a search of so many queries uses.
fn scores<K: Kernels>(isa: Isa, queries: &[K::Query], data: &[K::Element], count: usize) {
    let width = data.len() / ROWS;
    let rows = Matrix::whole(&data[..count * width], width);
    let number = queries.len() / (width * K::RATIO);
    let stride = count.next_multiple_of(K::GROUP);
    if number < K::panel_from(isa) {
        let mut out = vec![0; count];
        for query in queries.chunks_exact(width * K::RATIO) {
            K::rows(isa, query, rows, black_box(&mut out));
        }
        return;
    }
    let packed = K::pack_queries(isa, queries, width * K::RATIO).expect("memory");
    let (mut panel, mut out) = (vec![], vec![0; packed.size() * stride]);
    K::pack_rows(isa, rows, &mut panel).expect("memory");
    for batch in 0..packed.count() {
        K::panel(isa, rows, &panel, &packed, batch, black_box(&mut out), stride);
    }
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

/// Values without -128, as embeddings are.
fn int8(length: usize) -> Vec<i8> {
    bytes(length).into_iter().map(|byte| byte.cast_signed().max(-127)).collect()
}

fn main() {
    // `cargo bench` adds options.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if arguments.is_empty() {
        for (name, results, _) in KERNELS {
            println!("{name} {results}");
        }
        return;
    }
    let [name, path, rows] = arguments.as_slice() else { panic!("expected KERNEL PATH ROWS, got {arguments:?}") };
    let (_, _, run) = KERNELS.iter().find(|(known, _, _)| known == name).expect("a kernel of the list");
    let isa = Isa::ALL.into_iter().find(|isa| isa.name() == path).expect("a path of this architecture");
    assert!(isa <= Isa::dot(), "this CPU has no {path}");
    let rows = rows.parse().expect("a number of rows");
    assert!(rows <= ROWS, "{rows} rows are more than {ROWS}");
    run(isa, rows);
}
