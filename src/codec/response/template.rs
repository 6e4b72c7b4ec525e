//! A shortcut for objects that are spelled like the one before.
//!
//! A serialiser spells every chunk alike: `{"object":"embedding","index":` number `,"embedding":"` text `"}`. Once the
//! parser has read one such object, the pieces around its number and text are kept. A following object with the same
//! pieces has the same meaning, and needs two comparisons instead of a parse. The bytes between the last chunk of a
//! document and the first of the next are treated likewise. Anything else, errors included, is left to the parser.

use super::expected::Expected;
use super::row_order::{Item, RowOrder};
use super::rows::Rows;
use crate::codec::base64;
use crate::codec::json::Window;
use crate::isa::Isa;

/// A piece longer than this is not worth keeping.
const LONGEST: usize = 256;

/// Bytes that are compared at once.
const BLOCK: usize = 64;

/// All bits of as many bytes as are wanted, and none of the others: a block that begins `n` before the middle has `n`.
static MASKS: [u8; 2 * BLOCK] = {
    let mut masks = [0; 2 * BLOCK];
    let mut i = 0;
    while i < BLOCK {
        masks[i] = 0xFF;
        i += 1;
    }
    masks
};

/// Bytes to compare with. They are few, and a call of `memcmp` would cost more than the comparison of a block.
#[derive(Debug)]
struct Piece {
    /// The first bytes, and zeros.
    first: [u8; BLOCK],
    /// The bytes after a block: rarely any.
    more: Vec<u8>,
    length: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self { first: [0; BLOCK], more: Vec::new(), length: 0 }
    }
}

impl Piece {
    fn new(bytes: &[u8]) -> Self {
        let (start, more) = bytes.split_at(bytes.len().min(BLOCK));
        let mut first = [0; BLOCK];
        first[..start.len()].copy_from_slice(start);
        Self { first, more: more.to_vec(), length: bytes.len() }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// `text` after this piece, if it starts with it and has a block; the parser handles a shorter one.
    #[inline(always)]
    fn strip_from<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let (start, rest) = text.split_first_chunk::<BLOCK>()?;
        let mask = MASKS[BLOCK - self.length.min(BLOCK)..].first_chunk::<BLOCK>()?;
        let bytes = start.iter().zip(mask).zip(&self.first);
        if bytes.fold(0, |any, ((byte, mask), first)| any | ((byte & mask) ^ first)) != 0 {
            return None;
        }
        if self.more.is_empty() { text.get(self.length..) } else { rest.strip_prefix(self.more.as_slice()) }
    }
}

/// The pieces around the index and the text of an object, and between two objects.
#[derive(Debug, Default)]
pub(super) struct Template {
    before: Piece,
    between: Piece,
    after: Piece,
    /// From the end of a text to the number of the next object: `after`, what separates the two, `before`. Empty until
    /// seen.
    join: Piece,
    /// Whether the object was a chunk, or else a document of a flat list.
    chunk: bool,
    /// The object that the parser has read since: its offsets, its end, and whether it was a chunk. Its pieces are copied
    /// when another begins, so that a body of one chunk copies none.
    latest: Option<(Item, usize, bool)>,
    header: Header,
    /// Where the last chunk ends in the body.
    chunk_end: usize,
}

/// `]},{"object":"list","index":` number `,"data":[`: from the end of a document's last chunk to the start of the next
/// document's first.
#[derive(Debug, Default)]
struct Header {
    before: Piece,
    after: Piece,
    /// Offsets in `before` of the bracket that closes the one document, and of the one that opens the next.
    close: usize,
    open: usize,
}

/// Where the next object is.
#[derive(Clone, Copy)]
pub(super) struct Position {
    /// It is a chunk, or else a document of a flat list.
    pub(super) chunk: bool,
    /// It is the first of its array.
    pub(super) first: bool,
    /// The open document has had the keys `index` and `data`, and no other known one.
    pub(super) usual: bool,
}

