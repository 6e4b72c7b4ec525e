//! A resumable reader of JSON (RFC 8259), over a window of bytes that more may follow.
//!
//! Every function takes the window and a position, advances the position past what it has read, and stops with
//! [`Stop::More`] where the window ends first. Nothing recurses: nesting is a stack of bits.

use crate::error::{DecodeError, DecodeKind, Error};

/// Arrays and objects that may be open at once.
pub const MAX_DEPTH: usize = 64;

/// Why a function stopped without a result.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The window ends here; call again with more.
    More,
    /// The input is wrong.
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Error(Error::Decode(error))
    }
}

/// Part of a body.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) bytes: &'a [u8],
    /// Offset of `bytes[0]` in the whole body.
    pub(crate) base: usize,
    /// Whether the body ends with this window.
    pub(crate) last: bool,
}

impl Window<'_> {
    /// An error at a position of the window.
    pub(crate) fn error(&self, kind: DecodeKind, pos: usize, message: impl Into<String>) -> Stop {
        DecodeError::new(kind, self.base + pos, message).into()
    }

    /// The window ended: wait for more, or report a body that ends too early.
    pub(crate) fn ended(&self) -> Stop {
        if self.last {
            self.error(DecodeKind::Truncated, self.bytes.len(), "the body ends before the JSON value does")
        } else {
            Stop::More
        }
    }

    /// The error for a byte at `pos` that the grammar does not allow.
    pub(crate) fn unexpected(&self, pos: usize, expected: &str) -> Stop {
        let byte = self.bytes[pos];
        self.error(
            DecodeKind::Json,
            pos,
            format!("expected {expected}, found byte {byte:#04x} ({})", byte.escape_ascii()),
        )
    }

    /// Skip white space and return the byte at the new position.
    #[inline]
    pub(crate) fn peek(&self, pos: &mut usize) -> Result<u8, Stop> {
        loop {
            match self.bytes.get(*pos) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => *pos += 1,
                Some(&byte) => return Ok(byte),
                None => return Err(self.ended()),
            }
        }
    }

    /// Read `true`, `false` or `null`, whose first letter is at `pos`.
    fn literal(&self, pos: &mut usize, word: &'static str) -> Result<(), Stop> {
        for (i, expected) in word.bytes().enumerate() {
            match self.bytes.get(*pos + i) {
                Some(&byte) if byte == expected => {}
                Some(_) => return Err(self.unexpected(*pos + i, word)),
                None => return Err(self.ended()),
            }
        }
        *pos += word.len();
        Ok(())
    }

    /// Read `null` if the value at `pos` starts like it.
    pub(crate) fn null(&self, pos: &mut usize) -> Result<bool, Stop> {
        if self.bytes.get(*pos) != Some(&b'n') {
            return Ok(false);
        }
        self.literal(pos, "null").map(|()| true)
    }

    /// Read the rest of a string, closing quote included; `pos` is inside it. Where the window ends first, `pos` is left
    /// at a byte to go on from.
    pub(crate) fn string_rest(&self, pos: &mut usize) -> Result<(), Stop> {
        loop {
            let run = plain_run(&self.bytes[*pos..]);
            let text = &self.bytes[*pos..*pos + run];
            if let Err(fault) = std::str::from_utf8(text) {
                *pos += fault.valid_up_to();
                let cut = fault.error_len().is_none() && *pos + text.len() - fault.valid_up_to() == self.bytes.len();
                return Err(if cut { self.ended() } else { self.error(DecodeKind::Json, *pos, "invalid UTF-8") });
            }
            *pos += run;
            match self.bytes.get(*pos) {
                None => return Err(self.ended()),
                Some(b'"') => {
                    *pos += 1;
                    return Ok(());
                }
                Some(b'\\') => *pos += self.escape(*pos)?.1,
                Some(byte) => {
                    let message = format!("control character {byte:#04x} in a string");
                    return Err(self.error(DecodeKind::Json, *pos, message));
                }
            }
        }
    }

    /// The UTF-16 unit of the escape whose backslash is at `pos`, and its length in bytes.
    pub(crate) fn escape(&self, pos: usize) -> Result<(u16, usize), Stop> {
        let unit = match self.bytes.get(pos + 1) {
            None => return Err(self.ended()),
            Some(b'b') => 8,
            Some(b't') => 9,
            Some(b'n') => 10,
            Some(b'f') => 12,
            Some(b'r') => 13,
            Some(&byte @ (b'"' | b'\\' | b'/')) => u16::from(byte),
            Some(b'u') => {
                let mut unit = 0;
                for i in pos + 2..pos + 6 {
                    let Some(&byte) = self.bytes.get(i) else { return Err(self.ended()) };
                    let Some(digit) = (byte as char).to_digit(16) else {
                        return Err(self.unexpected(i, "a hexadecimal digit"));
                    };
                    unit = unit << 4 | digit as u16;
                }
                return Ok((unit, 6));
            }
            Some(_) => return Err(self.unexpected(pos + 1, "an escape")),
        };
        Ok((unit, 2))
    }

    /// The whole string whose opening quote is at `pos`, of at most `limit` bytes as spelled.
    pub(crate) fn string(&self, pos: &mut usize, limit: usize, what: &str) -> Result<String, Stop> {
        let start = *pos + 1;
        let mut end = start;
        // Reading no further than the limit gives the same result for every split of the body.
        let reach = Self { bytes: &self.bytes[..self.bytes.len().min(start + limit)], ..*self };
        let cut = reach.bytes.len() < self.bytes.len() || reach.bytes.len() == start + limit;
        match (Self { last: self.last && !cut, ..reach }).string_rest(&mut end) {
            Err(Stop::More) if cut => {
                let message = format!("{what} is longer than {limit} bytes");
                return Err(self.error(DecodeKind::Structure, *pos, message));
            }
            other => other?,
        }
        let text = self.unescaped(start, end - 1)?;
        *pos = end;
        Ok(text)
    }

    /// The text between two positions of a string that [`Window::string_rest`] has accepted.
    fn unescaped(&self, start: usize, end: usize) -> Result<String, Stop> {
        let raw = &self.bytes[start..end];
        if !raw.contains(&b'\\') {
            return Ok(String::from_utf8_lossy(raw).into_owned());
        }
        let mut units = Vec::new();
        let mut text = String::new();
        let mut pos = start;
        while pos < end {
            if self.bytes[pos] == b'\\' {
                let (unit, length) = self.escape(pos)?;
                units.push(unit);
                pos += length;
                if pos < end && self.bytes[pos] == b'\\' {
                    continue;
                }
            } else {
                let run = self.bytes[pos..end].iter().take_while(|&&byte| byte != b'\\').count();
                text.push_str(&String::from_utf8_lossy(&self.bytes[pos..pos + run]));
                pos += run;
            }
            for unit in char::decode_utf16(units.drain(..)) {
                match unit {
                    Ok(letter) => text.push(letter),
                    Err(_) => return Err(self.error(DecodeKind::Json, start, "lone surrogate in a string")),
                }
            }
        }
        Ok(text)
    }

    /// The whole number at `pos`, of at most `limit` bytes.
    pub(crate) fn number(&self, pos: &mut usize, limit: usize, what: &str) -> Result<&str, Stop> {
        let start = *pos;
        let mut state = Number::Start;
        for (length, &byte) in self.bytes[start..].iter().enumerate() {
            if length > limit {
                let message = format!("{what} is longer than {limit} bytes");
                return Err(self.error(DecodeKind::Structure, start, message));
            }
            match state.step(byte) {
                Some(next) => state = next,
                None if state.may_end() => {
                    *pos = start + length;
                    return Ok(std::str::from_utf8(&self.bytes[start..*pos]).unwrap_or_default());
                }
                None if length == 0 => {
                    let message = format!("{what} is not a number");
                    return Err(self.error(DecodeKind::Structure, start, message));
                }
                None => return Err(self.unexpected(start + length, "a digit")),
            }
        }
        // Every number read here is inside an object, so the body cannot end with it.
        Err(self.ended())
    }
}

