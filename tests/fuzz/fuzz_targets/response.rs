//! Any bytes as a response: one result on every path and for every split; the rows of a valid body are those that
//! `serde_json` and `base64` find.
#![no_main]

use std::mem::MaybeUninit;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use ctxembed::codec::Encoding;
use ctxembed::codec::response::{Decoded, Expected, GrowingRows, Stream, decode};
use ctxembed::error::{DecodeError, Error};
use ctxembed::isa::Isa;
use libfuzzer_sys::fuzz_target;

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

/// The rows in the order of both indexes, by parsing all of the body.
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

// Four bytes choose the expectation and the splits; the rest is the body, so that a seed is easy to write.
fuzz_target!(|input: &[u8]| {
    let Some((&[shape, row_bytes, first, second], body)) = input.split_first_chunk() else { return };
    let shapes: [&[usize]; 4] = [&[1], &[2, 1], &[1, 1, 1], &[3]];
    let expected = Expected {
        shape: shapes.get(usize::from(shape % 8)).map(|shape| shape.to_vec()),
        row_bytes: (row_bytes > 0).then_some(usize::from(row_bytes)),
        encoding: Encoding::Int8,
    };
    let end = |part: u8| (body.len() * usize::from(part) / 255) as u16;
    let splits = [end(first), end(first.max(second))];
    let bytewise: Vec<u16> = (0..body.len() as u16).collect();
    let scalar = whole(Isa::Scalar, body, &expected);
    for isa in Isa::ALL {
        assert_eq!(whole(isa, body, &expected), scalar, "{isa:?}");
        assert_eq!(in_parts(isa, body, &expected, &splits), scalar, "{isa:?} {splits:?}");
    }
    assert_eq!(in_parts(Isa::codec(), body, &expected, &bytewise), scalar);
    match scalar {
        Ok((_, rows)) => {
            // serde_json refuses some valid spellings when it keeps values: numbers beyond f64, lone surrogates.
            if let Some(reference) = reference(body) {
                assert_eq!(rows, reference);
            }
        }
        Err(error) => assert!(error.offset <= body.len()),
    }
});