/// What the parser expects after the objects that the template has matched.
#[derive(Clone, Copy)]
pub(super) enum Resume {
    /// A comma or the end of the array.
    CommaOrEnd,
    /// The next object of the array; its comma was read.
    Item,
    /// The next document's chunks; their bracket was read.
    ItemOrEnd,
}

impl Template {
    /// The parser has read `item`, which ends before `end`.
    pub(super) fn note(&mut self, item: Option<Item>, end: usize, chunk: bool) {
        self.latest = item.map(|item| (item, end, chunk));
        self.chunk_end = end;
    }

    /// Learn the bytes between documents, now that the first chunk of one starts at `pos`.
    #[cold]
    fn learn_header(&mut self, window: &Window<'_>, pos: usize, order: &RowOrder) {
        let Some((before, document, index)) = order.document_starts() else { return };
        let (from, to) = (self.chunk_end, window.base + pos);
        // The document before may have had no chunk; and all of it must still be in the window.
        if from <= before || from < window.base || index.0 - from > LONGEST || to - index.1 > LONGEST {
            return;
        }
        let piece = |from: usize, to: usize| &window.bytes[from - window.base..to - window.base];
        // A document with keys after its chunks could repeat one, which only the parser checks.
        let ends = piece(from, document);
        let Some(close) = ends.iter().position(|&byte| byte == b'}').filter(|_| !ends.contains(&b'"')) else { return };
        self.header = Header {
            before: Piece::new(piece(from, index.0)),
            after: Piece::new(piece(index.1, to)),
            close,
            open: ends.len(),
        };
    }

    /// Learn from the latest object, now that the next starts at `pos`, `first` in its array or not.
    #[cold]
    fn learn(&mut self, window: &Window<'_>, pos: usize, chunk: bool, first: bool) {
        let Some((item, end, was_chunk)) = self.latest.take() else { return };
        self.before = Piece::default();
        self.join = Piece::default();
        let Item { start, index: Some(index), text, plain: true } = item else { return };
        // All offsets are at or after the start, so all are in the window if that is.
        let (Some(start), Some(end)) = (start.checked_sub(window.base), end.checked_sub(window.base)) else { return };
        let (index, text) =
            ((index.0 - window.base, index.1 - window.base), (text.0 - window.base, text.1 - window.base));
        if index.1 > text.0 || index.0 - start > LONGEST || text.0 - index.1 > LONGEST || end - text.1 > LONGEST {
            return;
        }
        let piece = |from: usize, to: usize| &window.bytes[from..to];
        let before = piece(start, index.0);
        self.before = Piece::new(before);
        self.between = Piece::new(piece(index.1, text.0));
        self.after = Piece::new(piece(text.1, end));
        self.chunk = was_chunk;
        if !first && was_chunk == chunk && pos - end <= LONGEST {
            self.join = Piece::new(&[piece(text.1, pos), before].concat());
        }
    }
}

/// Decode the vector at the start of `text` into row `index`, if it is well formed, of the right length and followed by
/// the closing quote; returns its length.
#[inline]
pub(super) fn row(isa: Isa, text: &[u8], row_bytes: usize, index: usize, rows: &mut impl Rows) -> Option<usize> {
    let length = base64::encoded_len(row_bytes)?;
    if *text.get(length)? != b'"' || !base64::decode_well_formed(isa, &text[..length], rows.row(index)?) {
        return None;
    }
    Some(length)
}

/// Decode objects from `pos` on while they match the template, and move `pos` past them: None where not one does.
pub(super) fn items(
    isa: Isa,
    expected: &Expected,
    template: &mut Template,
    order: &mut RowOrder,
    at: Position,
    window: &Window<'_>,
    pos: &mut usize,
    rows: &mut impl Rows,
) -> Option<Resume> {
    if template.latest.is_some() {
        template.learn(window, *pos, at.chunk, at.first);
    }
    if at.chunk && at.first && at.usual {
        template.learn_header(window, *pos, order);
    }
    let row_bytes = expected.row_bytes?;
    if template.before.is_empty() || template.chunk != at.chunk {
        return None;
    }
    let shape = expected.shape.as_deref();
    base64::run(isa, Items { row_bytes, shape, template, order, at, window, pos, rows })
}