/// How many bytes from the start are neither quote, backslash nor control character.
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    #[expect(clippy::needless_bitwise_bool, reason = "the compiler vectorises it without a branch")]
    let special = |byte: u8| (byte == b'"') | (byte == b'\\') | (byte < 0x20);
    let mut run = 0;
    // No early exit inside a block, so that the compiler compares a register at a time.
    while let Some(block) = bytes[run..].first_chunk::<BLOCK>() {
        if block.iter().fold(0, |any, &byte| any | u8::from(special(byte))) != 0 {
            break;
        }
        run += BLOCK;
    }
    run + bytes[run..].iter().take_while(|&&byte| !special(byte)).count()
}

/// The state of reading a number (RFC 8259, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Start,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// The state after `byte`, or None where it does not belong to the number.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::Zero,
            (Self::Start | Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    /// Whether a number may end here.
    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent)
    }
}

/// The value of a JSON number where it is an integer of at most 18 digits, however it is spelled.
pub(crate) fn integer(number: &str) -> Option<i64> {
    if number.len() <= 18 && number.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.parse().ok(); // the usual spelling
    }
    let (negative, rest) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let significant = kept.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // An exponent that is too long for i64 is beyond every integer of 18 digits, or below 1.
    let zeros = exponent.parse::<i64>().ok()?.checked_add((digits.len() - kept.len()) as i64)?;
    let zeros = usize::try_from(zeros.checked_sub(fraction.len() as i64)?).ok()?;
    if significant.len().checked_add(zeros)? > 18 {
        return None;
    }
    let value = significant.parse::<i64>().ok()? * 10_i64.pow(zeros as u32);
    Some(if negative { -value } else { value })
}

