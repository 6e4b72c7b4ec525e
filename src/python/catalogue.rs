//! Rows of a catalogue, and their checksums.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::convert::Rows;
use super::errors::memory_error;
use crate::memory;

/// Add the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(row_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(document_rows, module)?)?;
    module.add_function(wrap_pyfunction!(chunk_rows, module)?)?;
    module.add_function(wrap_pyfunction!(rows_checksum, module)?)
}

/// Rows that one statement inserts, where there are so many: a statement for each row takes longer.
const TOGETHER: usize = 32;
/// Columns of the table of documents.
const DOCUMENT_COLUMNS: usize = 11;
/// Columns of the table of chunks.
const CHUNK_COLUMNS: usize = 7;

/// Pairs of a number of rows, and a list of parameters for a statement that inserts so many.
type Groups<'py> = Vec<(usize, Bound<'py, PyList>)>;

/// Parameters of statements, and the positions of the columns that are NULL or empty in all rows and have none.
type Insert<'py> = (Groups<'py>, Vec<usize>);

/// A checksum of values, each with its type and length, so that different rows give different bytes.
#[derive(Default)]
pub(super) struct RowChecksum(Vec<u8>);

impl RowChecksum {
    pub(super) fn of<'a, 'py>(values: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>) -> PyResult<u32>
    where
        'py: 'a,
    {
        let mut checksum = Self::default();
        for value in values {
            checksum.value(&value)?;
        }
        Ok(checksum.finish())
    }

    /// Return the checksum of the values so far, and begin another.
    fn finish(&mut self) -> u32 {
        let checksum = crc32fast::hash(&self.0);
        self.0.clear();
        checksum
    }

    fn none(&mut self) {
        self.0.push(b'n');
    }

    fn int(&mut self, value: i64) {
        self.0.push(b'i');
        if value < 0 {
            self.0.push(b'-');
        }
        self.digits(value.unsigned_abs());
    }

    /// Append a number and a semicolon. `write!` takes several times as long.
    fn digits(&mut self, mut value: u64) {
        let mut text = [b';'; 21];
        let mut start = 20;
        loop {
            start -= 1;
            text[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&text[start..]);
    }

    fn content(&mut self, kind: u8, content: &[u8]) -> PyResult<()> {
        self.0.try_reserve(content.len() + 32).map_err(|error| memory_error(error.into()))?;
        self.0.push(kind);
        self.digits(content.len() as u64);
        self.0.extend_from_slice(content);
        Ok(())
    }

    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if value.is_none() {
            self.none();
        } else if let Ok(text) = value.cast::<PyString>() {
            self.content(b't', text.to_str()?.as_bytes())?;
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            self.content(b'b', bytes.as_bytes())?;
        } else if value.is_instance_of::<PyInt>() {
            self.int(value.extract()?);
        } else if value.is_instance_of::<PyFloat>() {
            let hex: String = value.call_method0("hex")?.extract()?;
            self.0.push(b'f');
            self.0.extend_from_slice(hex.as_bytes());
            self.0.push(b';');
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

/// Return the rows of the table of documents: pairs of a number of rows, and a list of parameters for a statement that
/// inserts so many; and the positions of the columns that are NULL or empty in all rows, which have no parameters.
///
/// `documents` are `NewDocument`s, `vectors` the bytes of the rows of all their chunks, `first` the number of the first.
/// The columns are: number, id, key, details, source, metadata, first row, rows, checksum of the vectors, checksum,
/// record. Python's sqlite3 binds None and bytes only after a slow search for an adapter: 0 stands for a source, metadata
/// or a record that is None, and bytearrays for bytes.
#[pyfunction]
fn document_rows<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyList>,
    vectors: &Bound<'py, PyAny>,
    mut first: i64,
) -> PyResult<Insert<'py>> {
    let vectors = Rows::<u8>::extract("vectors", vectors)?;
    let (mut rest, width) = (vectors.values(), vectors.width());
    let mut columns = memory::vector(documents.len() * DOCUMENT_COLUMNS).map_err(memory_error)?;
    let mut checksum = RowChecksum::default();
    let mut absent = Absent::new([DETAILS, SOURCE, METADATA, RECORD]);
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
        for value in [&number, &name, &key, &details, &source, &metadata] {
            checksum.value(value)?;
        }
        for value in [first, count, i64::from(vectors_checksum)] {
            checksum.int(value);
        }
        for (column, value) in [(DETAILS, &details), (SOURCE, &source), (METADATA, &metadata), (RECORD, &record)] {
            absent.see(column, value)?;
        }
        columns.extend([number, name]);
        for value in [key, details, source, metadata] {
            columns.push(bound_fast(value)?);
        }
        for value in [first, count, i64::from(vectors_checksum), i64::from(checksum.finish())] {
            columns.push(value.into_pyobject(py)?.into_any());
        }
        columns.push(bound_fast(record)?);
        first += count;
    }
    grouped(py, columns, DOCUMENT_COLUMNS, absent.0)
}

