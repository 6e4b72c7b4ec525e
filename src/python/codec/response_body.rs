//! Decoding of response bodies, whole or while they arrive.

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyMemoryView, PyString, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, intern};

use super::super::classes::{EMBEDDINGS, USAGE, model_and_space};
use super::super::convert::{self, Out};
use super::super::errors::memory_error;
use super::super::export::export;
use super::super::scalars::Argument;
use super::encoding::{encoding, row_bytes};
use super::new_rows::NewRows;
use crate::codec::Encoding;
use crate::codec::response::{self, Decoded, Expected, SliceRows, Stream, Usage};
use crate::error::Error;
use crate::isa::Isa;
use crate::memory;

/// Add the function and the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    export(module, wrap_pyfunction!(decode_response, module)?)?;
    module.add_class::<ResponseDecoder>()?;
    Ok(())
}

/// The bytes of `body`. A mutable buffer is copied, because its owner could change it meanwhile.
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

/// Decode and validate the body of one API response.
///
/// Parameters
/// ----------
/// body : bytes
///     The response body of either embeddings endpoint. A ``bytearray`` or ``memoryview`` is copied first.
/// shape : sequence of int, optional
///     Expected number of chunks of each document.
/// dimensions : int, optional
///     Expected dimensions of each vector. By default those of the first vector.
/// encoding_format : {"base64_int8", "base64_binary"}, default "base64_int8"
///     The requested encoding.
/// out : ndarray of int8 or uint8, shape (n_chunks, width), optional
///     Decode into this C-contiguous array instead of a new one. After an error its contents are undefined.
///
/// Returns
/// -------
/// Embeddings
///     Rows ordered by document and chunk index, whatever their order in the body. ``vectors`` is ``out`` if given.
///     Each text of the plain embeddings endpoint is a document of one chunk.
///
/// Raises
/// ------
/// DecodeError
///     The body is not JSON, is not a response, or does not hold each (document, chunk) exactly once with a vector of
///     the right length. ``kind`` says what is wrong; ``offset``, ``document`` and ``chunk`` say where. Until the body
///     has given an index, the position takes its place.
/// ValueError
///     ``out``, ``dimensions`` and ``encoding_format`` do not fit each other.
///
/// Notes
/// -----
/// Decoding is one pass from bytes to matrix, with the GIL released and without a Python object per chunk. No more is
/// allocated than a body of this length can fill.
///
/// Examples
/// --------
/// >>> body = b'{"data": [{"index": 0, "data": [{"index": 0, "embedding": "AQID"}]}], "usage": {"total_tokens": 9}}'
/// >>> emb = decode_response(body, shape=[1], dimensions=3)
/// >>> emb.vectors, emb.usage.total_tokens
/// (array([[1, 2, 3]], dtype=int8), 9)
#[pyfunction]
#[pyo3(
    signature = (body, *, shape=None, dimensions=None, encoding_format=Argument::Default("base64_int8"), out=None),
    text_signature = "(body, *, shape=None, dimensions=None, encoding_format='base64_int8', out=None)",
)]
fn decode_response<'py>(
    py: Python<'py>,
    body: &Bound<'py, PyAny>,
    shape: Option<&Bound<'py, PyAny>>,
    dimensions: Option<&Bound<'py, PyAny>>,
    encoding_format: Argument<'py, &'static str>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let body = bytes_of(body)?;
    let body = body.as_bytes();
    let encoding = encoding(encoding_format)?;
    let row_bytes = row_bytes(encoding, dimensions)?;
    let shape = shape.map(chunk_counts).transpose()?;
    let expected = Expected { shape, row_bytes, encoding };
    let (vectors, decoded) = match out {
        Some(out) => decode_into(py, body, expected, out)?,
        None => decode_new(py, body, expected)?,
    };
    embeddings(py, vectors, decoded, encoding, row_bytes)
}

/// Decode into the caller's array.
fn decode_into<'py>(
    py: Python<'py>,
    body: &[u8],
    mut expected: Expected,
    array: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Decoded)> {
    let mut out = Out::extract(array, expected.encoding == Encoding::Int8)?;
    let (rows, width) = out.shape();
    let want = (expected.total().unwrap_or(rows), expected.row_bytes.unwrap_or(width));
    if want != (rows, width) {
        return Err(PyValueError::new_err(format!("out has shape ({rows}, {width}), expected {want:?}")));
    }
    expected.row_bytes = Some(width);
    let fill = |memory: &mut [MaybeUninit<u8>]| {
        let decoded = response::decode(Isa::codec(), body, expected, &mut SliceRows::new(memory))?;
        if decoded.rows() == rows {
            Ok(decoded)
        } else {
            Err(Error::Value(format!("out has {rows} rows, the response has {}", decoded.rows())))
        }
    };
    // SAFETY: `decode` writes initialised bytes.
    #[expect(unsafe_code, reason = "initialised memory stays so")]
    let decoded = unsafe { out.with(py, fill) }?;
    Ok((array.clone(), decoded))
}

