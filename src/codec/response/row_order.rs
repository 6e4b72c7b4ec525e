//! Checks the indexes of documents and chunks, and moves rows to the places that they give.
//!
//! Rows are decoded in order of appearance. The indexes of chunks are checked when their document ends, those of
//! documents when the list ends. Rows move once, at the end; in the usual order none does.

use std::mem::MaybeUninit;

use super::rows::Rows;
use crate::error::{DecodeError, DecodeKind, Error};
use crate::memory;

/// From and to, in bytes of the body.
pub(super) type Span = (usize, usize);

/// Offsets of the parts of a finished object in the body.
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
    /// Its `index`, and the place of that in the body.
    index: Option<(usize, Span)>,
    /// Offset of the opening brace.
    start: usize,
    /// The first row it owns.
    row: usize,
}

/// The documents, chunks and rows so far, with their indexes.
#[derive(Debug)]
pub(super) struct RowOrder {
    documents: Vec<Entry>,
    /// Leading chunks of the open document that came in order, each with its index. No later error can concern them, so
    /// only their number is kept.
    leading: usize,
    /// The open document's chunks after those.
    chunks: Vec<Entry>,
    /// Chunks that the request has in the open document, where the request and the document's index are known.
    requested: Option<usize>,
    /// The row number that each row belongs at, within its document; empty while each row is there.
    moves: Vec<usize>,
    rows: usize,
    /// Chunks of the whole request.
    most_rows: usize,
    /// The text of the last vector.
    text: Span,
    plain: bool,
    /// Whether documents hold a vector each (the plain embeddings endpoint) rather than chunks.
    flat: Option<bool>,
}

impl RowOrder {
    /// No document yet; the request has `most_rows` chunks at most.
    pub(super) fn new(most_rows: usize) -> Self {
        Self {
            documents: Vec::new(),
            leading: 0,
            chunks: Vec::new(),
            requested: None,
            moves: Vec::new(),
            rows: 0,
            most_rows,
            text: (0, 0),
            plain: false,
            flat: None,
        }
    }

    /// Chunks of the whole request.
    pub(super) fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The open document's index, or its position while the index is not known.
    pub(super) fn document(&self) -> usize {
        self.documents.last().map_or(0, |entry| entry.index.map_or(self.documents.len() - 1, |(value, _)| value))
    }

    /// The open chunk's index, or its position while the index is not known.
    pub(super) fn chunk(&self) -> usize {
        let position = (self.leading + self.chunks.len()).saturating_sub(1);
        self.chunks.last().and_then(|entry| entry.index).map_or(position, |(value, _)| value)
    }

    /// Offsets of the start of the document before the open one, of the start of the open one, and of its index.
    pub(super) fn document_starts(&self) -> Option<(usize, usize, Span)> {
        let [.., before, open] = self.documents.as_slice() else { return None };
        Some((before.start, open.start, open.index?.1))
    }

    pub(super) fn begin_document(&mut self, start: usize) -> Result<(), Error> {
        memory::push(&mut self.documents, Entry { index: None, start, row: self.rows })?;
        self.leading = 0;
        self.chunks.clear();
        self.requested = None;
        Ok(())
    }

