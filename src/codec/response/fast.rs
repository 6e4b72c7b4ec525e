//! Objects that look like the one before, taken as slices.
//!
//! A serialiser spells every chunk alike: `{"object":"embedding","index":` number `,"embedding":"` text `"}`. Once the
//! walker has taken one such object, the pieces around its number and text are kept, and a following object whose
//! pieces are the same bytes means the same, so it needs two comparisons instead of a walk. What stands between the
//! last chunk of a document and the first of the next is taken likewise. Anything else, errors included, is left to
//! the walker.

use super::order::{Item, Order};
use super::{Expected, Rows};
use crate::codec::base64;
use crate::codec::json::Window;
use crate::isa::Isa;

/// A piece longer than this is not worth keeping.
const LONGEST: usize = 256;

/// Bytes to be met again, in words: they are few, and a call of `memcmp` would cost more than the comparison.
#[derive(Debug, Default)]
struct Piece {
    words: Vec<u64>,
    /// What the last whole word leaves, and the bits of a word that it fills.
    rest: u64,
    mask: u64,
    length: usize,
}

impl Piece {
    fn new(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        Self {
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            rest: u64::from_le_bytes(last),
            mask: (1 << (rest.len() * 8)) - 1,
            length: bytes.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// `text` behind this piece, if it starts so and goes on for a word: where it does not, the walker sees to it.
    #[inline]
    fn behind<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let (start, rest) = text.split_at_checked(self.words.len() * 8)?;
        let last = u64::from_le_bytes(*rest.first_chunk()?);
        let words = start.as_chunks().0.iter().zip(&self.words);
        let other = words.fold((last & self.mask) ^ self.rest, |any, (a, b)| any | (u64::from_le_bytes(*a) ^ b));
        if other == 0 { text.get(self.length..) } else { None }
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
    /// An object that the walker has taken since: its places, its end, and whether it was a chunk. Its pieces are
    /// copied when another begins, so that a body of one chunk copies none.
    latest: Option<(Item, usize, bool)>,
    header: Header,
    /// Where the chunk taken last ends in the body.
    chunk_end: usize,
}

/// `]},{"object":"list","index":` number `,"data":[`: from the end of a document's last chunk to the start of the next
/// document's first.
#[derive(Debug, Default)]
struct Header {
    before: Piece,
    after: Piece,
    /// Where in `before` the bracket stands that closes the one document, and the one that opens the next.
    close: usize,
    open: usize,
}

/// The object to be taken.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// It is a chunk, or else a document of a flat list.
    pub(super) chunk: bool,
    /// It is the first of its array.
    pub(super) first: bool,
    /// Of the keys that matter, the open document has had its `index` and its `data`, and no other.
    pub(super) usual: bool,
}

/// What stands behind the objects that were taken.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// Whatever may follow an object.
    CommaOrEnd,
    /// The next object of the array; its comma was taken.
    Item,
    /// The next document's chunks; their bracket was taken.
    ItemOrEnd,
}

impl Template {
    /// The walker has taken `item`, which ends before `end`.
    pub(super) fn note(&mut self, item: Option<Item>, end: usize, chunk: bool) {
        self.latest = item.map(|item| (item, end, chunk));
        self.chunk_end = end;
    }