/// Checks one value of any kind without keeping it.
#[derive(Debug)]
pub(crate) struct Skipper {
    /// One bit an open array (0) or object (1), the innermost lowest.
    kinds: u64,
    depth: usize,
    /// Arrays and objects that are open around the value.
    outer: usize,
    state: Skip,
}

#[derive(Clone, Copy, Debug)]
enum Skip {
    Value,
    ItemOrEnd,
    KeyOrEnd,
    Key,
    InKey,
    Colon,
    InString,
    InNumber(Number),
    AfterValue,
}

impl Skipper {
    /// A skipper of a value inside `outer` arrays and objects.
    pub(crate) fn new(outer: usize) -> Self {
        Self { kinds: 0, depth: 0, outer, state: Skip::Value }
    }

    fn open(&mut self, window: &Window<'_>, pos: &mut usize, object: bool) -> Result<(), Stop> {
        if self.outer + self.depth >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} arrays and objects");
            return Err(window.error(DecodeKind::TooDeep, *pos, message));
        }
        self.kinds = self.kinds << 1 | u64::from(object);
        self.depth += 1;
        self.state = if object { Skip::KeyOrEnd } else { Skip::ItemOrEnd };
        *pos += 1;
        Ok(())
    }

    fn close(&mut self, pos: &mut usize) {
        self.kinds >>= 1;
        self.depth -= 1;
        self.state = Skip::AfterValue;
        *pos += 1;
    }

    /// Go on; `Ok` when the value is complete.
    pub(crate) fn run(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        loop {
            match self.state {
                Skip::InString | Skip::InKey => {
                    window.string_rest(pos)?;
                    self.state = if matches!(self.state, Skip::InKey) { Skip::Colon } else { Skip::AfterValue };
                    continue;
                }
                Skip::InNumber(state) => {
                    self.number(state, window, pos)?;
                    continue;
                }
                Skip::AfterValue if self.depth == 0 => return Ok(()),
                _ => {}
            }
            let byte = window.peek(pos)?;
            let object = self.kinds & 1 == 1;
            match (self.state, byte) {
                (Skip::ItemOrEnd, b']') | (Skip::KeyOrEnd, b'}') => self.close(pos),
                (Skip::Value | Skip::ItemOrEnd, _) => self.value(byte, window, pos)?,
                (Skip::KeyOrEnd | Skip::Key, b'"') => {
                    self.state = Skip::InKey;
                    *pos += 1;
                }
                (Skip::KeyOrEnd, _) => return Err(window.unexpected(*pos, "a key or '}'")),
                (Skip::Key, _) => return Err(window.unexpected(*pos, "a key")),
                (Skip::Colon, b':') => {
                    self.state = Skip::Value;
                    *pos += 1;
                }
                (Skip::Colon, _) => return Err(window.unexpected(*pos, "':'")),
                (Skip::AfterValue, b',') => {
                    self.state = if object { Skip::Key } else { Skip::Value };
                    *pos += 1;
                }
                (Skip::AfterValue, b'}') if object => self.close(pos),
                (Skip::AfterValue, b']') if !object => self.close(pos),
                (Skip::AfterValue, _) => {
                    return Err(window.unexpected(*pos, if object { "',' or '}'" } else { "',' or ']'" }));
                }
                // Handled above, before white space was skipped.
                (Skip::InString | Skip::InKey | Skip::InNumber(_), _) => {}
            }
        }
    }

    fn value(&mut self, byte: u8, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let word = match byte {
            b'{' | b'[' => return self.open(window, pos, byte == b'{'),
            b'"' => {
                self.state = Skip::InString;
                *pos += 1;
                return Ok(());
            }
            b'-' | b'0'..=b'9' => {
                self.state = Skip::InNumber(Number::Start);
                return Ok(());
            }
            b't' => "true",
            b'f' => "false",
            b'n' => "null",
            _ => return Err(window.unexpected(*pos, "a value")),
        };
        window.literal(pos, word)?;
        self.state = Skip::AfterValue;
        Ok(())
    }

    fn number(&mut self, mut state: Number, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        while let Some(&byte) = window.bytes.get(*pos) {
            match state.step(byte) {
                Some(next) => state = next,
                None if state.may_end() => {
                    self.state = Skip::AfterValue;
                    return Ok(());
                }
                None => return Err(window.unexpected(*pos, "a digit")),
            }
            *pos += 1;
        }
        if window.last && state.may_end() {
            self.state = Skip::AfterValue;
            return Ok(());
        }
        self.state = Skip::InNumber(state);
        Err(window.ended())
    }
}

