//! Rows of a catalogue: their checksums, and the bytes that a document's key hashes.

use std::io::Write;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::convert::Rows;
use super::errors::memory_error;
use crate::memory;

/// Add the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(row_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(chunk_rows, module)?)?;
    module.add_function(wrap_pyfunction!(rows_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(sized_texts, module)?)
}

/// A checksum of values, each with its type and length, so that different rows give different bytes.
#[derive(Default)]
struct RowChecksum(crc32fast::Hasher);

impl RowChecksum {
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
    let mut checksum = RowChecksum::default();
    for value in values.iter_borrowed() {
        checksum.value(&value)?;
    }
    Ok(checksum.0.finalize())
}

/// Return the rows of a document's chunks: row, document, chunk, text, start, stop, checksum.
#[pyfunction]
fn chunk_rows<'py>(
    py: Python<'py>,
    row: i64,
    document: i64,
    texts: &Bound<'py, PyList>,
    spans: Option<&Bound<'py, PyList>>,
    keep_text: bool,
) -> PyResult<Bound<'py, PyList>> {
    let rows = PyList::empty(py);
    for (chunk, text) in texts.iter().enumerate() {
        let (row, chunk) = (row + chunk as i64, chunk as i64);
        let mut checksum = RowChecksum::default();
        checksum.int(row);
        checksum.int(document);
        checksum.int(chunk);
        let text = if keep_text { text } else { py.None().into_bound(py) };
        checksum.value(&text)?;
        let span: Option<(i64, i64)> = match spans {
            Some(spans) => Some(spans.get_item(chunk as usize)?.extract()?),
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
        rows.append((row, document, chunk, text, start, stop, checksum.0.finalize()))?;
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
