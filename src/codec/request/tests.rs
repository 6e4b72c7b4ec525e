use super::*;

/// Encode into memory with other contents, and with guard bytes around it.
fn encode(isa: Isa, texts: &[&str], counts: Option<&[usize]>, rest: &[u8]) -> Vec<u8> {
    const GUARD: usize = 64;
    let body = Body { texts, counts, rest };
    let size = body.size(&body.measure(isa).expect("memory"));
    let mut memory = vec![MaybeUninit::new(0xA5_u8); size + 2 * GUARD];
    body.write(isa, &mut memory[GUARD..GUARD + size]);
    #[expect(unsafe_code, reason = "every byte is initialised above")]
    // SAFETY: the vector was made of initialised bytes.
    let bytes: Vec<u8> = memory.iter().map(|byte| unsafe { byte.assume_init() }).collect();
    assert!(bytes[..GUARD].iter().chain(&bytes[GUARD + size..]).all(|&byte| byte == 0xA5), "{isa:?}");
    bytes[GUARD..GUARD + size].to_vec()
}

/// A flat list by `serde_json`.
fn expected(texts: &[&str]) -> Vec<u8> {
    let mut body = b"{\"input\":".to_vec();
    body.extend(serde_json::to_vec(texts).expect("texts"));
    body.extend(b",}");
    body
}

#[test]
fn every_byte_is_escaped_as_serde_json_escapes_it_at_every_position() {
    for isa in Isa::ALL {
        for byte in 0..=0x7F_u8 {
            for length in [1, 7, 31, 32, 33, 63, 64, 65, 127, 128, 130] {
                for at in [0, 1, 30, 31, 32, 33, 62, 63, 64, 65, 126, 127, 128, 129] {
                    for other in [b'a', 0x7F, b'!', b'[', b'"', b'\\', 0x1F] {
                        if at < length {
                            let mut text = vec![other; length];
                            text[at] = byte;
                            let text = String::from_utf8(text).expect("ASCII");
                            assert_eq!(encode(isa, &[&text], None, b"}"), expected(&[&text]), "{isa:?} {text:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn texts_measure_the_same_on_every_path() {
    let long = "ä".repeat(70) + "<";
    for text in ["", "a", "a<b", "é", "\n\u{1}\"", &"x".repeat(64), &"x".repeat(200), &long, &long[..138]] {
        for isa in Isa::ALL {
            let body = Body { texts: &[text], counts: None, rest: b"}" };
            let measured = body.measure(isa).expect("memory")[0];
            assert_eq!(measured.less_than, text.contains('<'), "{isa:?} {text:?}");
            assert_eq!(measured.ascii, text.is_ascii(), "{isa:?} {text:?}");
            assert_eq!(measured.size, serde_json::to_vec(text).expect("a text").len(), "{isa:?} {text:?}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_texts_are_encoded_as_serde_json_encodes_them(texts: Vec<String>, plain in "[ -~\n]{0,300}") {
        let texts: Vec<&str> = texts.iter().map(String::as_str).chain([plain.as_str()]).collect();
        for isa in Isa::ALL {
            proptest::prop_assert_eq!(encode(isa, &texts, None, b"}"), expected(&texts), "{:?}", isa);
        }
    }
}

#[test]
fn a_body_has_the_documents_and_the_rest() {
    let rest = b"\"model\":\"m\"}";
    assert_eq!(
        encode(Isa::codec(), &["a\"b", "c\\", "\u{1}\n"], Some(&[2, 1]), rest),
        br#"{"input":[["a\"b","c\\"],["\u0001\n"]],"model":"m"}"#
    );
    assert_eq!(encode(Isa::codec(), &["é", ""], None, rest), "{\"input\":[\"é\",\"\"],\"model\":\"m\"}".as_bytes());
    assert_eq!(encode(Isa::codec(), &[], Some(&[0]), b"}"), b"{\"input\":[[]],}");
}
