//! Any bytes as a response: one verdict on every path and for every split, and what decodes is JSON that holds, by
//! `serde_json` and `base64`, the rows that were given.
#![no_main]

use std::mem::MaybeUninit;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use ctxembed::codec::Encoding;
use ctxembed::codec::response::{Decoded, Expected, GrowingRows, Stream, decode};
use ctxembed::error::{DecodeError, Error};
use ctxembed::isa::Isa;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    shape: Option<Vec<u8>>,
    row_bytes: Option<u8>,
    ends: Vec<u16>,
    body: &'a [u8],
}

type Outcome = Result<(Decoded, Vec<u8>), DecodeError>;

fn outcome(result: Result<(Decoded, Vec<MaybeUninit<u8>>), Error>) -> Outcome {
    match result {
        // SAFETY: `GrowingRows` initialises every byte it adds.
        Ok((decoded, memory)) => {
            Ok((decoded, memory.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()))
        }
        Err(Error::Decode(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn whole(isa: Isa, body: &[u8], expected: &Expected) -> Outcome {
    let mut rows = GrowingRows::default();
    outcome(decode(isa, body, expected.clone(), &mut rows).map(|decoded| {
        let count = decoded.rows();
        (decoded, rows.into_memory(count))
    }))
}

fn in_parts(isa: Isa, body: &[u8], expected: &Expected, ends: &[u16]) -> Outcome {
    let mut stream = Stream::new(isa, expected.clone());
    let mut start = 0;
    for end in ends.iter().map(|&end| usize::from(end)).chain([usize::MAX]) {
        let end = end.clamp(start, body.len());
        if let Err(error) = stream.feed(&body[start..end]) {
            return outcome(Err(error));
        }
        start = end;
    }
    outcome(stream.finish())
}

/// What the body means, by parsing all of it: rows in the order of both indexes.
fn reference(body: &[u8]) -> Option<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let by_index = |items: &serde_json::Value| {
        let mut items: Vec<_> = items.as_array()?.iter().cloned().enumerate().collect();
        items.sort_by_key(|(i, item)| item.get("index").and_then(serde_json::Value::as_f64).map_or(*i, |n| n as usize));
        Some(items.into_iter().map(|(_, item)| item).collect::<Vec<_>>())
    };
    let bytes = |item: &serde_json::Value| STANDARD.decode(item.get("embedding")?.as_str()?).ok();
    let mut rows = Vec::new();
    for document in by_index(value.get("data")?)? {
        match document.get("data").filter(|data| !data.is_null()) {
            Some(chunks) => {
                for chunk in by_index(chunks)? {
                    rows.extend(bytes(&chunk)?);
                }
            }
            None => rows.extend(bytes(&document)?),
        }
    }
    Some(rows)
}

fuzz_target!(|case: Case<'_>| {
    let expected = Expected {
        shape: case.shape.map(|shape| shape.into_iter().map(usize::from).collect()),
        row_bytes: case.row_bytes.map(|bytes| usize::from(bytes) + 1),
        encoding: Encoding::Int8,
    };
    let verdict = whole(Isa::Scalar, case.body, &expected);
    for isa in Isa::ALL {
        assert_eq!(whole(isa, case.body, &expected), verdict, "{isa:?}");
        assert_eq!(in_parts(isa, case.body, &expected, &case.ends), verdict, "{isa:?} {:?}", case.ends);
    }
    match verdict {
        Ok((_, rows)) => {
            // serde_json refuses some legal spellings when it keeps values: numbers beyond f64, lone surrogates.
            if let Some(reference) = reference(case.body) {
                assert_eq!(rows, reference);
            }
        }
        Err(error) => assert!(error.offset <= case.body.len()),
    }
});