/// Bodies up to this length are decoded attached: it takes less time than a switch to another thread.
const MAX_ATTACHED: usize = 1 << 14;

/// Decode into a new array.
fn decode_new<'py>(py: Python<'py>, body: &[u8], mut expected: Expected) -> PyResult<(Bound<'py, PyAny>, Decoded)> {
    let total = expected.total().unwrap_or(usize::MAX);
    // The requested rows, but no more than fit in the body.
    let room = move |width| response::most_rows(body, width).min(total);
    let signed = expected.encoding == Encoding::Int8;
    if body.len() <= MAX_ATTACHED {
        let known = expected.row_bytes;
        let mut rows = NewRows::new(py, signed, room);
        let decoded = response::decode(Isa::codec(), body, expected, &mut rows).map_err(|error| rows.error(error))?;
        // SAFETY: `decode` has written the rows that it says.
        #[expect(unsafe_code, reason = "every row is written")]
        let vectors = unsafe { rows.finish(decoded.rows(), decoded.row_bytes.or(known).unwrap_or(0)) }?;
        return Ok((vectors, decoded));
    }
    if expected.row_bytes.is_none() {
        expected.row_bytes = response::first_row_bytes(body, &expected);
    }
    let width = expected.row_bytes.unwrap_or(0);
    let room = room(width);
    let fill =
        |memory: &mut [MaybeUninit<u8>]| response::decode(Isa::codec(), body, expected, &mut SliceRows::new(memory));
    // SAFETY: `decode` has written the rows that it says, and the others are cut off below.
    #[expect(unsafe_code, reason = "every row that is kept is written")]
    let (vectors, decoded) = unsafe { convert::filled_bytes(py, &[room, width], signed, fill) }?;
    if decoded.rows() < room {
        convert::shrink(&vectors, &[decoded.rows(), width])?;
    }
    Ok((vectors, decoded))
}

static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The result object. `row_bytes` is what the caller gave; it is used if the response has no vector.
fn embeddings<'py>(
    py: Python<'py>,
    vectors: Bound<'py, PyAny>,
    decoded: Decoded,
    encoding: Encoding,
    row_bytes: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let dimensions = encoding.dimensions(decoded.row_bytes.or(row_bytes).unwrap_or(0));
    let offsets = convert::collected(py, &[decoded.offsets.len()], decoded.offsets.iter().copied())?;
    let encoding_format = encoding_name(py, encoding).clone().into_any();
    let usage = usage(py, decoded.usage.unwrap_or_default())?;
    let [model, dimensions, space] = model_and_space(py, decoded.model, dimensions)?;
    let failures = PyTuple::empty(py).into_any();
    let input_type = py.None().into_bound(py); // the response does not say it
    EMBEDDINGS.instance(py, [vectors, offsets, model, dimensions, encoding_format, usage, failures, space, input_type])
}