/// Positions of the columns that may be NULL, or empty bytes.
const DETAILS: usize = 3;
const SOURCE: usize = 4;
const METADATA: usize = 5;
const RECORD: usize = 10;
const TEXT: usize = 3;
const START: usize = 4;
const STOP: usize = 5;

/// The columns that are NULL or empty in all rows so far.
struct Absent(Vec<usize>);

impl Absent {
    fn new(columns: impl Into<Vec<usize>>) -> Self {
        Self(columns.into())
    }

    /// Take the value of a column in the next row: None, or a text or bytes.
    fn see(&mut self, column: usize, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.0.contains(&column) {
            let absent = if column == DETAILS { value.len()? == 0 } else { value.is_none() };
            if !absent {
                self.0.retain(|other| *other != column);
            }
        }
        Ok(())
    }
}

/// Divide the columns of all rows into the parameters of statements. `absent` columns are left out.
fn grouped<'py>(
    py: Python<'py>,
    columns: Vec<Bound<'py, PyAny>>,
    mut width: usize,
    absent: Vec<usize>,
) -> PyResult<Insert<'py>> {
    let mut columns = columns;
    if !absent.is_empty() {
        let mut place = 0;
        columns.retain(|_| {
            let column = place;
            place = if place + 1 == width { 0 } else { place + 1 };
            !absent.contains(&column)
        });
        width -= absent.len();
    }
    let rows_together = columns.len() / (TOGETHER * width) * TOGETHER;
    let single = columns.len() / width - rows_together;
    let mut columns = columns.into_iter();
    let mut groups = vec![];
    for (count, statements) in [(TOGETHER, rows_together / TOGETHER), (1, single)] {
        let rows = PyList::empty(py);
        for _ in 0..statements {
            // Moved into the tuple, since counting references takes as long as the rest.
            let row: Vec<_> = columns.by_ref().take(count * width).collect();
            rows.append(PyTuple::new(py, row)?)?;
        }
        groups.push((count, rows));
    }
    Ok((groups, absent))
}

/// A value in a form that Python's sqlite3 binds without a search for an adapter.
fn bound_fast(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = value.py();
    if value.is_none() {
        Ok(0_i64.into_pyobject(py)?.into_any())
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        Ok(PyByteArray::new(py, bytes.as_bytes()).into_any())
    } else {
        Ok(value)
    }
}

/// Return the rows of the table of chunks, as `document_rows` does: row, document, chunk, text, start, stop, checksum.
///
/// `documents` are `NewDocument`s, `row` is the number of their first row. 0 stands for a text that is None, -1 for a
/// start or stop.
#[pyfunction]
#[pyo3(signature = (documents, row, *, keep_text))]
fn chunk_rows<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyList>,
    mut row: i64,
    keep_text: bool,
) -> PyResult<Insert<'py>> {
    let mut columns = memory::vector(documents.len() * CHUNK_COLUMNS).map_err(memory_error)?;
    let mut checksum = RowChecksum::default();
    let mut absent = Absent::new(if keep_text { vec![START, STOP] } else { vec![TEXT, START, STOP] });
    let (no_text, no_span) = (0_i64.into_pyobject(py)?.into_any(), (-1_i64).into_pyobject(py)?.into_any());
    for document in documents.iter() {
        let number = document.getattr(intern!(py, "number"))?;
        let texts = document.getattr(intern!(py, "chunks"))?.cast_into::<PyList>()?;
        let spans: Option<Bound<'_, PyList>> = document.getattr(intern!(py, "spans"))?.extract()?;
        columns.try_reserve(texts.len() * CHUNK_COLUMNS).map_err(|error| memory_error(error.into()))?;
        for (chunk, text) in texts.iter().enumerate() {
            checksum.int(row);
            checksum.value(&number)?;
            checksum.int(chunk as i64);
            columns.push(row.into_pyobject(py)?.into_any());
            columns.push(number.clone());
            columns.push(chunk.into_pyobject(py)?.into_any());
            if keep_text {
                checksum.value(&text)?;
                columns.push(text);
            } else {
                checksum.none();
                columns.push(no_text.clone());
            }
            if let Some(spans) = &spans {
                absent.0.retain(|column| *column == TEXT);
                let (start, stop): (i64, i64) = spans.get_item(chunk)?.extract()?;
                for value in [start, stop] {
                    checksum.int(value);
                    columns.push(value.into_pyobject(py)?.into_any());
                }
            } else {
                for _ in 0..2 {
                    checksum.none();
                    columns.push(no_span.clone());
                }
            }
            columns.push(checksum.finish().into_pyobject(py)?.into_any());
            row += 1;
        }
    }
    grouped(py, columns, CHUNK_COLUMNS, absent.0)
}

/// Return the CRC-32 of rows of bytes.
#[pyfunction]
fn rows_checksum(rows: &Bound<'_, PyAny>) -> PyResult<u32> {
    Ok(crc32fast::hash(Rows::<u8>::extract("rows", rows)?.values()))
}
