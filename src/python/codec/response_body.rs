//! Response bodies as Python sees them: whole, or as they arrive.

use std::sync::{Mutex, PoisonError};

use numpy::ToPyArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::super::convert::{self, Out};
use super::{encoding, row_bytes};
use crate::codec::Encoding;
use crate::codec::response::{self, Decoded, Expected, SliceRows, Stream};
use crate::error::Error;
use crate::isa::Isa;

/// Add what this file holds to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(decode_response, module)?)?;
    module.add_class::<ResponseDecoder>()?;
    Ok(())
}

/// The bytes of `body`. Other buffers than bytes are copied, since their owner could change them meanwhile.
pub(super) fn bytes_of<'py>(body: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = body.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    if body.is_instance_of::<PyByteArray>() || body.is_instance_of::<PyMemoryView>() {
        return Ok(body.py().get_type::<PyBytes>().call1((body,))?.cast_into()?);
    }
    Err(PyTypeError::new_err(format!(
        "body must be bytes (of one HTTP response), got {}",
        body.get_type().name()?.to_string_lossy()
    )))
}

/// (vectors, offsets, model, dimensions, usage), where usage is (`prompt_tokens`, `total_tokens`, `total_cost`).
type Response<'py> =
    (Bound<'py, PyAny>, Bound<'py, PyAny>, Option<String>, usize, Option<(Option<i64>, Option<i64>, Option<String>)>);

#[pyfunction]
#[pyo3(signature = (body, shape, dimensions, encoding_format, out))]
fn decode_response<'py>(
    py: Python<'py>,
    body: &Bound<'py, PyAny>,
    shape: Option<&Bound<'py, PyAny>>,
    dimensions: Option<&Bound<'py, PyAny>>,
    encoding_format: &str,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Response<'py>> {
    let body = bytes_of(body)?;
    let body = body.as_bytes();
    let encoding = encoding(encoding_format)?;
    let signed = encoding == Encoding::Int8;
    let row_bytes = row_bytes(encoding, dimensions)?;
    let shape = shape.map(chunk_counts).transpose()?;
    let total = shape.as_ref().map(|shape| shape.iter().fold(0_usize, |sum, &n| sum.saturating_add(n)));
    let mut expected = Expected { shape, row_bytes, encoding };
    let isa = Isa::codec();

    let (vectors, decoded) = if let Some(object) = out {
        let mut out = Out::extract(object, signed)?;
        let (rows, width) = out.shape();
        if total.is_some_and(|total| total != rows) || row_bytes.is_some_and(|bytes| bytes != width) {
            let want = (total.unwrap_or(rows), row_bytes.unwrap_or(width));
            return Err(PyValueError::new_err(format!("out has shape ({rows}, {width}), expected {want:?}")));
        }
        expected.row_bytes = Some(width);
        let decoded = out.with(py, |memory| {
            let decoded = response::decode(isa, body, &expected, &mut SliceRows::new(memory))?;
            if decoded.rows() == rows {
                Ok(decoded)
            } else {
                Err(Error::Value(format!("out has {rows} rows, the response has {}", decoded.rows())))
            }
        })?;
        (object.clone(), decoded)
    } else {
        if expected.row_bytes.is_none() {
            expected.row_bytes = response::first_row_bytes(body, &expected);
        }
        let width = expected.row_bytes.unwrap_or(0);
        // What the caller asked for, but no more than the body can hold.
        let room = response::most_rows(body, width).min(total.unwrap_or(usize::MAX));
        let (vectors, decoded) = convert::filled_bytes(py, &[room, width], signed, |memory| {
            response::decode(isa, body, &expected, &mut SliceRows::new(memory))
        })?;
        if decoded.rows() < room {
            convert::shrink(&vectors, &[decoded.rows(), width])?;
        }
        (vectors, decoded)
    };
    Ok(result(py, vectors, decoded, encoding.dimensions(expected.row_bytes.unwrap_or(0))))
}

fn result<'py>(py: Python<'py>, vectors: Bound<'py, PyAny>, decoded: Decoded, dimensions: usize) -> Response<'py> {
    let usage = decoded.usage.map(|usage| {
        let usd = usage.currency.as_deref().is_none_or(|currency| currency == "USD");
        (usage.prompt_tokens, usage.total_tokens, usage.total_cost.filter(|_| usd))
    });
    (vectors, decoded.offsets.to_pyarray(py).into_any(), decoded.model, dimensions, usage)
}

/// `shape`: chunks of each document that was asked for.
fn chunk_counts(shape: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    if let Ok(counts) = shape.extract::<Vec<usize>>() {
        return Ok(counts);
    }
    let entries = shape.try_iter().map_err(|_| {
        PyTypeError::new_err(format!("shape must be the chunks of each document, got {}", convert::shown(shape)))
    })?;
    entries.enumerate().map(|(i, entry)| convert::integer(&format!("shape[{i}]"), &entry?, 0)).collect()
}

/// Decodes one response while it arrives. Wrapped by the class of the same name in `_codec.py`.
#[pyclass(frozen, module = "ctxembed._core")]
struct ResponseDecoder {
    /// None once finished.
    stream: Mutex<Option<Stream>>,
    encoding: Encoding,
    row_bytes: Option<usize>,
}

#[pymethods]
impl ResponseDecoder {
    #[new]
    fn new(
        shape: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyAny>>,
        encoding_format: &str,
    ) -> PyResult<Self> {
        let encoding = encoding(encoding_format)?;
        let row_bytes = row_bytes(encoding, dimensions)?;
        let expected = Expected { shape: shape.map(chunk_counts).transpose()?, row_bytes, encoding };
        Ok(Self { stream: Mutex::new(Some(Stream::new(Isa::codec(), expected))), encoding, row_bytes })
    }

    /// Decode the next part of the body.
    fn feed(&self, py: Python<'_>, part: &Bound<'_, PyAny>) -> PyResult<()> {
        let part = bytes_of(part)?;
        let part = part.as_bytes();
        convert::detached(py, || {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.as_mut().ok_or_else(finished)?.feed(part)
        })
    }

    /// End the body, and give what `decode_response` gives.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Response<'py>> {
        let (decoded, memory) = convert::detached(py, || {
            let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(finished)?.finish()
        })?;
        let width = decoded.row_bytes.or(self.row_bytes).unwrap_or(0);
        let shape = [decoded.rows(), width];
        let vectors = convert::adopted_bytes(py, memory, shape, self.encoding == Encoding::Int8)?;
        Ok(result(py, vectors, decoded, self.encoding.dimensions(width)))
    }
}

fn finished() -> Error {
    Error::Value("this decoder has given its result: make a new one for each response".to_owned())
}
