//! Any bytes as base64: every path gives the `base64` crate's value and the scalar path's error; encoding is the inverse.
#![no_main]

use std::mem::MaybeUninit;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use ctxembed::codec::base64::{decode_exact, decoded_len, encode_into};
use ctxembed::error::DecodeError;
use ctxembed::isa::Isa;
use libfuzzer_sys::fuzz_target;

fn decode(isa: Isa, text: &[u8], expected: usize) -> Result<Vec<u8>, DecodeError> {
    let mut memory = vec![MaybeUninit::new(0xA5); expected];
    decode_exact(isa, text, &mut memory)?;
    // SAFETY: every byte was initialised above.
    Ok(memory.into_iter().map(|byte| unsafe { byte.assume_init() }).collect())
}

fuzz_target!(|input: (i8, &[u8])| {
    let (skew, text) = input;
    let expected = decoded_len(text).saturating_add_signed(isize::from(skew.signum()));
    let reference = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == expected);
    let result = decode(Isa::Scalar, text, expected);
    assert_eq!(result.clone().ok(), reference);
    for isa in Isa::ALL {
        assert_eq!(decode(isa, text, expected), result, "{isa:?}");
    }
    if let Err(error) = &result {
        assert!(error.offset <= text.len());
    }
    // Any bytes also have a spelling.
    for isa in Isa::ALL {
        let mut spelled = Vec::new();
        encode_into(isa, text, &mut spelled);
        assert_eq!(spelled, STANDARD.encode(text).into_bytes(), "{isa:?}");
        assert_eq!(decode(isa, &spelled, text.len()).as_deref(), Ok(text), "{isa:?}");
    }
});
