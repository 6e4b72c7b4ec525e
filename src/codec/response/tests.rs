//! The parser against a reference that parses the whole body with `serde_json` and decodes with `base64`.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::codec::Encoding;

#[expect(unsafe_code, reason = "reads memory that was initialised when it grew")]
fn initialised(memory: Vec<MaybeUninit<u8>>) -> Vec<u8> {
    // SAFETY: `GrowingRows` initialises every byte it adds.
    memory.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

type Outcome = Result<(Decoded, Vec<u8>), DecodeError>;

fn expected(shape: Option<&[usize]>, row_bytes: Option<usize>) -> Expected {
    Expected { shape: shape.map(<[usize]>::to_vec), row_bytes, encoding: Encoding::Int8 }
}

fn whole(isa: Isa, body: &[u8], expected: &Expected) -> Outcome {
    let mut rows = GrowingRows::default();
    match decode(isa, body, expected.clone(), &mut rows) {
        Ok(decoded) => {
            let count = decoded.rows();
            Ok((decoded, initialised(rows.into_memory(count))))
        }
        Err(Error::Decode(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// Decode with the body arriving in parts that end at `ends`.
fn in_parts(isa: Isa, body: &[u8], expected: &Expected, ends: &[usize]) -> Outcome {
    let mut stream = Stream::new(isa, expected.clone());
    let mut start = 0;
    let last = [body.len()];
    let result = ends.iter().filter(|&&end| end < body.len()).chain(&last).try_for_each(|&end| {
        let part = &body[start..end.max(start)];
        start = end.max(start);
        stream.feed(part)
    });
    match result.and_then(|()| stream.finish()) {
        Ok((decoded, memory)) => Ok((decoded, initialised(memory))),
        Err(Error::Decode(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn vector(document: usize, chunk: usize, row_bytes: usize) -> Vec<u8> {
    (0..row_bytes).map(|i| (document * 101 + chunk * 31 + i * 7) as u8).collect()
}

/// A body in the API's spelling, its documents and chunks in the orders given.
fn spelled(shape: &[usize], row_bytes: usize, document_order: &[usize], reversed: bool) -> String {
    let documents: Vec<String> = document_order
        .iter()
        .map(|&d| {
            let mut chunks: Vec<usize> = (0..shape[d]).collect();
            if reversed {
                chunks.reverse();
            }
            let chunks: Vec<String> = chunks
                .iter()
                .map(|&c| {
                    let text = STANDARD.encode(vector(d, c, row_bytes));
                    format!(r#"{{"object":"embedding","index":{c},"embedding":"{text}"}}"#)
                })
                .collect();
            format!(r#"{{"object":"list","index":{d},"data":[{}]}}"#, chunks.join(","))
        })
        .collect();
    let usage = r#"{"prompt_tokens":7,"total_tokens":7,"cost":{"input_cost":5.6e-8,"total_cost":0.000000056,"currency":"USD"}}"#;
    format!(r#"{{"object":"list","data":[{}],"model":"m","usage":{usage}}}"#, documents.join(","))
}

fn matrix(shape: &[usize], row_bytes: usize) -> Vec<u8> {
    let rows = shape.iter().enumerate().flat_map(|(d, &n)| (0..n).map(move |c| (d, c)));
    rows.flat_map(|(d, c)| vector(d, c, row_bytes)).collect()
}

#[test]
fn rows_are_ordered_by_both_indexes_on_every_path() {
    let shape = [3, 1, 4, 2];
    for row_bytes in [1, 2, 3, 48, 128, 129] {
        for order in [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]] {
            for reversed in [false, true] {
                let body = spelled(&shape, row_bytes, &order, reversed);
                for isa in Isa::ALL {
                    for known in [expected(None, None), expected(Some(&shape), Some(row_bytes))] {
                        let (decoded, bytes) = whole(isa, body.as_bytes(), &known).expect("a valid body");
                        assert_eq!(decoded.offsets, [0, 3, 4, 8, 10]);
                        assert_eq!(bytes, matrix(&shape, row_bytes), "{isa:?} {order:?} {reversed}");
                        assert_eq!(decoded.model.as_deref(), Some("m"));
                        let usage = decoded.usage.expect("the body has a usage");
                        assert_eq!((usage.prompt_tokens, usage.total_cost.as_deref()), (Some(7), Some("0.000000056")));
                    }
                }
            }
        }
    }
}

#[test]
fn a_body_cut_at_any_byte_is_truncated() {
    let body = spelled(&[2, 1], 5, &[1, 0], true);
    for cut in 0..body.len() {
        let error = whole(Isa::Scalar, &body.as_bytes()[..cut], &expected(Some(&[2, 1]), Some(5))).unwrap_err();
        assert_eq!((error.kind, error.offset), (DecodeKind::Truncated, cut), "{error}");
    }
}

#[test]
fn a_split_at_any_byte_gives_the_same_result() {
    let good = spelled(&[2, 1, 3], 50, &[1, 0, 2], true);
    let wrong = [
        good.replace("\"index\":2,\"data\"", "\"index\":1,\"data\""),
        good.replace("\"model\":\"m\"", "\"model\":1"),
        good.replace("==\"", "=\""),
        good.replace("},{", "},,{"),
        good.replacen('=', "\\u003d", 1),
        good.replacen("\"index\":0", "\"\\u0069ndex\":0.0e2", 2),
        format!("{good} x"),
    ];
    for body in std::iter::once(&good).chain(&wrong) {
        let known = expected(Some(&[2, 1, 3]), None);
        let reference = whole(Isa::Scalar, body.as_bytes(), &known);
        for split in 0..=body.len() {
            assert_eq!(in_parts(Isa::codec(), body.as_bytes(), &known, &[split]), reference, "{split} of {body}");
        }
        let bytewise: Vec<usize> = (0..body.len()).collect();
        assert_eq!(in_parts(Isa::codec(), body.as_bytes(), &known, &bytewise), reference, "{body}");
    }
}

/// The template matches objects that are wholly in a window; with windows of one byte it matches none.
#[test]
fn the_template_never_changes_the_result() {
    let shape = [2, 1, 1, 2, 1];
    let known = [expected(None, None), expected(Some(&shape), Some(3))];
    let equal = |body: &[u8]| {
        let bytewise: Vec<usize> = (0..body.len()).collect();
        for known in &known {
            let parsed = in_parts(Isa::Scalar, body, known, &bytewise);
            assert_eq!(whole(Isa::codec(), body, known), parsed, "{}", body.escape_ascii());
        }
    };
    let body = spelled(&shape, 3, &[0, 1, 2, 3, 4], false);
    equal(spelled(&shape, 3, &[0, 3, 2, 1, 4], true).as_bytes());
    for position in 0..body.len() {
        for &byte in br#"02"]}, xA="# {
            let mut changed = body.clone().into_bytes();
            changed[position] = byte;
            equal(&changed);
        }
    }
    let header = r#"]},{"object":"list","index":3,"data":["#;
    let others = [
        r#"],"index":2},{"object":"list","index":3,"data":["#,
        r#"],"embedding":"AQID"},{"object":"list","index":3,"data":["#,
        r#"],"extra":{"index":1}},{"object":"list","index":3,"data":["#,
        r#"]},{"object":"list","data":[],"index":3},{"object":"list","index":4,"data":["#,
        r#"]},{"object":"list","embedding":"AQID","index":3,"data":["#,
        r#"]},{"object":"list","index":3,"index":3,"data":["#,
        r#"]},{"object":"list","index":03,"data":["#,
        r#"]},{"object":"list","index":3.0,"data":["#,
        r#"]},{"object":"list","index":99999999999999999999,"data":["#,
        r#"]},{"object":"list","index":2,"data":["#,
        r#"]},{"object":"list","index":5,"data":["#,
        r#"]},{"object":"list","data":["#,
        r#"]},{"object":"list","index":3,"data":[]},{"object":"list","index":3,"data":["#,
        r#"]},{"object":"list","index":3,"data":7,"x":["#,
        "",
        ",",
        "]}",
    ];
    for other in others {
        equal(body.replace(header, other).as_bytes());
        for index in 0..5 {
            // Learned from the pair before, and matched later.
            let swapped =
                body.replace(&header.replace('3', &index.to_string()), &other.replace('3', &index.to_string()));
            equal(swapped.as_bytes());
            equal(swapped.replace(r#","data""#, r#" ,"data""#).as_bytes());
        }
    }
}

/// The pieces of the template are compared in blocks: they may be shorter or longer than one, and differ at any byte.
#[test]
fn pieces_of_any_length_are_compared_whole() {
    let shape = [4];
    let known = expected(Some(&shape), Some(3));
    for length in (0..160).chain([250, 257, 300]) {
        let body = spelled(&shape, 3, &[0], false).replace("\"embedding\",", &format!("\"{}\",", "e".repeat(length)));
        let (decoded, bytes) = whole(Isa::codec(), body.as_bytes(), &known).expect("a valid body");
        assert_eq!((decoded.rows(), bytes), (4, matrix(&shape, 3)), "{length}");
        // The last chunk, of which all before is matched.
        let start = body.rfind("{\"object\"").expect("a chunk");
        for position in start..body.len() {
            let mut changed = body.clone().into_bytes();
            changed[position] = b'"';
            let bytewise: Vec<usize> = (0..changed.len()).collect();
            let parsed = in_parts(Isa::Scalar, &changed, &known, &bytewise);
            assert_eq!(whole(Isa::codec(), &changed, &known), parsed, "{length} {position}");
        }
    }
}

#[test]
fn indexes_of_any_number_of_digits_are_read() {
    let count = 1_001;
    let shape = [count];
    let body = spelled(&shape, 1, &[0], false);
    let (decoded, bytes) =
        whole(Isa::codec(), body.as_bytes(), &expected(Some(&shape), Some(1))).expect("a valid body");
    assert_eq!((decoded.rows(), bytes), (count, matrix(&shape, 1)));
    for index in ["00", "01", "10", "999999999", "9999999999", "99999999999", "18446744073709551616", "-1", "1.0", ""] {
        let changed = body.replacen("\"index\":900,", &format!("\"index\":{index},"), 1);
        let known = expected(Some(&shape), Some(1));
        let ends: Vec<usize> = (0..changed.len()).step_by(7).collect();
        let parsed = in_parts(Isa::Scalar, changed.as_bytes(), &known, &ends);
        assert_eq!(whole(Isa::codec(), changed.as_bytes(), &known), parsed, "{index}");
    }
}

/// Kind, document and chunk of the error, and the text at its offset.
fn fault(body: &str, shape: Option<&[usize]>) -> (DecodeKind, Option<usize>, Option<usize>, String) {
    let error = whole(Isa::codec(), body.as_bytes(), &expected(shape, None)).expect_err(body);
    (error.kind, error.document, error.chunk, body[error.offset..].chars().take(6).collect())
}

#[test]
fn errors_name_kind_and_place() {
    use DecodeKind::{Base64Byte, Base64Padding, Index, Json, Length, Shape, Structure, TrailingBytes};
    let two =
        |second: &str| format!(r#"{{"data":[{{"index":0,"data":[{{"index":0,"embedding":"AQID"}},{second}]}}]}}"#);
    let cases = [
        (two(r#"{"index":0,"embedding":"AQID"}"#), (Index, Some(0), Some(0), "0,\"emb")),
        (two(r#"{"index":2,"embedding":"AQID"}"#), (Index, Some(0), Some(2), "2,\"emb")),
        (two(r#"{"index":-1,"embedding":"AQID"}"#), (Index, Some(0), Some(1), "-1,\"em")),
        (two(r#"{"index":0.5,"embedding":"AQID"}"#), (Index, Some(0), Some(1), "0.5,\"e")),
        (two(r#"{"index":1e30,"embedding":"AQID"}"#), (Index, Some(0), Some(1), "1e30,\"")),
        (two(r#"{"embedding":"AQID"}"#), (Index, Some(0), Some(1), "{\"embe")),
        (two(r#"{"index":1}"#), (Structure, Some(0), Some(1), "}]}]}")),
        (two(r#"{"index":1,"embedding":null}"#), (Structure, Some(0), Some(1), "}]}]}")),
        (two(r#"{"index":1,"embedding":[1]}"#), (Structure, Some(0), Some(1), "[1]}]}")),
        (two(r#"{"index":1,"index":1,"embedding":"AQID"}"#), (Structure, Some(0), Some(1), "\"index")),
        (two(r#"{"index":1,"embedding":"AQIDBA=="}"#), (Length, Some(0), Some(1), "BA==\"}")),
        (two(r#"{"index":1,"embedding":"AQ=="}"#), (Length, Some(0), Some(1), "\"}]}]}")),
        (two(r#"{"index":1,"embedding":"AQ-D"}"#), (Base64Byte, Some(0), Some(1), "-D\"}]}")),
        (two(r#"{"index":1,"embedding":"AQI"}"#), (Base64Padding, Some(0), Some(1), "\"}]}]}")),
        (two(r#"{"index":01,"embedding":"AQID"}"#), (Json, Some(0), Some(0), "1,\"emb")),
        (two("7"), (Structure, Some(0), None, "7]}]}")),
        (two("x"), (Json, Some(0), None, "x]}]}")),
        (r#"{"data":[]} ."#.to_owned(), (TrailingBytes, None, None, ".")),
        (r#"{"data":7}"#.to_owned(), (Structure, None, None, "7}")),
        ("{}".to_owned(), (Structure, None, None, "}")),
        ("[]".to_owned(), (Structure, None, None, "[]")),
        ("<html>".to_owned(), (Json, None, None, "<html>")),
    ];
    for (body, (kind, document, chunk, text)) in cases {
        assert_eq!(fault(&body, None), (kind, document, chunk, text.to_owned()), "{body}");
    }
    let body = two(r#"{"index":1,"embedding":"AQID"}"#);
    assert_eq!(fault(&body, Some(&[1])), (Index, Some(0), Some(1), "1,\"emb".into()));
    assert_eq!(fault(&body, Some(&[3])), (Shape, Some(0), None, "}]}".into()));
    let unnumbered = r#"{"data":[{"data":[{"embedding":"AQID"},{"embedding":"BAUG"}]}]}"#;
    assert_eq!(fault(unnumbered, Some(&[1])), (Shape, Some(0), Some(1), "BAUG\"}".into()));
    assert_eq!(fault(&body, Some(&[2, 1])), (Shape, None, None, "]}".into()));
}

#[test]
fn positions_are_the_indexes_where_no_sibling_has_one() {
    let body = r#"{"data":[{"data":[{"embedding":"AQID"},{"embedding":"BAUG"}]},{"data":[{"embedding":"BwgJ"}]}]}"#;
    let (decoded, bytes) = whole(Isa::codec(), body.as_bytes(), &expected(Some(&[2, 1]), None)).unwrap();
    assert_eq!((decoded.offsets, bytes), (vec![0, 2, 3], (1..=9).collect()));
    assert!(whole(Isa::codec(), body.as_bytes(), &expected(Some(&[1, 2]), None)).is_err());
}

#[test]
fn a_flat_list_gives_documents_of_one_chunk() {
    let body =
        r#"{"data":[{"index":2,"embedding":"BwgJ"},{"index":0,"embedding":"AQID"},{"index":1,"embedding":"BAUG"}]}"#;
    for isa in Isa::ALL {
        let (decoded, bytes) = whole(isa, body.as_bytes(), &expected(Some(&[1, 1, 1]), None)).unwrap();
        assert_eq!((decoded.offsets, bytes), (vec![0, 1, 2, 3], (1..=9).collect()));
    }
}

#[test]
fn a_small_body_never_makes_a_large_allocation() {
    let body = br#"{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}]}"#;
    assert!(most_rows(body, 1) * 4 <= body.len());
    assert_eq!(most_rows(body, usize::MAX), 0);
}

/// A document's chunks by index.
type Chunks = Vec<(usize, Vec<u8>)>;

/// Offsets and rows of the body, by parsing all of it.
fn reference(body: &str, row_bytes: usize) -> Option<(Vec<i64>, Vec<u8>)> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    let mut documents: Vec<(usize, Chunks)> = Vec::new();
    for (i, document) in value.get("data")?.as_array()?.iter().enumerate() {
        let mut chunks = Vec::new();
        for (j, chunk) in document.get("data")?.as_array()?.iter().enumerate() {
            let index = chunk.get("index").map_or(j as f64, |v| v.as_f64().unwrap_or(-1.0));
            let bytes = STANDARD.decode(chunk.get("embedding")?.as_str()?).ok()?;
            (bytes.len() == row_bytes).then_some(())?;
            chunks.push((index as usize, bytes));
        }
        let index = document.get("index").map_or(i as f64, |v| v.as_f64().unwrap_or(-1.0));
        chunks.sort();
        documents.push((index as usize, chunks));
    }
    documents.sort();
    let mut offsets = vec![0];
    let mut rows = Vec::new();
    for (_, chunks) in documents {
        rows.extend(chunks.iter().flat_map(|(_, bytes)| bytes.clone()));
        offsets.push(offsets[offsets.len() - 1] + chunks.len() as i64);
    }
    Some((offsets, rows))
}

/// One member of an object in one of its valid spellings.
fn member(key: &str, value: &str, style: u8) -> String {
    let key =
        if style & 1 == 0 { format!("\"{key}\"") } else { format!("\"\\u{:04x}{}\"", key.as_bytes()[0], &key[1..]) };
    let space = ["", " ", "\n\t", " \r\n"][(style >> 1 & 3) as usize];
    format!("{key}{space}:{space}{value}")
}

/// A body in one of the many valid spellings of a response, chosen by `seed`.
fn some_spelling(shape: &[usize], row_bytes: usize, seed: u64) -> String {
    let mut random = seed | 1;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let shuffled = |n: usize, next: &mut dyn FnMut(usize) -> usize| {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, next(i + 1));
        }
        order
    };
    let mut documents = Vec::new();
    for d in shuffled(shape.len(), &mut next) {
        let mut chunks = Vec::new();
        for c in shuffled(shape[d], &mut next) {
            let mut text = STANDARD.encode(vector(d, c, row_bytes));
            if next(3) == 0 {
                text = text.replace('/', "\\/").replace('A', "\\u0041");
            }
            let index = [format!("{c}"), format!("{c}.0"), format!("{c}e0"), format!("{}E-1", c * 10)][next(4)].clone();
            let mut members = vec![
                member("index", &index, next(8) as u8),
                member("embedding", &format!("\"{text}\""), next(8) as u8),
                member("extra", r#"[{"a":[null,true,-1.5e3,"\"é😀"]}]"#, next(8) as u8),
            ];
            members.truncate(2 + next(2));
            let turn = next(members.len());
            members.rotate_left(turn);
            chunks.push(format!("{{{}}}", members.join(",")));
        }
        let mut members =
            [member("index", &d.to_string(), next(8) as u8), member("data", &format!("[{}]", chunks.join(" , ")), 0)];
        let turn = next(2);
        members.rotate_left(turn);
        documents.push(format!("{{{}}}", members.join(",")));
    }
    format!("{{{}}}", member("data", &format!("[{}]", documents.join(",")), next(8) as u8))
}

#[test]
fn documents_of_few_short_chunks_decode_in_any_spelling() {
    // Found by the property below.
    let body = some_spelling(&[1, 1, 3], 1, 13_139_524_035_610_885_952);
    let rows = reference(&body, 1).expect("the body is valid");
    let (decoded, bytes) =
        whole(Isa::codec(), body.as_bytes(), &expected(Some(&[1, 1, 3]), Some(1))).expect("it decodes");
    assert_eq!((decoded.offsets, bytes), rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_valid_spelling_decodes_as_the_reference_on_every_path_and_split(
        shape in proptest::collection::vec(1..5_usize, 1..6),
        row_bytes in 1..70_usize,
        seed in any::<u64>(),
        splits in proptest::collection::vec(0..4000_usize, 0..6),
    ) {
        let body = some_spelling(&shape, row_bytes, seed);
        let expected_rows = reference(&body, row_bytes).expect("the body is valid");
        let known = expected(Some(&shape), Some(row_bytes));
        for isa in Isa::ALL {
            let (decoded, bytes) = whole(isa, body.as_bytes(), &known).map_err(|e| TestCaseError::fail(format!("{e}: {body}")))?;
            prop_assert_eq!(&(decoded.offsets, bytes), &expected_rows);
        }
        let mut splits = splits;
        splits.sort_unstable();
        let (decoded, bytes) = in_parts(Isa::codec(), body.as_bytes(), &known, &splits).unwrap();
        prop_assert_eq!((decoded.offsets, bytes), expected_rows);
    }

    #[test]
    fn a_changed_byte_gives_the_same_result_on_every_path_and_split(position in 0..600_usize, byte in any::<u8>(), split in 0..600_usize) {
        let mut body = spelled(&[2, 3], 50, &[1, 0], false).into_bytes();
        let position = position % body.len();
        body[position] = byte;
        let known = expected(Some(&[2, 3]), Some(50));
        let scalar = whole(Isa::Scalar, &body, &known);
        for isa in Isa::ALL {
            prop_assert_eq!(&whole(isa, &body, &known), &scalar);
            prop_assert_eq!(&in_parts(isa, &body, &known, &[split]), &scalar);
        }
    }
}
