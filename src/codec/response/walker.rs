//! The structure of a response body, walked once and resumable at any byte.
//!
//! The response has few kinds of objects and arrays, each with one parent, so the place in the structure is a
//! [`Place`] and no stack; values that are not known are left to the generic [`Skipper`].

use memchr::memchr2;

use super::order::Order;
use super::{Decoded, Expected, MOST_ROW_BYTES, Rows, Usage, fast};
use crate::codec::base64::{self, Check};
use crate::codec::json::{Skipper, Stop, Window, integer, plain_run, trailing};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;

/// Bytes, as spelled, of the longest key that can still be a known one: 17 letters, each a six-byte escape.
const LONGEST_KEY: usize = 128;
const LONGEST_NAME: usize = 1024;
const LONGEST_NUMBER: usize = 256;

/// The objects and arrays of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Top,
    Documents,
    Document,
    Chunks,
    Chunk,
    Usage,
    Cost,
}

impl Place {
    fn parent(self) -> Option<Self> {
        Some(match self {
            Self::Top => return None,
            Self::Documents | Self::Usage => Self::Top,
            Self::Document => Self::Documents,
            Self::Chunks => Self::Document,
            Self::Chunk => Self::Chunks,
            Self::Cost => Self::Usage,
        })
    }

    fn is_array(self) -> bool {
        matches!(self, Self::Documents | Self::Chunks)
    }

    /// Arrays and objects open inside this place, itself included.
    fn depth(self) -> usize {
        1 + self.parent().map_or(0, Self::depth)
    }

    /// What a key of an object here means.
    fn field(self, key: &[u8]) -> Field {
        match (self, key) {
            (Self::Top | Self::Document, b"data") => Field::Data,
            (Self::Top, b"model") => Field::Model,
            (Self::Top, b"usage") => Field::Usage,
            (Self::Document | Self::Chunk, b"index") => Field::Index,
            (Self::Document | Self::Chunk, b"embedding") => Field::Embedding,
            (Self::Usage, b"prompt_tokens") => Field::PromptTokens,
            (Self::Usage, b"total_tokens") => Field::TotalTokens,
            (Self::Usage, b"cost") => Field::Cost,
            (Self::Cost, b"total_cost") => Field::TotalCost,
            (Self::Cost, b"currency") => Field::Currency,
            _ => Field::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Other,
    Data,
    Model,
    Usage,
    Index,
    Embedding,
    PromptTokens,
    TotalTokens,
    Cost,
    TotalCost,
    Currency,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Other => "",
            Self::Data => "data",
            Self::Model => "model",
            Self::Usage => "usage",
            Self::Index => "index",
            Self::Embedding => "embedding",
            Self::PromptTokens => "prompt_tokens",
            Self::TotalTokens => "total_tokens",
            Self::Cost => "cost",
            Self::TotalCost => "total_cost",
            Self::Currency => "currency",
        }
    }
}

/// What the grammar allows next.
#[derive(Debug)]
enum Next {
    Start,
    KeyOrEnd,
    Key,
    /// Inside a key too long to be a known one.
    LongKey,
    Colon(Field),
    Value(Field),
    Skipped(Skipper),
    ItemOrEnd,
    Item,
    CommaOrEnd,
    End,
}

/// One walk over one response.
pub struct Walker {
    isa: Isa,
    expected: Expected,
    order: Order,
    next: Next,
    place: Place,
    /// A bit a [`Field`], for each place: keys seen in the object that is open there.
    seen: [u32; 7],
    template: fast::Template,
    began: bool,
    model: Option<String>,
    usage: Option<Usage>,
}

impl Walker {
    /// A walk that has not begun.
    pub fn new(isa: Isa, expected: Expected) -> Self {
        Self {
            isa,
            order: Order::new(expected.total().unwrap_or(usize::MAX)),
            expected,
            next: Next::Start,
            place: Place::Top,
            seen: [0; 7],
            template: fast::Template::default(),
            began: false,
            model: None,
            usage: None,
        }
    }