/// The work of [`items`], once there is a template.
struct Items<'a, R> {
    row_bytes: usize,
    shape: Option<&'a [usize]>,
    template: &'a mut Template,
    order: &'a mut RowOrder,
    at: Position,
    window: &'a Window<'a>,
    pos: &'a mut usize,
    rows: &'a mut R,
}

impl<R: Rows> base64::Task for Items<'_, R> {
    type Output = Option<Resume>;

    #[inline(always)]
    fn run(self, kernel: impl base64::Kernel) -> Option<Resume> {
        let Self { row_bytes, shape, template, order, at, window, pos, rows } = self;
        let length = base64::encoded_len(row_bytes)?;
        let mut matched = None;
        let mut rest = template.before.strip_from(window.bytes.get(*pos..)?)?;
        while order.rows() < order.most_rows() {
            // `rest` starts at the number of the object at `pos`.
            let Some((index, digits)) = number(rest) else { return matched };
            let Some(text) = template.between.strip_from(&rest[digits..]) else { return matched };
            let Some((text, end)) = text.split_at_checked(length) else { return matched };
            let Some(row) = rows.row(order.rows()) else { return matched };
            if !kernel.decode_well_formed(text, row) {
                return matched;
            }
            // What follows is compared when the text has been read up to it: caches do not expect a look ahead.
            let next = if template.join.is_empty() { None } else { template.join.strip_from(end) };
            let Some(after) = next.or_else(|| template.after.strip_from(end)) else { return matched };
            let start = window.base + *pos;
            let span = (start + template.before.length, start + template.before.length + digits);
            if !order.push_item(at.chunk, start, index, span, shape) {
                return matched;
            }
            *pos = window.bytes.len() - after.len();
            if next.is_some() {
                *pos -= template.before.length;
                matched = Some(Resume::Item);
                rest = after;
                continue;
            }
            template.chunk_end = window.base + *pos;
            if !(at.chunk && at.usual && next_document(&template.header, order, window, pos, shape)) {
                return Some(Resume::CommaOrEnd);
            }
            matched = Some(Resume::ItemOrEnd);
            let Some(object) = template.before.strip_from(&window.bytes[*pos..]) else { return matched };
            rest = object;
        }
        matched
    }
}

/// Read the bytes between the chunk that ends at `pos` and the next document's first; false, and nothing done, where they
/// do not match the template or the parser would find an error in them.
#[inline(never)]
fn next_document(
    header: &Header,
    order: &mut RowOrder,
    window: &Window<'_>,
    pos: &mut usize,
    shape: Option<&[usize]>,
) -> bool {
    if header.before.is_empty() {
        return false;
    }
    let rest = &window.bytes[*pos..];
    let Some(digits) = header.before.strip_from(rest) else { return false };
    let Some((index, length)) = number(digits) else { return false };
    let Some(chunks) = header.after.strip_from(&digits[length..]) else { return false };
    let (start, end) = (header.before.length, header.before.length + length);
    let offset = window.base + *pos;
    if shape.is_some_and(|shape| index >= shape.len()) || order.end_document(false, offset + header.close).is_err() {
        return false;
    }
    if order.begin_document(offset + header.open).is_err()
        || order.document_index(index, (offset + start, offset + end), shape).is_err()
    {
        // Not reached: the index was compared with the shape above.
        return false;
    }
    *pos = window.bytes.len() - chunks.len();
    true
}

/// The number at the start of `digits`, and its length. Only up to nine digits without a leading zero are read, as the
/// parser would read them.
#[inline(always)]
fn number(digits: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (length, byte) in digits.first_chunk::<10>()?.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return (length > 0).then_some((value, length));
        }
        if length == 1 && value == 0 {
            return None;
        }
        value = value * 10 + usize::from(digit);
    }
    None
}