/// Whether `body` is one JSON value and nothing else.
pub fn validate(body: &[u8]) -> Result<(), Error> {
    let window = Window { bytes: body, base: 0, last: true };
    let mut pos = 0;
    let result = Skipper::new(0).run(&window, &mut pos).and_then(|()| trailing(&window, &mut pos));
    match result {
        Ok(()) => Ok(()),
        Err(Stop::Error(error)) => Err(error),
        // Not reached: a last window never asks for more.
        Err(Stop::More) => Err(DecodeError::new(DecodeKind::Truncated, body.len(), "the body ends early").into()),
    }
}

/// Check that only white space follows from `pos` on.
pub(crate) fn trailing(window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
    while let Some(byte) = window.bytes.get(*pos) {
        if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return Err(window.error(DecodeKind::TrailingBytes, *pos, "bytes follow the JSON value"));
        }
        *pos += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_read_from_every_spelling() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("1e0", Some(1)),
            ("10E-1", Some(1)),
            ("0.12e2", Some(12)),
            ("120", Some(120)),
            ("0e999999999999999999999", Some(0)),
            ("-3", Some(-3)),
            ("1.5", None),
            ("1e-1", None),
            ("1e18", None),
            ("1e999999999999999999999", None),
            ("123456789012345678", Some(123_456_789_012_345_678)),
            ("1234567890123456789", None),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }

    #[test]
    fn nesting_is_limited_and_not_recursive() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(validate(&deep(MAX_DEPTH)).is_ok());
        for n in [MAX_DEPTH + 1, 1_000_000] {
            let Err(Error::Decode(error)) = validate(&deep(n)) else { panic!("accepted") };
            assert_eq!((error.kind, error.offset), (DecodeKind::TooDeep, MAX_DEPTH));
        }
    }

    /// Validate a body that arrives in two parts.
    fn validate_split(body: &[u8], split: usize) -> Result<(), DecodeError> {
        let mut skipper = Skipper::new(0);
        let (mut pos, mut done) = (0, false);
        for (end, last) in [(split, false), (body.len(), true)] {
            let base = pos;
            let window = Window { bytes: &body[base..end], base, last };
            let mut at = 0;
            let result = if done { Ok(()) } else { skipper.run(&window, &mut at) };
            let result = result.and_then(|()| {
                done = true;
                trailing(&window, &mut at)
            });
            pos = base + at;
            match result {
                Ok(()) if last => return Ok(()),
                Ok(()) => {}
                Err(Stop::More) => assert!(!last),
                Err(Stop::Error(Error::Decode(error))) => return Err(error),
                Err(Stop::Error(other)) => panic!("{other}"),
            }
        }
        unreachable!("the last window gives a result")
    }

    proptest! {
        #[test]
        fn the_result_is_the_reference_crates_for_every_split(
            text in r#"[\[\]{}",:\\ \n0-9a-fu\-+.eEtrlsn\u{7f}-\u{10ffff}]{0,24}"#, split in 0..100_usize,
        ) {
            let whole = validate(text.as_bytes());
            let reference = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            // The reference refuses lone surrogates and huge exponents only when it keeps the value, which it does not here.
            prop_assert_eq!(whole.is_ok(), reference.is_ok(), "{}: {:?}", text, reference);
            let split = validate_split(text.as_bytes(), split.min(text.len()));
            match (whole, split) {
                (Ok(()), Ok(())) => {}
                (Err(Error::Decode(a)), Err(b)) => prop_assert_eq!(a, b),
                (a, b) => prop_assert!(false, "{:?} {:?}", a, b),
            }
        }
    }
}
