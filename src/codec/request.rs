//! Documents of chunks to the JSON of a request body, in one pass.

/// A word of eight bytes with 1 in each, and with the high bit in each.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Bytes that are looked at together while none needs an escape.
const BLOCK: usize = 64;

/// Words that are looked at one by one after an escape.
const NEAR: usize = 8;

/// Whether JSON (RFC 8259, section 7) asks for an escape. All such bytes are ASCII, so UTF-8 can be read by bytes.
#[expect(clippy::needless_bitwise_bool, reason = "without a branch the compiler makes registers of many")]
fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The position of the first byte of a word, in memory order, that needs an escape.
fn escape_in(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    // A quote is 0x22, a backslash 0x5C. Found: the high bit of each byte that is zero after the exclusive or, or below
    // 0x20. A borrow can only spoil bytes above the first one found, and bytes with a high bit of their own are none.
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5C);
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

/// Bytes that the escapes of `text` add to it.
#[expect(clippy::needless_bitwise_bool, reason = "without a branch the compiler makes registers of many")]
fn escapes(text: &str) -> usize {
    // So many at a time that a byte holds their sum: registers of such sums.
    let sums = text.as_bytes().chunks(51).map(|bytes| {
        bytes.iter().fold(0_u8, |sum, &byte| {
            let short = (byte == b'"') | (byte == b'\\') | ((8..=13).contains(&byte) & (byte != 11));
            let long = (byte < 0x20) & !short;
            sum + u8::from(short) + 5 * u8::from(long)
        })
    });
    sums.map(usize::from).sum()
}

/// Memory that is written from its start to its end.
struct Writer<'a> {
    memory: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.memory[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Write `text` as a JSON string, quotes included.
    fn string(&mut self, text: &str) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = text.as_bytes();
        self.push(b"\"");
        let mut written = 0;
        while let Some(at) = next_escape(bytes, written) {
            self.push(&bytes[written..at]);
            match bytes[at] {
                b'\n' => self.push(b"\\n"),
                b'\t' => self.push(b"\\t"),
                b'\r' => self.push(b"\\r"),
                0x08 => self.push(b"\\b"),
                0x0C => self.push(b"\\f"),
                byte @ (b'"' | b'\\') => self.push(&[b'\\', byte]),
                byte => {
                    let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                    self.push(&[b'\\', b'u', b'0', b'0', digits[0], digits[1]]);
                }
            }
            written = at + 1;
        }
        self.push(&bytes[written..]);
        self.push(b"\"");
    }

    /// Write what `write` does for each of `items`, between brackets and with commas between.
    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.push(b"[");
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(b",");
            }
            write(self, item);
        }
        self.push(b"]");
    }
}

/// A request's body: `{"input":[["..."],...],<rest>`, compact, in UTF-8, escaped where JSON asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// The chunks of all documents in order.
    pub texts: &'a [&'a str],
    /// How many each document has; without it the input is a flat list of texts.
    pub counts: Option<&'a [usize]>,
    /// What follows the input and a comma, the closing brace included.
    pub rest: &'a [u8],
}

const START: &[u8] = b"{\"input\":";

impl Body<'_> {
    /// Its bytes, exactly.
    pub fn size(&self) -> usize {
        let texts: usize = self.texts.iter().map(|text| text.len() + escapes(text) + 2).sum();
        let lists = match self.counts {
            None => 2 + self.texts.len().saturating_sub(1),
            Some(counts) => {
                let within: usize = counts.iter().map(|&count| 2 + count.saturating_sub(1)).sum();
                2 + counts.len().saturating_sub(1) + within
            }
        };
        START.len() + texts + lists + 1 + self.rest.len()
    }

    /// Write it to `memory` of [`size`](Self::size).
    pub fn write(&self, memory: &mut [u8]) {
        let mut writer = Writer { memory, at: 0 };
        writer.push(START);
        let mut texts = self.texts.iter();
        match self.counts {
            None => writer.list(texts, |writer, text| writer.string(text)),
            Some(counts) => writer.list(counts, |writer, &count| {
                writer.list(texts.by_ref().take(count), |writer, text| writer.string(text));
            }),
        }
        writer.push(b",");
        writer.push(self.rest);
    }
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
        fn encode(texts: &[&str], counts: Option<&[usize]>, rest: &[u8]) -> Vec<u8> {
            let body = Body { texts, counts, rest };
            let mut memory = vec![0; body.size()];
            body.write(&mut memory);
            memory
        }
        let rest = b"\"model\":\"m\"}";
        assert_eq!(
            encode(&["a\"b", "c\\", "\u{1}\n"], Some(&[2, 1]), rest),
            br#"{"input":[["a\"b","c\\"],["\u0001\n"]],"model":"m"}"#
        );
        assert_eq!(encode(&["é", ""], None, rest), "{\"input\":[\"é\",\"\"],\"model\":\"m\"}".as_bytes());
        assert_eq!(encode(&[], Some(&[0]), b"}"), b"{\"input\":[[]],}");
    }
}
