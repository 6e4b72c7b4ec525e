//! Both indexes: proven, and rows moved to where they say.
//!
//! Rows are decoded in order of appearance. When a document ends, its chunks' indexes are proven; when the list ends,
//! the documents'. Rows move once, at the end, and in the usual order none does.

use std::mem::MaybeUninit;

use super::Rows;
use crate::error::{DecodeError, DecodeKind};

/// From and to, in bytes of the body.
pub(super) type Span = (usize, usize);

/// Where the parts of a finished object stand in the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) start: usize,
    pub(super) index: Option<Span>,
    pub(super) text: Span,
    /// The text has no escapes.
    pub(super) plain: bool,
}

/// A document or a chunk.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its `index` and where that stands.
    index: Option<(usize, Span)>,
    /// Offset of the opening brace.
    start: usize,
    /// The first row it owns.
    row: usize,
}

/// Everything known of the order so far.
#[derive(Debug)]
pub(super) struct Order {
    documents: Vec<Entry>,
    /// Leading chunks of the document that is open which came in order, each with its index: no error can concern
    /// them, so their number is all that is kept.
    leading: usize,
    /// Its chunks behind those.
    chunks: Vec<Entry>,
    /// Chunks that were asked for in it; no bound where that, or its index, is not known.
    asked: Option<usize>,
    /// Where each row belongs within its document, as a row number; empty while that is where it is.
    moves: Vec<usize>,
    rows: usize,
    /// Chunks that were asked for in all.
    most_rows: usize,
    /// The vector decoded last.
    text: Span,
    plain: bool,
    /// Whether documents hold a vector each (the plain embeddings endpoint) rather than chunks.
    flat: Option<bool>,
}

impl Order {
    /// Nothing yet, of at most `most_rows` chunks.
    pub(super) fn new(most_rows: usize) -> Self {
        Self {
            documents: Vec::new(),
            leading: 0,
            chunks: Vec::new(),
            asked: None,
            moves: Vec::new(),
            rows: 0,
            most_rows,
            text: (0, 0),
            plain: false,
            flat: None,
        }
    }

    /// Chunks that were asked for in all.
    pub(super) fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The open document's index, or its position where that is not known (yet).
    pub(super) fn document(&self) -> usize {
        self.documents.last().map_or(0, |entry| entry.index.map_or(self.documents.len() - 1, |(value, _)| value))
    }

    /// The open chunk's index, or its position where that is not known (yet).
    pub(super) fn chunk(&self) -> usize {
        let position = (self.leading + self.chunks.len()).saturating_sub(1);
        self.chunks.last().and_then(|entry| entry.index).map_or(position, |(value, _)| value)
    }

    /// Where the document before the open one starts, where the open one starts, and where its index stands.
    pub(super) fn document_heads(&self) -> Option<(usize, usize, Span)> {
        let [.., before, open] = self.documents.as_slice() else { return None };
        Some((before.start, open.start, open.index?.1))
    }

    pub(super) fn begin_document(&mut self, start: usize) {
        self.documents.push(Entry { index: None, start, row: self.rows });
        self.leading = 0;
        self.chunks.clear();
        self.asked = None;
    }

    pub(super) fn begin_chunk(&mut self, start: usize) {
        self.chunks.push(Entry { index: None, start, row: self.rows });
    }

    pub(super) fn document_index(
        &mut self,
        value: usize,
        span: Span,
        shape: Option<&[usize]>,
    ) -> Result<(), DecodeError> {
        if let Some(shape) = shape
            && value >= shape.len()
        {
            let message = format!("document index {value}, but {} documents were asked for", shape.len());
            return Err(DecodeError::new(DecodeKind::Index, span.0, message));
        }
        if let Some(entry) = self.documents.last_mut() {
            entry.index = Some((value, span));
        }
        self.asked = shape.and_then(|shape| shape.get(value).copied());
        Ok(())
    }