    /// Learn what stands between documents, now that the first chunk of one starts at `pos`.
    #[cold]
    fn learn_header(&mut self, window: &Window<'_>, pos: usize, order: &Order) {
        let Some((before, document, index)) = order.document_heads() else { return };
        let (from, to) = (self.chunk_end, window.base + pos);
        // The document before may have had no chunk; and all must be in the window still.
        if from <= before || from < window.base || index.0 - from > LONGEST || to - index.1 > LONGEST {
            return;
        }
        let piece = |from: usize, to: usize| &window.bytes[from - window.base..to - window.base];
        // With keys behind its chunks a document could have one twice, which is for the walker to see.
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
        // All places lie behind the start, so all are in the window if that is.
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

/// Decode the text at the start of `text` into row `index` if it is well-formed, has the right length and is followed
/// by the closing quote; its length.
#[inline]
pub(super) fn row(isa: Isa, text: &[u8], row_bytes: usize, index: usize, rows: &mut impl Rows) -> Option<usize> {
    let length = base64::encoded_len(row_bytes)?;
    if *text.get(length)? != b'"' || !base64::decode_well_formed(isa, &text[..length], rows.row(index)?) {
        return None;
    }
    Some(length)
}

/// Take objects from `pos` on while they fit the template: None if not one does, else what follows the last. `pos`
/// then stands there.
pub(super) fn items(
    isa: Isa,
    expected: &Expected,
    template: &mut Template,
    order: &mut Order,
    at: At,
    window: &Window<'_>,
    pos: &mut usize,
    rows: &mut impl Rows,
) -> Option<Then> {
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

/// What [`items`] does once there is a template.
struct Items<'a, R> {
    row_bytes: usize,
    shape: Option<&'a [usize]>,
    template: &'a mut Template,
    order: &'a mut Order,
    at: At,
    window: &'a Window<'a>,
    pos: &'a mut usize,
    rows: &'a mut R,
}

impl<R: Rows> base64::Task for Items<'_, R> {
    type Output = Option<Then>;

    #[inline(always)]
    fn run(self, kernel: impl base64::Kernel) -> Option<Then> {
        let Self { row_bytes, shape, template, order, at, window, pos, rows } = self;
        let length = base64::encoded_len(row_bytes)?;
        let mut taken = None;
        let mut rest = template.before.behind(window.bytes.get(*pos..)?)?;
        while order.rows() < order.most_rows() {
            // `rest` starts at the number of the object at `pos`.
            let Some((index, digits)) = number(rest) else { return taken };
            let Some(text) = template.between.behind(&rest[digits..]) else { return taken };
            let Some((text, end)) = text.split_at_checked(length) else { return taken };
            let next = if template.join.is_empty() { None } else { template.join.behind(end) };
            let Some(after) = next.or_else(|| template.after.behind(end)) else { return taken };
            let Some(row) = rows.row(order.rows()) else { return taken };
            if !kernel.decode_well_formed(text, row) {
                return taken;
            }
            let start = window.base + *pos;
            let span = (start + template.before.length, start + template.before.length + digits);
            if !order.push_item(at.chunk, start, index, span, shape) {
                return taken;
            }
            *pos = window.bytes.len() - after.len();
            if next.is_some() {
                *pos -= template.before.length;
                taken = Some(Then::Item);
                rest = after;
                continue;
            }
            template.chunk_end = window.base + *pos;
            if !(at.chunk && at.usual && next_document(&template.header, order, window, pos, shape)) {
                return Some(Then::CommaOrEnd);
            }
            taken = Some(Then::ItemOrEnd);
            let Some(object) = template.before.behind(&window.bytes[*pos..]) else { return taken };
            rest = object;
        }
        taken
    }
}

/// Take what stands between the chunk that ends at `pos` and the next document's first; false, and nothing done, where
/// that is not what it was before or the walker would find an error in it.
#[inline]
fn next_document(
    header: &Header,
    order: &mut Order,
    window: &Window<'_>,
    pos: &mut usize,
    shape: Option<&[usize]>,
) -> bool {
    if header.before.is_empty() {
        return false;
    }
    let rest = &window.bytes[*pos..];
    let Some(digits) = header.before.behind(rest) else { return false };
    let Some((index, length)) = number(digits) else { return false };
    let Some(chunks) = header.after.behind(&digits[length..]) else { return false };
    let (start, end) = (header.before.length, header.before.length + length);
    let offset = window.base + *pos;
    if shape.is_some_and(|shape| index >= shape.len()) || order.end_document(false, offset + header.close).is_err() {
        return false;
    }
    order.begin_document(offset + header.open);
    if order.document_index(index, (offset + start, offset + end), shape).is_err() {
        // Not reached: the index was compared with the shape above.
        return false;
    }
    *pos = window.bytes.len() - chunks.len();
    true
}

/// The number at the start of `digits`, and its length. Only what the walker would read the same is taken: digits
/// without a leading zero.
#[inline]
fn number(digits: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    let mut length = 0;
    while let Some(&byte @ b'0'..=b'9') = digits.get(length) {
        value = value * 10 + usize::from(byte - b'0');
        length += 1;
        if length > 9 {
            return None;
        }
    }
    if length == 0 || (digits[0] == b'0' && length > 1) {
        return None;
    }
    Some((value, length))
}