    pub(super) fn begin_chunk(&mut self, start: usize) -> Result<(), Error> {
        memory::push(&mut self.chunks, Entry { index: None, start, row: self.rows })
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
            let message = format!("document index {value}, but {} documents were requested", shape.len());
            return Err(DecodeError::new(DecodeKind::Index, span.0, message));
        }
        if let Some(entry) = self.documents.last_mut() {
            entry.index = Some((value, span));
        }
        self.requested = shape.and_then(|shape| shape.get(value).copied());
        Ok(())
    }

    pub(super) fn chunk_index(&mut self, value: usize, span: Span) -> Result<(), DecodeError> {
        if let Some(count) = self.requested
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

    /// Add a whole chunk (or document of a flat list) and its row; false, and nothing done, where the request does not
    /// have its index, or memory is short.
    #[inline]
    pub(super) fn push_item(
        &mut self,
        chunk: bool,
        start: usize,
        value: usize,
        span: Span,
        shape: Option<&[usize]>,
    ) -> bool {
        // The usual case, of which a row has next to no cost.
        if chunk && value == self.leading && self.chunks.is_empty() && self.requested.is_none_or(|count| value < count)
        {
            self.leading += 1;
            self.rows += 1;
            return true;
        }
        self.push_entry(chunk, Entry { index: Some((value, span)), start, row: self.rows }, shape)
    }

    /// [`RowOrder::push_item`] for a document, or for a chunk that is not the next in order.
    #[inline(never)]
    fn push_entry(&mut self, chunk: bool, entry: Entry, shape: Option<&[usize]>) -> bool {
        let Some((value, _)) = entry.index else { return false };
        let requested = if chunk {
            self.requested.is_none_or(|count| value < count)
        } else {
            shape.is_none_or(|shape| shape.get(value) == Some(&1))
        };
        let entries = if chunk { &mut self.chunks } else { &mut self.documents };
        if !requested || memory::push(entries, entry).is_err() {
            return false;
        }
        self.rows += 1;
        true
    }

    /// The chunk that has just ended, or the document of a flat list.
    pub(super) fn item(&self, chunk: bool) -> Option<Item> {
        let entry = if chunk { self.chunks.last() } else { self.documents.last() }?;
        Some(Item { start: entry.start, index: entry.index.map(|(_, span)| span), text: self.text, plain: self.plain })
    }

    /// The open document ends at `offset`: check its chunks.
    pub(super) fn end_document(&mut self, flat: bool, offset: usize) -> Result<(), Error> {
        if *self.flat.get_or_insert(flat) != flat {
            let message = "some documents hold chunks and some a vector of their own";
            return Err(DecodeError::new(DecodeKind::Structure, offset, message).into());
        }
        let count = if flat { 1 } else { self.leading + self.chunks.len() };
        if let Some(requested) = self.requested
            && requested != count
        {
            return Err(wrong_count(offset, count, requested).into());
        }
        if flat {
            return Ok(());
        }
        let first = self.rows - count;
        let in_order = check(self.leading, &self.chunks, "chunk", |chunk, error| error.at(None, Some(chunk)))?;
        if !in_order && self.moves.is_empty() {
            self.moves.try_reserve(self.rows)?;
            self.moves.extend(0..first);
        }
        if !self.moves.is_empty() || !in_order {
            self.moves.try_reserve(count)?;
            let after = first + self.leading;
            self.moves.extend(first..after);
            let target = |(i, entry): (usize, &Entry)| entry.index.map_or(after + i, |(value, _)| first + value);
            self.moves.extend(self.chunks.iter().enumerate().map(target));
        }
        Ok(())
    }

    /// The list of documents ends at `offset`: check it.
    pub(super) fn end_documents(&mut self, offset: usize, shape: Option<&[usize]>) -> Result<(), Error> {
        let found = self.documents.len();
        if let Some(shape) = shape
            && shape.len() != found
        {
            let message = format!("response has {found} documents, {} were requested", shape.len());
            return Err(DecodeError::new(DecodeKind::Shape, offset, message).into());
        }
        check(0, &self.documents, "document", |document, error| error.at(Some(document), None))?;
        // Only now is it certain that no document has an index, and that each one's position is its index.
        if let Some(shape) = shape {
            for (position, (&requested, entry)) in shape.iter().zip(&self.documents).enumerate() {
                let count = self.count(position);
                if entry.index.is_none() && count != requested {
                    return Err(wrong_count(offset, count, requested).at(Some(position), None).into());
                }
            }
        }
        Ok(())
    }

    /// Rows of the document at a position in the body.
    fn count(&self, position: usize) -> usize {
        self.documents.get(position + 1).map_or(self.rows, |next| next.row) - self.documents[position].row
    }

    /// Move rows to their places; returns the first row of each document, and the number of rows.
    pub(super) fn finish(self, row_bytes: Option<usize>, rows: &mut impl Rows) -> Result<Vec<i64>, Error> {
        let in_order =
            self.documents.iter().enumerate().all(|(i, entry)| entry.index.is_none_or(|(value, _)| value == i));
        let total = std::iter::once(self.rows as i64);
        if in_order {
            if let (false, Some(row_bytes)) = (self.moves.is_empty(), row_bytes) {
                permute(rows.rows(self.rows), row_bytes, self.moves);
            }
            let mut offsets = memory::vector(self.documents.len() + 1)?;
            offsets.extend(self.documents.iter().map(|entry| entry.row as i64).chain(total));
            return Ok(offsets);
        }
        let places = self.documents.iter().enumerate().map(|(i, entry)| entry.index.map_or(i, |(value, _)| value));
        let places: Vec<usize> = memory::collected(places)?;
        let mut offsets = memory::vector(places.len() + 1)?;
        offsets.resize(places.len() + 1, 0);
        for (position, &place) in places.iter().enumerate() {
            offsets[place + 1] = self.count(position) as i64;
        }
        for i in 1..offsets.len() {
            offsets[i] += offsets[i - 1];
        }
        let mut targets = memory::vector(self.rows)?;
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
        Ok(offsets)
    }
}

fn wrong_count(offset: usize, found: usize, requested: usize) -> DecodeError {
    DecodeError::new(DecodeKind::Shape, offset, format!("document has {found} chunks, {requested} were requested"))
}

/// Check that the indexes are all absent, or each of `0..n` once, of which the first `leading` came in order; returns
/// whether they are in order. `locate` adds the index or position at fault to an error.
fn check(
    leading: usize,
    entries: &[Entry],
    what: &str,
    locate: impl Fn(usize, DecodeError) -> DecodeError,
) -> Result<bool, Error> {
    let mut positions = (leading..).zip(entries);
    if positions.all(|(i, entry)| entry.index.is_some_and(|(value, _)| value == i)) {
        return Ok(true);
    }
    if leading == 0 && entries.iter().all(|entry| entry.index.is_none()) {
        return Ok(true);
    }
    let count = leading + entries.len();
    let mut seen = memory::vector(count)?;
    seen.resize(leading, true);
    seen.resize(count, false);
    for (position, entry) in (leading..).zip(entries) {
        let Some((value, span)) = entry.index else {
            let message = format!("{what} has no index, but another has");
            return Err(locate(position, DecodeError::new(DecodeKind::Index, entry.start, message)).into());
        };
        let message = match seen.get_mut(value) {
            None => format!("{what} index {value} of {count} {what}s"),
            Some(true) => format!("{what} index {value} is repeated"),
            Some(first) => {
                *first = true;
                continue;
            }
        };
        return Err(locate(value, DecodeError::new(DecodeKind::Index, span.0, message)).into());
    }
    Ok(false)
}

/// Move each row `i` to `targets[i]`, in place: each swap brings one row to its target.
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