    /// Walk on. `Ok` when the body has ended as it should; [`Stop::More`] leaves `pos` at the first byte that must be
    /// shown again, with more behind it.
    pub(crate) fn run(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<(), Stop> {
        loop {
            match self.step(window, pos, rows) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(Stop::Error(Error::Decode(error))) => {
                    let (document, chunk) = self.here();
                    return Err(error.at(document, chunk).into());
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// The result, once [`Walker::run`] has said `Ok`.
    pub fn finish(self, rows: &mut impl Rows) -> Decoded {
        let row_bytes = if self.began { self.expected.row_bytes } else { None };
        Decoded { offsets: self.order.finish(row_bytes, rows), row_bytes, model: self.model, usage: self.usage }
    }

    /// The document and chunk that the walk stands in.
    fn here(&self) -> (Option<usize>, Option<usize>) {
        match self.place {
            Place::Document | Place::Chunks => (Some(self.order.document()), None),
            Place::Chunk => (Some(self.order.document()), Some(self.order.chunk())),
            _ => (None, None),
        }
    }

    /// One step of the grammar; true at the end of the body.
    fn step(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<bool, Stop> {
        match &mut self.next {
            Next::Skipped(skipper) => {
                skipper.run(window, pos)?;
                self.next = Next::CommaOrEnd;
                return Ok(false);
            }
            Next::LongKey => {
                window.string_rest(pos)?;
                self.next = Next::Colon(Field::Other);
                return Ok(false);
            }
            Next::End => {
                trailing(window, pos)?;
                return if window.last { Ok(true) } else { Err(Stop::More) };
            }
            _ => {}
        }
        let byte = window.peek(pos)?;
        match self.next {
            Next::Start if byte == b'{' => self.open(Place::Top, window, pos),
            Next::Start => return Err(wrong_type("a JSON object", window, *pos)),
            Next::KeyOrEnd if byte == b'}' => self.close(window, pos)?,
            Next::KeyOrEnd | Next::Key if byte == b'"' => self.key(window, pos)?,
            Next::KeyOrEnd => return Err(window.unexpected(*pos, "a key or '}'")),
            Next::Key => return Err(window.unexpected(*pos, "a key")),
            Next::Colon(field) if byte == b':' => {
                *pos += 1;
                self.next = Next::Value(field);
            }
            Next::Colon(_) => return Err(window.unexpected(*pos, "':'")),
            Next::Value(field) => self.value(field, byte, window, pos, rows)?,
            Next::ItemOrEnd if byte == b']' => self.close(window, pos)?,
            Next::ItemOrEnd | Next::Item if byte == b'{' => self.item(window, pos, rows),
            Next::ItemOrEnd | Next::Item => return Err(wrong_type("an object", window, *pos)),
            Next::CommaOrEnd if byte == b',' => {
                *pos += 1;
                self.next = if self.place.is_array() { Next::Item } else { Next::Key };
            }
            Next::CommaOrEnd if byte == if self.place.is_array() { b']' } else { b'}' } => self.close(window, pos)?,
            Next::CommaOrEnd => {
                let expected = if self.place.is_array() { "',' or ']'" } else { "',' or '}'" };
                return Err(window.unexpected(*pos, expected));
            }
            // Handled above, before white space was skipped.
            Next::Skipped(_) | Next::LongKey | Next::End => {}
        }
        Ok(false)
    }

    /// Enter an object or array, of which the bracket stands at `pos`.
    fn open(&mut self, place: Place, window: &Window<'_>, pos: &mut usize) {
        match place {
            Place::Document => self.order.begin_document(window.base + *pos),
            Place::Chunk => self.order.begin_chunk(window.base + *pos),
            Place::Usage => self.usage = Some(Usage::default()),
            _ => {}
        }
        self.place = place;
        self.seen[place as usize] = 0;
        self.next = if place.is_array() { Next::ItemOrEnd } else { Next::KeyOrEnd };
        *pos += 1;
    }

    /// Leave the object or array, of which the closing bracket stands at `pos`.
    fn close(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let offset = window.base + *pos;
        let has = |field: Field| self.seen[self.place as usize] & 1 << field as u32 != 0;
        let missing = |name: &str| window.error(DecodeKind::Structure, *pos, format!("{name:?} is missing"));
        match self.place {
            Place::Top if !has(Field::Data) => return Err(missing("data")),
            Place::Document => match (has(Field::Data), has(Field::Embedding)) {
                (false, false) => return Err(missing("data")),
                (true, true) => {
                    return Err(window.error(DecodeKind::Structure, *pos, "both \"data\" and \"embedding\" are given"));
                }
                (_, flat) => {
                    self.order.end_document(flat, offset)?;
                    if flat {
                        self.template.note(self.order.item(false), offset + 1, false);
                    }
                }
            },
            Place::Documents => self.order.end_documents(offset, self.expected.shape.as_deref())?,
            Place::Chunk if !has(Field::Embedding) => return Err(missing("embedding")),
            Place::Chunk => {
                self.template.note(self.order.item(true), offset + 1, true);
                self.order.end_chunk();
            }
            _ => {}
        }
        *pos += 1;
        match self.place.parent() {
            Some(parent) => {
                self.place = parent;
                self.next = Next::CommaOrEnd;
            }
            None => self.next = Next::End,
        }
        Ok(())
    }

    /// An element of `data` at `pos`, or as many of them as look like the last.
    fn item(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) {
        const USUAL: u32 = 1 << Field::Data as u32 | 1 << Field::Index as u32;
        let chunk = self.place == Place::Chunks;
        let first = matches!(self.next, Next::ItemOrEnd);
        let at = fast::At { chunk, first, usual: self.seen[Place::Document as usize] == USUAL };
        let Self { isa, expected, template, order, .. } = self;
        self.next = match fast::items(*isa, expected, template, order, at, window, pos, rows) {
            Some(fast::Then::CommaOrEnd) => Next::CommaOrEnd,
            Some(fast::Then::Item) => Next::Item,
            // The place is the next document's chunks, and it has had the same keys.
            Some(fast::Then::ItemOrEnd) => Next::ItemOrEnd,
            None => return self.open(if chunk { Place::Chunk } else { Place::Document }, window, pos),
        };
    }

    /// A key, of which the opening quote stands at `pos`.
    fn key(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let start = *pos + 1;
        let plain = window.bytes[start..].iter().take(LONGEST_KEY).position(|&b| b == b'"' || b == b'\\' || b < 0x20);
        let field = match plain {
            Some(length) if window.bytes[start + length] == b'"' && window.bytes[start..start + length].is_ascii() => {
                *pos = start + length + 1;
                self.place.field(&window.bytes[start..start + length])
            }
            _ => match window.string(pos, LONGEST_KEY, "key") {
                Ok(key) => self.place.field(key.as_bytes()),
                Err(Stop::Error(Error::Decode(error))) if error.kind == DecodeKind::Structure => {
                    *pos = start;
                    self.next = Next::LongKey;
                    return Ok(());
                }
                Err(stop) => return Err(stop),
            },
        };
        if field != Field::Other {
            let bit = 1 << field as u32;
            if self.seen[self.place as usize] & bit != 0 {
                let message = format!("key {:?} is repeated", field.name());
                return Err(window.error(DecodeKind::Structure, start - 1, message));
            }
            self.seen[self.place as usize] |= bit;
        }
        self.next = Next::Colon(field);
        Ok(())
    }

    fn value(
        &mut self,
        field: Field,
        byte: u8,
        window: &Window<'_>,
        pos: &mut usize,
        rows: &mut impl Rows,
    ) -> Result<(), Stop> {
        if field == Field::Other {
            let text = &window.bytes[*pos + 1..];
            let length = if byte == b'"' { plain_run(text) } else { text.len() };
            if text.get(length) == Some(&b'"') && text[..length].is_ascii() {
                // A plain string, as `"object"` has, needs no walk that could be interrupted.
                *pos += length + 2;
                self.next = Next::CommaOrEnd;
                return Ok(());
            }
            self.next = Next::Skipped(Skipper::new(self.place.depth()));
            return Ok(());
        }
        if window.null(pos)? {
            // Null is absence: every field of the response is optional in the published schema.
            self.seen[self.place as usize] &= !(1 << field as u32);
            self.next = Next::CommaOrEnd;
            return Ok(());
        }
        match (field, byte) {
            (Field::Data, b'[') => {
                let place = if self.place == Place::Top { Place::Documents } else { Place::Chunks };
                self.open(place, window, pos);
                return Ok(());
            }
            (Field::Usage | Field::Cost, b'{') => {
                self.open(if field == Field::Usage { Place::Usage } else { Place::Cost }, window, pos);
                return Ok(());
            }
            (Field::Embedding, b'"') => self.embedding(window, pos, rows)?,
            (Field::Model, b'"') => self.model = Some(window.string(pos, LONGEST_NAME, "model")?),
            (Field::Currency, b'"') => {
                let currency = window.string(pos, LONGEST_NAME, "currency")?;
                self.usage.get_or_insert_default().currency = Some(currency);
            }
            (Field::Index, b'-' | b'0'..=b'9') => self.index(window, pos)?,
            (Field::PromptTokens | Field::TotalTokens, b'-' | b'0'..=b'9') => {
                let start = *pos;
                let tokens = integer(window.number(pos, LONGEST_NUMBER, field.name())?).filter(|&n| n >= 0);
                let Some(tokens) = tokens else {
                    let message = format!("{} is not a count", field.name());
                    return Err(window.error(DecodeKind::Structure, start, message));
                };
                let usage = self.usage.get_or_insert_default();
                *(if field == Field::PromptTokens { &mut usage.prompt_tokens } else { &mut usage.total_tokens }) =
                    Some(tokens);
            }
            (Field::TotalCost, b'-' | b'0'..=b'9') => {
                let cost = window.number(pos, LONGEST_NUMBER, "total_cost")?.to_owned();
                self.usage.get_or_insert_default().total_cost = Some(cost);
            }
            (Field::Data, _) => return Err(wrong_type("an array for \"data\"", window, *pos)),
            (Field::Usage | Field::Cost, _) => return Err(wrong_type("an object", window, *pos)),
            (Field::Embedding | Field::Model | Field::Currency, _) => {
                return Err(wrong_type("a string", window, *pos));
            }
            _ => return Err(wrong_type("a number", window, *pos)),
        }
        self.next = Next::CommaOrEnd;
        Ok(())
    }

    fn index(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let start = *pos;
        let number = window.number(pos, LONGEST_NUMBER, "index")?;
        let Some(index) = integer(number).and_then(|n| usize::try_from(n).ok()) else {
            let message = format!("index {number} is not a non-negative integer");
            return Err(window.error(DecodeKind::Index, start, message));
        };
        let span = (window.base + start, window.base + *pos);
        if self.place == Place::Document {
            self.order.document_index(index, span, self.expected.shape.as_deref())?;
        } else {
            self.order.chunk_index(index, span)?;
        }
        Ok(())
    }

    /// Vectors have `row_bytes` bytes; said once, before the first.
    fn begin(&mut self, row_bytes: usize, rows: &mut impl Rows) -> Result<(), Stop> {
        if self.began {
            return Ok(());
        }
        self.began = true;
        self.expected.row_bytes = Some(row_bytes);
        rows.begin(row_bytes).map_err(Stop::Error)
    }

    /// A vector's base64 text, of which the opening quote stands at `pos`, into the next row.
    fn embedding(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<(), Stop> {
        let start = *pos + 1;
        let text = &window.bytes[start..];
        if self.order.rows() == self.order.most_rows() {
            return Err(window.error(DecodeKind::Shape, start, "more chunks than were asked for"));
        }
        let row_bytes = self.expected.row_bytes.or_else(|| first_length(text));
        if let Some(row_bytes) = row_bytes {
            self.begin(row_bytes, rows)?;
            if let Some(length) = fast::row(self.isa, text, row_bytes, self.order.rows(), rows) {
                *pos = start + length + 1;
                self.order.push_row((window.base + start, window.base + start + length), true);
                return Ok(());
            }
        }
        // The walk by character finds every error, handles escapes, and learns the length of the first vector.
        let most = self.expected.row_bytes.unwrap_or(MOST_ROW_BYTES);
        let longest = base64::encoded_len(most).unwrap_or(usize::MAX).saturating_add(1).saturating_mul(6);
        if !window.last && text.len() < longest && !text.contains(&b'"') {
            return Err(Stop::More);
        }
        let (raw, plain) = proof(window, start, self.expected.row_bytes)?;
        let row_bytes = base64::decoded_len(&plain);
        if row_bytes == 0 {
            return Err(window.error(DecodeKind::Length, start, "vector is empty"));
        }
        self.begin(row_bytes, rows)?;
        let index = self.order.rows();
        let Some(row) = rows.row(index) else {
            return Err(Stop::Error(Error::Value(format!("out has {index} rows, the response has more"))));
        };
        base64::decode_exact(self.isa, &plain, row)?;
        *pos = start + raw + 1;
        self.order.push_row((window.base + start, window.base + start + raw), raw == plain.len());
        Ok(())
    }
}

/// Bytes of the vector whose text starts `text`, if that has no escape and its closing quote is here. Should the text
/// be wrong, so may this be: then the proof that follows fails, whatever was begun with it.
fn first_length(text: &[u8]) -> Option<usize> {
    let length = memchr2(b'"', b'\\', text).unwrap_or(0);
    let whole = length > 0 && text[length] == b'"' && length.is_multiple_of(4);
    whole.then(|| base64::decoded_len(&text[..length])).filter(|&bytes| (1..=MOST_ROW_BYTES).contains(&bytes))
}

/// Prove the base64 text from `start` to its closing quote: its length as spelled, and the text without escapes.
fn proof(window: &Window<'_>, start: usize, row_bytes: Option<usize>) -> Result<(usize, Vec<u8>), Stop> {
    let mut check = Check::new(row_bytes, MOST_ROW_BYTES);
    let mut plain = Vec::new();
    let mut pos = start;
    loop {
        let offset = window.base + pos;
        let (byte, length) = match window.bytes.get(pos) {
            None => return Err(window.ended()),
            Some(b'"') => break,
            Some(b'\\') => {
                let (unit, length) = window.escape(pos)?;
                let Some(byte) = u8::try_from(unit).ok().filter(u8::is_ascii) else {
                    let message = format!("escape for U+{unit:04X} is not in the base64 alphabet");
                    return Err(DecodeError::new(DecodeKind::Base64Byte, offset, message).into());
                };
                (byte, length)
            }
            Some(&byte) => (byte, 1),
        };
        check.push(byte, offset)?;
        plain.push(byte);
        pos += length;
    }
    check.finish(window.base + pos)?;
    Ok((pos - start, plain))
}

/// A value of another type than the structure asks for, or no JSON at all.
fn wrong_type(expected: &str, window: &Window<'_>, pos: usize) -> Stop {
    match window.bytes[pos] {
        b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            window.error(DecodeKind::Structure, pos, format!("expected {expected}"))
        }
        _ => window.unexpected(pos, expected),
    }
}
