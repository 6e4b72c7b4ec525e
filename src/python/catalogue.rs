//! Rows of a catalogue: their checksums, and the bytes that a document's key hashes.

use std::io::Write;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::convert::Rows;
use super::errors::memory_error;
use crate::memory;

/// Add the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(row_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(document_rows, module)?)?;
    module.add_function(wrap_pyfunction!(chunk_rows, module)?)?;
    module.add_function(wrap_pyfunction!(rows_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(sized_texts, module)?)
}

/// A checksum of values, each with its type and length, so that different rows give different bytes.
#[derive(Default)]
pub(super) struct RowChecksum(crc32fast::Hasher);

impl RowChecksum {
    pub(super) fn of<'a, 'py>(values: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>) -> PyResult<u32>
    where
        'py: 'a,
    {
        let mut checksum = Self::default();
        for value in values {
            checksum.value(&value)?;
        }
        Ok(checksum.0.finalize())
    }

    fn none(&mut self) {
        self.0.update(b"n");
    }

    fn int(&mut self, value: i64) {
        let mut text = [0; 24];
        let mut rest = &mut text[..];
        write!(rest, "i{value};").expect("an i64 has at most 20 characters");
        let length = 24 - rest.len();
        self.0.update(&text[..length]);
    }

    fn content(&mut self, kind: char, content: &[u8]) {
        let mut text = [0; 24];
        let mut rest = &mut text[..];
        write!(rest, "{kind}{};", content.len()).expect("a length has at most 20 characters");
        let length = 24 - rest.len();
        self.0.update(&text[..length]);
        self.0.update(content);
    }

    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if value.is_none() {
            self.none();
        } else if let Ok(text) = value.cast::<PyString>() {
            self.content('t', text.to_str()?.as_bytes());
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            self.content('b', bytes.as_bytes());
        } else if value.is_instance_of::<PyInt>() {
            self.int(value.extract()?);
        } else if value.is_instance_of::<PyFloat>() {
            let hex: String = value.call_method0("hex")?.extract()?;
            self.0.update(b"f");
            self.0.update(hex.as_bytes());
            self.0.update(b";");
        } else {
            let kind = value.get_type();
            return Err(PyTypeError::new_err(format!("a row holds no {}", kind.name()?)));
        }
        Ok(())
    }
}

/// Return the CRC-32 of the values of a row: None, int, float, str or bytes, each with its type and length.
#[pyfunction]
fn row_checksum(values: &Bound<'_, PyTuple>) -> PyResult<u32> {
    RowChecksum::of(values.iter_borrowed())
}

/// Return the rows of the table of documents.
///
/// `documents` are `NewDocument`s, `vectors` the bytes of the rows of all their chunks, `first` the number of the first.
/// The columns are: number, id, key, details, source, metadata, first row, rows, checksum of the vectors, checksum,
/// record.
#[pyfunction]
fn document_rows<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyList>,
    vectors: &Bound<'py, PyAny>,
    mut first: i64,
) -> PyResult<Bound<'py, PyList>> {
    let vectors = Rows::<u8>::extract("vectors", vectors)?;
    let (mut rest, width) = (vectors.values(), vectors.width());
    let rows = PyList::empty(py);
    for document in documents.iter() {
        let number = document.getattr(intern!(py, "number"))?;
        let name = document.getattr(intern!(py, "id"))?;
        let key = document.getattr(intern!(py, "key"))?;
        let details = document.getattr(intern!(py, "details"))?;
        let source = document.getattr(intern!(py, "source"))?;
        let metadata = document.getattr(intern!(py, "metadata"))?;
        let record = document.getattr(intern!(py, "record"))?;
        let count = document.getattr(intern!(py, "chunks"))?.len()?;
        let Some((own, others)) = count.checked_mul(width).and_then(|bytes| rest.split_at_checked(bytes)) else {
            return Err(PyValueError::new_err("vectors has fewer rows than the documents have chunks"));
        };
        rest = others;
        let (count, vectors_checksum) = (count as i64, crc32fast::hash(own));
        let mut checksum = RowChecksum::default();
        for value in [&number, &name, &key, &details, &source, &metadata] {
            checksum.value(value)?;
        }
        for value in [first, count, i64::from(vectors_checksum)] {
            checksum.int(value);
        }
        let checksum = checksum.0.finalize();
        rows.append((number, name, key, details, source, metadata, first, count, vectors_checksum, checksum, record))?;
        first += count;
    }
    Ok(rows)
}

/// Return the rows of the table of chunks: row, document, chunk, text, start, stop, checksum.
///
/// `documents` are `NewDocument`s, `row` is the number of their first row.
#[pyfunction]
#[pyo3(signature = (documents, row, *, keep_text))]
fn chunk_rows<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyList>,
    mut row: i64,
    keep_text: bool,
) -> PyResult<Bound<'py, PyList>> {
    let rows = PyList::empty(py);
    for document in documents.iter() {
        let number: i64 = document.getattr(intern!(py, "number"))?.extract()?;
        let texts = document.getattr(intern!(py, "chunks"))?.cast_into::<PyList>()?;
        let spans: Option<Bound<'_, PyList>> = document.getattr(intern!(py, "spans"))?.extract()?;
        for (chunk, text) in texts.iter().enumerate() {
            let mut checksum = RowChecksum::default();
            checksum.int(row);
            checksum.int(number);
            checksum.int(chunk as i64);
            let text = if keep_text { text } else { py.None().into_bound(py) };
            checksum.value(&text)?;
            let span: Option<(i64, i64)> = match &spans {
                Some(spans) => Some(spans.get_item(chunk)?.extract()?),
                None => None,
            };
            if let Some((start, stop)) = span {
                checksum.int(start);
                checksum.int(stop);
            } else {
                checksum.none();
                checksum.none();
            }
            let (start, stop) = (span.map(|span| span.0), span.map(|span| span.1));
            rows.append((row, number, chunk, text, start, stop, checksum.0.finalize()))?;
            row += 1;
        }
    }
    Ok(rows)
}

/// Return the CRC-32 of rows of bytes.
#[pyfunction]
fn rows_checksum(rows: &Bound<'_, PyAny>) -> PyResult<u32> {
    Ok(crc32fast::hash(Rows::<u8>::extract("rows", rows)?.values()))
}

/// Return the number of texts and each text in UTF-8 behind its length; numbers have 8 bytes, least first.
#[pyfunction]
fn sized_texts<'py>(py: Python<'py>, texts: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = memory::vector(8 + texts.len() * 8).map_err(memory_error)?;
    bytes.extend_from_slice(&(texts.len() as u64).to_le_bytes());
    for text in texts.iter() {
        let text = text.cast_into::<PyString>()?;
        let text = text.to_str()?.as_bytes();
        bytes.try_reserve(8 + text.len()).map_err(|error| memory_error(error.into()))?;
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    Ok(PyBytes::new(py, &bytes))
}
