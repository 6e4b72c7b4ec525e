//! A parser of response bodies: one pass, resumable at any byte.
//!
//! A response has few kinds of objects and arrays, each with one parent, so the position in the structure is a
//! [`Container`] and no stack. The generic [`Skipper`] reads values of unknown keys.

use memchr::memchr2;

use super::cost::is_plausible;
use super::decoded::{Decoded, Usage};
use super::expected::{Expected, MOST_ROW_BYTES};
use super::row_order::RowOrder;
use super::rows::Rows;
use super::template::{self, Position, Resume, Template};
use crate::codec::base64::{self, Check};
use crate::codec::json::{Skipper, Stop, Window, integer, plain_run, trailing};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;
use crate::memory;

/// Bytes, as spelled, of the longest key that can still be a known one: 17 letters, each a six-byte escape.
const LONGEST_KEY: usize = 128;
const LONGEST_NAME: usize = 1024;
const LONGEST_NUMBER: usize = 256;

/// The objects and arrays of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Top,
    Documents,
    Document,
    Chunks,
    Chunk,
    Usage,
    Cost,
}

impl Container {
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

    /// The closing bracket.
    fn end(self) -> u8 {
        if self.is_array() { b']' } else { b'}' }
    }

    /// Arrays and objects that are open inside this one, itself included.
    fn depth(self) -> usize {
        1 + self.parent().map_or(0, Self::depth)
    }

    /// The meaning of a key of this object.
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
enum State {
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

/// The state of parsing one response.
pub struct Parser {
    isa: Isa,
    expected: Expected,
    order: RowOrder,
    state: State,
    container: Container,
    /// A bit a [`Field`], for each container: the keys of the one that is open.
    seen: [u32; 7],
    template: Template,
    began: bool,
    model: Option<String>,
    usage: Option<Usage>,
}

impl Parser {
    /// A parser of which nothing has run.
    pub fn new(isa: Isa, expected: Expected) -> Self {
        Self {
            isa,
            order: RowOrder::new(expected.total().unwrap_or(usize::MAX)),
            expected,
            state: State::Start,
            container: Container::Top,
            seen: [0; 7],
            template: Template::default(),
            began: false,
            model: None,
            usage: None,
        }
    }