fn encoding_name(py: Python<'_>, encoding: Encoding) -> &Bound<'_, PyString> {
    match encoding {
        Encoding::Int8 => intern!(py, "base64_int8"),
        Encoding::Binary => intern!(py, "base64_binary"),
    }
}

fn usage(py: Python<'_>, usage: Usage) -> PyResult<Bound<'_, PyAny>> {
    let usd = usage.currency.is_none_or(|currency| currency == "USD");
    let cost = match usage.total_cost.filter(|_| usd) {
        Some(cost) => DECIMAL.import(py, "decimal", "Decimal")?.call1((cost,))?,
        None => py.None().into_bound(py),
    };
    let (prompt, total) = (usage.prompt_tokens.into_bound_py_any(py)?, usage.total_tokens.into_bound_py_any(py)?);
    let (requests, discarded) = (1.into_bound_py_any(py)?, py.None().into_bound(py));
    USAGE.instance(py, [prompt, total, cost, requests, discarded, 0.into_bound_py_any(py)?])
}

/// The `shape` argument: the chunks of each document.
fn chunk_counts(shape: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    // int64 arrays, such as those of `numpy.diff(offsets)`, and lists have fast paths. The general path names errors.
    if let Ok(array) = shape.cast::<PyUntypedArray>() {
        convert::refuse_masked("shape", array)?;
    }
    if let Ok(array) = shape.cast::<PyArray1<i64>>()
        && let Ok(array) = array.try_readonly()
        && array.data().is_aligned()
    {
        let array = array.as_array();
        let mut counts = memory::vector(array.len()).map_err(memory_error)?;
        counts.extend(array.iter().map_while(|&count| usize::try_from(count).ok()));
        if counts.len() == array.len() {
            return Ok(counts);
        }
    }
    if let Ok(list) = shape.cast::<PyList>() {
        let mut counts = memory::vector(list.len()).map_err(memory_error)?;
        for count in list {
            match count.extract() {
                Ok(count) => memory::push(&mut counts, count).map_err(memory_error)?,
                Err(_) => return named_chunk_counts(shape),
            }
        }
        return Ok(counts);
    }
    named_chunk_counts(shape)
}

/// The counts, or an error that names the first invalid entry.
fn named_chunk_counts(shape: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let entries = shape.try_iter().map_err(|_| {
        PyTypeError::new_err(format!("shape must be the chunks of each document, got {}", convert::short_repr(shape)))
    })?;
    let mut counts = Vec::new();
    for (i, entry) in entries.enumerate() {
        memory::push(&mut counts, convert::integer(&format!("shape[{i}]"), &entry?, 0)?).map_err(memory_error)?;
    }
    Ok(counts)
}

/// Decode and validate the body of one API response while it arrives.
///
/// Parameters
/// ----------
/// shape, dimensions, encoding_format
///     As in :func:`decode_response`.
///
/// Notes
/// -----
/// The result and the errors are those of :func:`decode_response` for the whole body, however it is split. The decoder
/// holds the vectors decoded so far and at most one incomplete token, never the body. Each instance decodes one
/// response. It may be shared between threads, but parts must be fed in order.
///
/// Examples
/// --------
/// >>> body = b'{"data": [{"index": 0, "data": [{"index": 0, "embedding": "AQID"}]}]}'
/// >>> decoder = ResponseDecoder(shape=[1])
/// >>> for start in range(0, len(body), 10):
/// ...     decoder.feed(body[start : start + 10])
/// >>> decoder.finish().vectors
/// array([[1, 2, 3]], dtype=int8)
#[pyclass(frozen, module = "ctxembed")]
struct ResponseDecoder {
    /// None once finished.
    stream: Mutex<Option<Stream>>,
    encoding: Encoding,
    row_bytes: Option<usize>,
}

#[pymethods]
impl ResponseDecoder {
    #[new]
    #[pyo3(
        signature = (*, shape=None, dimensions=None, encoding_format=Argument::Default("base64_int8")),
        text_signature = "(*, shape=None, dimensions=None, encoding_format='base64_int8')",
    )]
    fn new(
        shape: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyAny>>,
        encoding_format: Argument<'_, &'static str>,
    ) -> PyResult<Self> {
        let encoding = encoding(encoding_format)?;
        let row_bytes = row_bytes(encoding, dimensions)?;
        let expected = Expected { shape: shape.map(chunk_counts).transpose()?, row_bytes, encoding };
        Ok(Self { stream: Mutex::new(Some(Stream::new(Isa::codec(), expected))), encoding, row_bytes })
    }

    /// Decode the next part of the body, of any length.
    ///
    /// Raises
    /// ------
    /// DecodeError
    ///     The part is not valid at this place of a response. Every later call raises the same error.
    /// ValueError
    ///     ``finish`` was called before.
    fn feed(&self, py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<()> {
        let part = bytes_of(chunk)?;
        let part = part.as_bytes();
        convert::detached(py, || {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.as_mut().ok_or_else(finished)?.feed(part)
        })
    }

    /// Return the result after the last part.
    ///
    /// Raises
    /// ------
    /// DecodeError
    ///     The body is invalid or incomplete.
    /// ValueError
    ///     ``finish`` was called before.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (decoded, memory) = convert::detached(py, || {
            let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(finished)?.finish()
        })?;
        let width = decoded.row_bytes.or(self.row_bytes).unwrap_or(0);
        let shape = [decoded.rows(), width];
        // SAFETY: the stream's `GrowingRows` initialised every byte.
        #[expect(unsafe_code, reason = "every byte is initialised")]
        let vectors = unsafe { convert::adopted_bytes(py, memory, shape, self.encoding == Encoding::Int8) }?;
        embeddings(py, vectors, decoded, self.encoding, self.row_bytes)
    }
}

fn finished() -> Error {
    Error::Value("this decoder is finished: create a new one for each response".to_owned())
}
