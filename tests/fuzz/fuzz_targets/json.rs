//! Any bytes as JSON: the validator agrees with `serde_json`, except on nesting, which each limits at its own depth.
#![no_main]

use ctxembed::codec::json::{MAX_DEPTH, validate};
use ctxembed::error::{DecodeKind, Error};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let result = validate(body);
    if let Err(Error::Decode(error)) = &result {
        assert!(error.offset <= body.len());
        if error.kind == DecodeKind::TooDeep {
            let open = body[..error.offset].iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
            assert!(open >= MAX_DEPTH);
            return;
        }
    }
    // A &str is checked as a whole before parsing, as the validator checks each string; bytes outside strings that
    // are not ASCII are refused by both.
    let reference = std::str::from_utf8(body)
        .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    assert_eq!(result.is_ok(), reference, "{result:?}");
});
