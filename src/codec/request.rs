//! Documents of chunks to the JSON of a request body, in one pass.

/// A word of eight bytes with 1 in each, and with the high bit in each.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Bytes that are looked at together while none needs an escape.
const BLOCK: usize = 64;

/// Words that are looked at one by one after an escape.
const NEAR: usize = 8;

/// How much longer than its texts a body is made room for at first: one byte in so many is escaped in real text.
const ESCAPED: usize = 16;

/// Whether JSON (RFC 8259, section 7) asks for an escape. All such bytes are ASCII, so UTF-8 can be read by bytes.
fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The position of the first byte of a word, in memory order, that needs an escape.
fn escape_in(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    // The high bit of each byte that is zero after the exclusive or, or below 0x20. A borrow can only spoil bytes above
    // the first one found, and bytes with a high bit of their own are none.
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found = (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    (found & HIGH != 0).then(|| (found & HIGH).trailing_zeros() as usize / 8)
}

/// The position of the first byte from `from` on that needs an escape.
fn next_escape(bytes: &[u8], mut from: usize) -> Option<usize> {
    // Where there is one escape the next is seldom far: blocks come after some words without one.
    let mut words = 0;
    loop {
        while words < NEAR
            && let Some(Ok(word)) = bytes.get(from..from + 8).map(<[u8; 8]>::try_from)
        {
            if let Some(at) = escape_in(word) {
                return Some(from + at);
            }
            from += 8;
            words += 1;
        }
        // A block's verdict has no branch in it, so that the compiler makes registers of it.
        while let Some(block) = bytes.get(from..from + BLOCK)
            && !block.iter().fold(false, |found, &byte| found | needs_escape(byte))
        {
            from += BLOCK;
        }
        if bytes.len() - from < 8 {
            return bytes[from..].iter().position(|&byte| needs_escape(byte)).map(|at| from + at);
        }
        words = NEAR.saturating_sub(BLOCK / 8);
    }
}

/// Write `text` as a JSON string, quotes included.
fn push_string(body: &mut Vec<u8>, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    body.push(b'"');
    let mut written = 0;
    while let Some(at) = next_escape(bytes, written) {
        body.extend_from_slice(&bytes[written..at]);
        match bytes[at] {
            b'\n' => body.extend_from_slice(b"\\n"),
            b'\t' => body.extend_from_slice(b"\\t"),
            b'\r' => body.extend_from_slice(b"\\r"),
            0x08 => body.extend_from_slice(b"\\b"),
            0x0C => body.extend_from_slice(b"\\f"),
            byte @ (b'"' | b'\\') => body.extend_from_slice(&[b'\\', byte]),
            byte => {
                let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                body.extend_from_slice(&[b'\\', b'u', b'0', b'0', digits[0], digits[1]]);
            }
        }
        written = at + 1;
    }
    body.extend_from_slice(&bytes[written..]);
    body.push(b'"');
}

/// Write what each of `items` writes, between brackets and with commas between.
fn push_list<T>(body: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut push: impl FnMut(&mut Vec<u8>, T)) {
    body.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        push(body, item);
    }
    body.push(b']');
}

/// The body of a request: `{"input":[["..."],...],<rest>`, compact, in UTF-8, escaped where JSON asks for it.
///
/// `texts` are the chunks of all documents in order, `counts` how many each document has; without `counts` the input is
/// a flat list of texts. `rest` is what follows the input, the closing brace included.
pub fn encode(texts: &[&str], counts: Option<&[usize]>, rest: &[u8]) -> Vec<u8> {
    let size: usize = texts.iter().map(|text| text.len() + text.len() / ESCAPED + 3).sum();
    let mut body = Vec::with_capacity(size + rest.len() + 3 * counts.map_or(0, <[usize]>::len) + 16);
    body.extend_from_slice(b"{\"input\":");
    let mut texts = texts.iter();
    match counts {
        None => push_list(&mut body, texts, |body, text| push_string(body, text)),
        Some(counts) => push_list(&mut body, counts, |body, &count| {
            push_list(body, texts.by_ref().take(count), |body, text| push_string(body, text));
        }),
    }
    body.push(b',');
    body.extend_from_slice(rest);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_is_found_wherever_it_stands() {
        for byte in 0..=0x7F_u8 {
            for length in [1, 7, 8, 9, 63, 64, 65, 71, 72, 130] {
                for at in 0..length {
                    for other in [b'a', 0x7F, b' ', b'!', b'#', b'[', b']'] {
                        let mut bytes = vec![other; length];
                        bytes[at] = byte;
                        let expected = needs_escape(byte).then_some(at);
                        assert_eq!(next_escape(&bytes, 0), expected, "{byte:#04x} at {at} of {length}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_several_is_found() {
        let bytes = b"abc\"\\\n\x01\"defgh\\".repeat(9);
        let mut from = 0;
        while let Some(at) = next_escape(&bytes, from) {
            assert!(bytes[from..at].iter().all(|&byte| !needs_escape(byte)));
            assert!(needs_escape(bytes[at]));
            from = at + 1;
        }
        assert!(bytes[from..].iter().all(|&byte| !needs_escape(byte)));
    }

    #[test]
    fn a_body_has_its_documents_and_the_rest() {
        let rest = b"\"model\":\"m\"}";
        assert_eq!(
            encode(&["a\"b", "c\\", "\u{1}\n"], Some(&[2, 1]), rest),
            br#"{"input":[["a\"b","c\\"],["\u0001\n"]],"model":"m"}"#
        );
        assert_eq!(encode(&["é", ""], None, rest), "{\"input\":[\"é\",\"\"],\"model\":\"m\"}".as_bytes());
        assert_eq!(encode(&[], Some(&[0]), b"}"), b"{\"input\":[[]],}");
    }
}