    pub(super) fn chunk_index(&mut self, value: usize, span: Span) -> Result<(), DecodeError> {
        if let Some(count) = self.asked
            && value >= count
        {
            let message = format!("chunk index {value}, but the document has {count} chunks");
            return Err(DecodeError::new(DecodeKind::Index, span.0, message));
        }
        if let Some(entry) = self.chunks.last_mut() {
            entry.index = Some((value, span));
        }
        Ok(())
    }

    /// The open chunk ends.
    pub(super) fn end_chunk(&mut self) {
        if let [Entry { index: Some((value, _)), .. }] = self.chunks[..]
            && value == self.leading
        {
            self.leading += 1;
            self.chunks.clear();
        }
    }

    /// A row was decoded from `text`.
    pub(super) fn push_row(&mut self, text: Span, plain: bool) {
        self.rows += 1;
        self.text = text;
        self.plain = plain;
    }

    /// A whole chunk (or document of a flat list) and its row, taken at once; false, and nothing done, where the
    /// index is not one that was asked for.
    #[inline]
    pub(super) fn push_item(
        &mut self,
        chunk: bool,
        start: usize,
        value: usize,
        span: Span,
        shape: Option<&[usize]>,
    ) -> bool {
        let entry = Entry { index: Some((value, span)), start, row: self.rows };
        if chunk {
            if self.asked.is_some_and(|count| value >= count) {
                return false;
            }
            if value == self.leading && self.chunks.is_empty() {
                self.leading += 1;
            } else {
                self.chunks.push(entry);
            }
        } else {
            if shape.is_some_and(|shape| shape.get(value) != Some(&1)) {
                return false;
            }
            self.documents.push(entry);
        }
        self.rows += 1;
        true
    }

    /// The chunk that has just ended, or the document of a flat list.
    pub(super) fn item(&self, chunk: bool) -> Option<Item> {
        let entry = if chunk { self.chunks.last() } else { self.documents.last() }?;
        Some(Item { start: entry.start, index: entry.index.map(|(_, span)| span), text: self.text, plain: self.plain })
    }

    /// The open document ends at `offset`: prove its chunks.
    pub(super) fn end_document(&mut self, flat: bool, offset: usize) -> Result<(), DecodeError> {
        if *self.flat.get_or_insert(flat) != flat {
            let message = "some documents hold chunks and some a vector of their own";
            return Err(DecodeError::new(DecodeKind::Structure, offset, message));
        }
        let count = if flat { 1 } else { self.leading + self.chunks.len() };
        if let Some(asked) = self.asked
            && asked != count
        {
            return Err(wrong_count(offset, count, asked));
        }
        if flat {
            return Ok(());
        }
        let first = self.rows - count;
        let in_order =
            prove(self.leading, &self.chunks, "chunk").map_err(|(chunk, error)| error.at(None, Some(chunk)))?;
        if !in_order && self.moves.is_empty() {
            self.moves.extend(0..first);
        }
        if !self.moves.is_empty() || !in_order {
            let (first, behind) = (first, first + self.leading);
            self.moves.extend(first..behind);
            let target = |(i, entry): (usize, &Entry)| entry.index.map_or(behind + i, |(value, _)| first + value);
            self.moves.extend(self.chunks.iter().enumerate().map(target));
        }
        Ok(())
    }

    /// The list of documents ends at `offset`: prove it.
    pub(super) fn end_documents(&mut self, offset: usize, shape: Option<&[usize]>) -> Result<(), DecodeError> {
        let found = self.documents.len();
        if let Some(shape) = shape
            && shape.len() != found
        {
            let message = format!("response has {found} documents, {} were asked for", shape.len());
            return Err(DecodeError::new(DecodeKind::Shape, offset, message));
        }
        prove(0, &self.documents, "document").map_err(|(document, error)| error.at(Some(document), None))?;
        // Documents without an index could not be compared with the shape before it was clear that none has one.
        if let Some(shape) = shape {
            for (position, (&asked, entry)) in shape.iter().zip(&self.documents).enumerate() {
                let count = self.count(position);
                if entry.index.is_none() && count != asked {
                    return Err(wrong_count(offset, count, asked).at(Some(position), None));
                }
            }
        }
        Ok(())
    }