    /// Parse on from `pos`. `Ok` at the end of a valid body; [`Stop::More`] leaves `pos` at the first byte that the next
    /// window must begin with.
    pub(crate) fn run(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<(), Stop> {
        loop {
            match self.step(window, pos, rows) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(Stop::Error(Error::Decode(error))) => {
                    let (document, chunk) = self.document_and_chunk();
                    return Err(error.at(document, chunk).into());
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// The result, once [`Parser::run`] has returned `Ok`.
    pub fn finish(self, rows: &mut impl Rows) -> Result<Decoded, Error> {
        let row_bytes = if self.began { self.expected.row_bytes } else { None };
        Ok(Decoded { offsets: self.order.finish(row_bytes, rows)?, row_bytes, model: self.model, usage: self.usage })
    }

    /// The open document and chunk.
    fn document_and_chunk(&self) -> (Option<usize>, Option<usize>) {
        match self.container {
            Container::Document | Container::Chunks => (Some(self.order.document()), None),
            Container::Chunk => (Some(self.order.document()), Some(self.order.chunk())),
            _ => (None, None),
        }
    }

    /// Take one step of the grammar; true at the end of the body.
    fn step(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<bool, Stop> {
        match &mut self.state {
            State::Skipped(skipper) => {
                skipper.run(window, pos)?;
                self.state = State::CommaOrEnd;
                return Ok(false);
            }
            State::LongKey => {
                window.string_rest(pos)?;
                self.state = State::Colon(Field::Other);
                return Ok(false);
            }
            State::End => {
                trailing(window, pos)?;
                return if window.last { Ok(true) } else { Err(Stop::More) };
            }
            _ => {}
        }
        let byte = window.peek(pos)?;
        match self.state {
            State::Start if byte == b'{' => self.open(Container::Top, window, pos)?,
            State::Start => return Err(wrong_type("a JSON object", window, *pos)),
            State::KeyOrEnd if byte == b'}' => self.close(window, pos)?,
            State::KeyOrEnd | State::Key if byte == b'"' => self.key(window, pos)?,
            State::KeyOrEnd => return Err(window.unexpected(*pos, "a key or '}'")),
            State::Key => return Err(window.unexpected(*pos, "a key")),
            State::Colon(field) if byte == b':' => {
                *pos += 1;
                self.state = State::Value(field);
            }
            State::Colon(_) => return Err(window.unexpected(*pos, "':'")),
            State::Value(field) => self.value(field, byte, window, pos, rows)?,
            State::ItemOrEnd if byte == b']' => self.close(window, pos)?,
            State::ItemOrEnd | State::Item if byte == b'{' => self.item(window, pos, rows)?,
            State::ItemOrEnd | State::Item => return Err(wrong_type("an object", window, *pos)),
            State::CommaOrEnd if byte == b',' => {
                *pos += 1;
                self.state = if self.container.is_array() { State::Item } else { State::Key };
            }
            State::CommaOrEnd if byte == self.container.end() => self.close(window, pos)?,
            State::CommaOrEnd => {
                let expected = if self.container.is_array() { "',' or ']'" } else { "',' or '}'" };
                return Err(window.unexpected(*pos, expected));
            }
            // Handled above, before white space was skipped.
            State::Skipped(_) | State::LongKey | State::End => {}
        }
        Ok(false)
    }

    /// Enter the object or array whose bracket is at `pos`.
    fn open(&mut self, container: Container, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        match container {
            Container::Document => self.order.begin_document(window.base + *pos)?,
            Container::Chunk => self.order.begin_chunk(window.base + *pos)?,
            Container::Usage => self.usage = Some(Usage::default()),
            _ => {}
        }
        self.container = container;
        self.seen[container as usize] = 0;
        self.state = if container.is_array() { State::ItemOrEnd } else { State::KeyOrEnd };
        *pos += 1;
        Ok(())
    }

    /// Leave the object or array whose closing bracket is at `pos`.
    fn close(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let offset = window.base + *pos;
        let has = |field: Field| self.seen[self.container as usize] & 1 << field as u32 != 0;
        let missing = |name: &str| window.error(DecodeKind::Structure, *pos, format!("{name:?} is missing"));
        match self.container {
            Container::Top if !has(Field::Data) => return Err(missing("data")),
            Container::Document => match (has(Field::Data), has(Field::Embedding)) {
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
            Container::Documents => self.order.end_documents(offset, self.expected.shape.as_deref())?,
            Container::Chunk if !has(Field::Embedding) => return Err(missing("embedding")),
            Container::Chunk => {
                self.template.note(self.order.item(true), offset + 1, true);
                self.order.end_chunk();
            }
            _ => {}
        }
        *pos += 1;
        match self.container.parent() {
            Some(parent) => {
                self.container = parent;
                self.state = State::CommaOrEnd;
            }
            None => self.state = State::End,
        }
        Ok(())
    }

    /// Enter the element of `data` at `pos`, or read it and the following ones as far as they match the template.
    fn item(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<(), Stop> {
        const USUAL: u32 = 1 << Field::Data as u32 | 1 << Field::Index as u32;
        let chunk = self.container == Container::Chunks;
        let first = matches!(self.state, State::ItemOrEnd);
        let at = Position { chunk, first, usual: self.seen[Container::Document as usize] == USUAL };
        let Self { isa, expected, template, order, .. } = self;
        self.state = match template::items(*isa, expected, template, order, at, window, pos, rows) {
            Some(Resume::CommaOrEnd) => State::CommaOrEnd,
            Some(Resume::Item) => State::Item,
            // The container is the next document's chunks, and that document has had the same keys.
            Some(Resume::ItemOrEnd) => State::ItemOrEnd,
            None => return self.open(if chunk { Container::Chunk } else { Container::Document }, window, pos),
        };
        Ok(())
    }

    /// Read the key whose opening quote is at `pos`.
    fn key(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let start = *pos + 1;
        let plain = window.bytes[start..].iter().take(LONGEST_KEY).position(|&b| b == b'"' || b == b'\\' || b < 0x20);
        let field = match plain {
            Some(length) if window.bytes[start + length] == b'"' && window.bytes[start..start + length].is_ascii() => {
                *pos = start + length + 1;
                self.container.field(&window.bytes[start..start + length])
            }
            _ => match window.string(pos, LONGEST_KEY, "key") {
                Ok(key) => self.container.field(key.as_bytes()),
                Err(Stop::Error(Error::Decode(error))) if error.kind == DecodeKind::Structure => {
                    *pos = start;
                    self.state = State::LongKey;
                    return Ok(());
                }
                Err(stop) => return Err(stop),
            },
        };
        if field != Field::Other {
            let bit = 1 << field as u32;
            if self.seen[self.container as usize] & bit != 0 {
                let message = format!("key {:?} is repeated", field.name());
                return Err(window.error(DecodeKind::Structure, start - 1, message));
            }
            self.seen[self.container as usize] |= bit;
        }
        self.state = State::Colon(field);
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
                // A plain string, as `"object"` has, needs no resumable state.
                *pos += length + 2;
                self.state = State::CommaOrEnd;
                return Ok(());
            }
            self.state = State::Skipped(Skipper::new(self.container.depth()));
            return Ok(());
        }
        if window.null(pos)? {
            // Null means absent: every field of the response is optional in the published schema.
            self.seen[self.container as usize] &= !(1 << field as u32);
            self.state = State::CommaOrEnd;
            return Ok(());
        }
        match (field, byte) {
            (Field::Data, b'[') => {
                let container = if self.container == Container::Top { Container::Documents } else { Container::Chunks };
                return self.open(container, window, pos);
            }
            (Field::Usage | Field::Cost, b'{') => {
                return self.open(if field == Field::Usage { Container::Usage } else { Container::Cost }, window, pos);
            }
            (Field::Embedding, b'"') => self.embedding(window, pos, rows)?,
            (Field::Model, b'"') => self.model = Some(window.string(pos, LONGEST_NAME, "model")?),
            (Field::Currency, b'"') => match window.string(pos, LONGEST_NAME, "currency") {
                Ok(currency) => self.usage.get_or_insert_default().currency = Some(currency),
                Err(stop) => return self.skip_where_structural(stop),
            },
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
            (Field::TotalCost, b'-' | b'0'..=b'9') => match window.number(pos, LONGEST_NUMBER, "total_cost") {
                Ok(cost) if is_plausible(cost) => {
                    self.usage.get_or_insert_default().total_cost = Some(cost.to_owned());
                }
                Ok(_) => {}
                Err(stop) => return self.skip_where_structural(stop),
            },
            // Vectors are not lost because of a cost that is none: it counts as not reported.
            (Field::Cost | Field::TotalCost | Field::Currency, _) => {
                if field == Field::Currency {
                    self.usage.get_or_insert_default().currency = Some(String::new());
                }
                self.state = State::Skipped(Skipper::new(self.container.depth()));
                return Ok(());
            }
            (Field::Data, _) => return Err(wrong_type("an array for \"data\"", window, *pos)),
            (Field::Usage, _) => return Err(wrong_type("an object", window, *pos)),
            (Field::Embedding | Field::Model, _) => return Err(wrong_type("a string", window, *pos)),
            _ => return Err(wrong_type("a number", window, *pos)),
        }
        self.state = State::CommaOrEnd;
        Ok(())
    }

    /// Skip a value that is too long; any other error stays one.
    fn skip_where_structural(&mut self, stop: Stop) -> Result<(), Stop> {
        match stop {
            Stop::Error(Error::Decode(error)) if error.kind == DecodeKind::Structure => {
                // A currency that is skipped is no known one.
                if let State::Value(Field::Currency) = self.state {
                    self.usage.get_or_insert_default().currency = Some(String::new());
                }
                self.state = State::Skipped(Skipper::new(self.container.depth()));
                Ok(())
            }
            stop => Err(stop),
        }
    }

    fn index(&mut self, window: &Window<'_>, pos: &mut usize) -> Result<(), Stop> {
        let start = *pos;
        let number = window.number(pos, LONGEST_NUMBER, "index")?;
        let Some(index) = integer(number).and_then(|n| usize::try_from(n).ok()) else {
            let message = format!("index {number} is not a non-negative integer");
            return Err(window.error(DecodeKind::Index, start, message));
        };
        let span = (window.base + start, window.base + *pos);
        if self.container == Container::Document {
            self.order.document_index(index, span, self.expected.shape.as_deref())?;
        } else {
            self.order.chunk_index(index, span)?;
        }
        Ok(())
    }

    /// Tell `rows` the bytes of a vector, once, before the first.
    fn begin(&mut self, row_bytes: usize, rows: &mut impl Rows) -> Result<(), Stop> {
        if self.began {
            return Ok(());
        }
        self.began = true;
        self.expected.row_bytes = Some(row_bytes);
        rows.begin(row_bytes).map_err(Stop::Error)
    }

    /// Decode the vector whose opening quote is at `pos` into the next row.
    fn embedding(&mut self, window: &Window<'_>, pos: &mut usize, rows: &mut impl Rows) -> Result<(), Stop> {
        let start = *pos + 1;
        let text = &window.bytes[start..];
        if self.order.rows() == self.order.most_rows() {
            return Err(window.error(DecodeKind::Shape, start, "more chunks than were requested"));
        }
        let row_bytes = self.expected.row_bytes.or_else(|| first_length(text));
        if let Some(row_bytes) = row_bytes {
            self.begin(row_bytes, rows)?;
            if let Some(length) = template::row(self.isa, text, row_bytes, self.order.rows(), rows) {
                *pos = start + length + 1;
                self.order.push_row((window.base + start, window.base + start + length), true);
                return Ok(());
            }
        }
        // The check by character finds every error, handles escapes, and learns the length of the first vector.
        let most = self.expected.row_bytes.unwrap_or(MOST_ROW_BYTES);
        let longest = base64::encoded_len(most).unwrap_or(usize::MAX).saturating_add(1).saturating_mul(6);
        if !window.last && text.len() < longest && !text.contains(&b'"') {
            return Err(Stop::More);
        }
        let (raw, plain) = checked_text(window, start, self.expected.row_bytes)?;
        let row_bytes = base64::decoded_len(&plain);
        if row_bytes == 0 {
            return Err(window.error(DecodeKind::Length, start, "vector is empty"));
        }
        self.begin(row_bytes, rows)?;
        let index = self.order.rows();
        let Some(row) = rows.row(index) else {
            return Err(Stop::Error(rows.no_room(index)));
        };
        base64::decode_exact(self.isa, &plain, row)?;
        *pos = start + raw + 1;
        self.order.push_row((window.base + start, window.base + start + raw), raw == plain.len());
        Ok(())
    }
}

/// Bytes of the vector at the start of `text`, if that has no escape and its closing quote is in the window. For an
/// invalid text the number means nothing: the check that follows then fails.
fn first_length(text: &[u8]) -> Option<usize> {
    let length = memchr2(b'"', b'\\', text).unwrap_or(0);
    let whole = length > 0 && text[length] == b'"' && length.is_multiple_of(4);
    whole.then(|| base64::decoded_len(&text[..length])).filter(|&bytes| (1..=MOST_ROW_BYTES).contains(&bytes))
}

/// Check the base64 text from `start` to its closing quote; returns its length as spelled, and the text without escapes.
fn checked_text(window: &Window<'_>, start: usize, row_bytes: Option<usize>) -> Result<(usize, Vec<u8>), Stop> {
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
        memory::push(&mut plain, byte)?;
        pos += length;
    }
    check.finish(window.base + pos)?;
    Ok((pos - start, plain))
}

/// The error for a value of another type than the structure requires, or for no JSON at all.
fn wrong_type(expected: &str, window: &Window<'_>, pos: usize) -> Stop {
    match window.bytes[pos] {
        b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            window.error(DecodeKind::Structure, pos, format!("expected {expected}"))
        }
        _ => window.unexpected(pos, expected),
    }
}
