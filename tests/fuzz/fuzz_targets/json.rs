//! Any bytes as JSON: the validator gives `serde_json`'s verdict, but for nesting, which each limits at its own depth.
#![no_main]

use ctxembed::codec::json::{MAX_DEPTH, validate};
use ctxembed::error::{DecodeKind, Error};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let verdict = validate(body);
    if let Err(Error::Decode(error)) = &verdict {
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
    assert_eq!(verdict.is_ok(), reference, "{verdict:?}");
});