    /// Rows of the document at a position of the body.
    fn count(&self, position: usize) -> usize {
        self.documents.get(position + 1).map_or(self.rows, |next| next.row) - self.documents[position].row
    }

    /// Move rows to their places, and say where each document's are.
    pub(super) fn finish(self, row_bytes: Option<usize>, rows: &mut impl Rows) -> Vec<i64> {
        let in_order =
            self.documents.iter().enumerate().all(|(i, entry)| entry.index.is_none_or(|(value, _)| value == i));
        let total = std::iter::once(self.rows as i64);
        if in_order {
            if let (false, Some(row_bytes)) = (self.moves.is_empty(), row_bytes) {
                permute(rows.rows(self.rows), row_bytes, self.moves);
            }
            return self.documents.iter().map(|entry| entry.row as i64).chain(total).collect();
        }
        let places: Vec<usize> =
            self.documents.iter().enumerate().map(|(i, entry)| entry.index.map_or(i, |(value, _)| value)).collect();
        let mut offsets = vec![0; places.len() + 1];
        for (position, &place) in places.iter().enumerate() {
            offsets[place + 1] = self.count(position) as i64;
        }
        for i in 1..offsets.len() {
            offsets[i] += offsets[i - 1];
        }
        let mut targets = Vec::with_capacity(self.rows);
        for (position, &place) in places.iter().enumerate() {
            let first = self.documents[position].row;
            for row in first..first + self.count(position) {
                let within = self.moves.get(row).copied().unwrap_or(row) - first;
                targets.push(offsets[place] as usize + within);
            }
        }
        if let Some(row_bytes) = row_bytes {
            permute(rows.rows(self.rows), row_bytes, targets);
        }
        offsets
    }
}

fn wrong_count(offset: usize, found: usize, asked: usize) -> DecodeError {
    DecodeError::new(DecodeKind::Shape, offset, format!("document has {found} chunks, {asked} were asked for"))
}

/// Prove that indexes are all absent, or each of `0..n` once, of which the first `leading` have been seen in order;
/// whether they are in order. An error comes with the index or position at fault.
fn prove(leading: usize, entries: &[Entry], what: &str) -> Result<bool, (usize, DecodeError)> {
    let mut positions = (leading..).zip(entries);
    if positions.all(|(i, entry)| entry.index.is_some_and(|(value, _)| value == i)) {
        return Ok(true);
    }
    if leading == 0 && entries.iter().all(|entry| entry.index.is_none()) {
        return Ok(true);
    }
    let count = leading + entries.len();
    let mut seen = vec![false; count];
    seen[..leading].fill(true);
    for (position, entry) in (leading..).zip(entries) {
        let Some((value, span)) = entry.index else {
            let message = format!("{what} has no index, but another has");
            return Err((position, DecodeError::new(DecodeKind::Index, entry.start, message)));
        };
        let message = match seen.get_mut(value) {
            None => format!("{what} index {value} of {count} {what}s"),
            Some(true) => format!("{what} index {value} is repeated"),
            Some(first) => {
                *first = true;
                continue;
            }
        };
        return Err((value, DecodeError::new(DecodeKind::Index, span.0, message)));
    }
    Ok(false)
}

/// Move each row `i` to `targets[i]`, in place: each swap brings one row home.
fn permute(memory: &mut [MaybeUninit<u8>], row_bytes: usize, mut targets: Vec<usize>) {
    for i in 0..targets.len() {
        while targets[i] != i {
            let target = targets[i];
            let (low, high) = (i.min(target), i.max(target));
            let (head, tail) = memory.split_at_mut(high * row_bytes);
            head[low * row_bytes..][..row_bytes].swap_with_slice(&mut tail[..row_bytes]);
            targets.swap(i, target);
        }
    }
}
