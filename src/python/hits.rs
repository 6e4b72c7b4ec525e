//! What a search found as JSON, without an object of Python for each hit.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use serde::Serialize;

use super::catalogue::RowChecksum;

/// Add the function to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(hits_json, module)?)
}

/// Columns of a chunk: row, document, chunk, text, start, stop, checksum.
const CHUNK: usize = 7;
/// Columns of a document: number, id, key, details, source, metadata, first row, rows, checksum of the vectors, checksum.
const DOCUMENT: usize = 10;

/// A chunk and its document, checked.
struct Found<'a> {
    chunk: i64,
    text: Option<&'a str>,
    span: Option<(i64, i64)>,
    document: &'a str,
    source: Option<&'a str>,
    /// JSON.
    metadata: &'a str,
}

impl<'a> Found<'a> {
    /// Check the columns of a chunk and of its document.
    fn check(values: &'a Bound<'_, PyTuple>) -> PyResult<(i64, Self)> {
        if values.len() != CHUNK + DOCUMENT {
            return Err(PyValueError::new_err(format!("expected {CHUNK} + {DOCUMENT} columns, got {}", values.len())));
        }
        let row: i64 = values.get_borrowed_item(0)?.extract()?; // the primary key
        let changed = |_| PyValueError::new_err(format!("the chunk of row {row} is changed"));
        check_columns(values, 0, CHUNK).map_err(changed)?;
        let number: i64 = values.get_borrowed_item(1)?.extract()?;
        if values.get_borrowed_item(CHUNK)?.is_none() {
            return Err(PyValueError::new_err(format!("it has no document {number}")));
        }
        let changed = |_| PyValueError::new_err(format!("the document number {number} is changed"));
        check_columns(values, CHUNK, DOCUMENT).map_err(changed)?;
        let start: Option<i64> = values.get_borrowed_item(4)?.extract()?;
        let stop: Option<i64> = values.get_borrowed_item(5)?.extract()?;
        let metadata: Option<&str> = values.get_borrowed_item(CHUNK + 5)?.extract()?;
        let found = Self {
            chunk: values.get_borrowed_item(2)?.extract()?,
            text: values.get_borrowed_item(3)?.extract()?,
            span: start.zip(stop),
            document: values.get_borrowed_item(CHUNK + 1)?.extract()?,
            source: values.get_borrowed_item(CHUNK + 4)?.extract()?,
            metadata: metadata.filter(|text| !text.is_empty()).unwrap_or("{}"),
        };
        Ok((row, found))
    }

    /// Write it as the object of a `Hit`, whose passage is the chunk alone.
    fn write(&self, json: &mut Vec<u8>, score: f64) {
        field(json, b"{\"document\":", self.document);
        field(json, b",\"chunk\":", self.chunk);
        field(json, b",\"score\":", score);
        json.extend_from_slice(b",\"text\":");
        let start = json.len();
        value(json, self.text);
        let text = start..json.len();
        json.extend_from_slice(b",\"metadata\":");
        json.extend_from_slice(self.metadata.as_bytes());
        field(json, b",\"span\":", self.span);
        field(json, b",\"vector_score\":", score);
        field(json, b",\"text_score\":null,\"source\":", self.source);
        json.extend_from_slice(b",\"passage\":");
        json.extend_from_within(text);
        field(json, b",\"passage_chunks\":", (self.chunk, self.chunk.saturating_add(1)));
        field(json, b",\"passage_span\":", self.span);
        field(json, b",\"passage_offset\":", self.text.map(|_| 0));
        json.push(b'}');
    }
}

/// Compare the last of some columns with the checksum of the others.
fn check_columns(values: &Bound<'_, PyTuple>, first: usize, count: usize) -> PyResult<()> {
    let found = RowChecksum::of(values.iter_borrowed().skip(first).take(count - 1))?;
    let expected: u32 = values.get_borrowed_item(first + count - 1)?.extract()?;
    if found == expected { Ok(()) } else { Err(PyValueError::new_err("the checksums differ")) }
}

fn field(json: &mut Vec<u8>, name: &[u8], content: impl Serialize) {
    json.extend_from_slice(name);
    value(json, content);
}

fn value(json: &mut Vec<u8>, content: impl Serialize) {
    serde_json::to_writer(json, &content).expect("numbers and texts are written to memory");
}

/// Return the hits of each search as JSON: a list of objects with the fields of `Hit`.
///
/// `searches` has (rows, scores) of each search. `found` has the columns of each of these rows, in any order: those of the
/// chunk and of its document, both with their checksums. What is missing or changed is a ValueError.
#[pyfunction]
fn hits_json<'py>(
    py: Python<'py>,
    found: &Bound<'py, PyList>,
    searches: Vec<(Vec<i64>, Vec<f64>)>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let found: Vec<Bound<'_, PyTuple>> = found.extract()?;
    let found: HashMap<i64, Found<'_>> = found.iter().map(Found::check).collect::<PyResult<_>>()?;
    let mut json = vec![];
    let mut write = |(rows, scores): (Vec<i64>, Vec<f64>)| {
        json.clear();
        json.push(b'[');
        for (row, score) in rows.into_iter().zip(scores) {
            let one = found.get(&row);
            let one = one.ok_or_else(|| PyValueError::new_err(format!("it has no chunk for row {row}")))?;
            if json.len() > 1 {
                json.push(b',');
            }
            one.write(&mut json, score);
        }
        json.push(b']');
        Ok(PyBytes::new(py, &json))
    };
    searches.into_iter().map(&mut write).collect()
}
