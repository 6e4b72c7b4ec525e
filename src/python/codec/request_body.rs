//! Encoding of request bodies.

use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::codec::request::{Body, Measured};
use crate::isa::Isa;
use crate::memory;
use crate::python::convert::{detached, filled_pybytes, interruptible};
use crate::python::errors::memory_error;
use crate::tokens::{self, Interrupts};

/// Add the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(encode_request, module)?)?;
    module.add_function(wrap_pyfunction!(prepare_request, module)?)
}

fn list<'a, 'py>(name: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyList>> {
    object.cast::<PyList>().map_err(|_| {
        let got = object.get_type().name().map_or_else(|_| "another type".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{name} must be a list, got {got}"))
    })
}

/// The chunks of all documents, and the number of chunks of each.
struct Documents<'py> {
    /// Owned references, which keep the strings alive while the interpreter is released.
    chunks: Vec<Bound<'py, PyString>>,
    counts: Vec<usize>,
}

impl<'py> Documents<'py> {
    fn extract(documents: &Bound<'py, PyAny>) -> PyResult<Self> {
        let documents = list("documents", documents)?;
        let mut chunks: Vec<Bound<'py, PyString>> = Vec::new();
        let mut counts = memory::vector(documents.len()).map_err(memory_error)?;
        for (i, document) in documents.iter().enumerate() {
            let document = list("a document", &document)?;
            chunks.try_reserve(document.len()).map_err(|error| memory_error(error.into()))?;
            for (j, chunk) in document.iter().enumerate() {
                let chunk = chunk
                    .cast_into()
                    .map_err(|_| PyTypeError::new_err(format!("document {i}, chunk {j}: must be a str")))?;
                memory::push(&mut chunks, chunk).map_err(memory_error)?;
            }
            counts.push(document.len());
        }
        Ok(Self { chunks, counts })
    }

    fn texts(&self) -> PyResult<Vec<&str>> {
        let mut texts = memory::vector(self.chunks.len()).map_err(memory_error)?;
        for chunk in &self.chunks {
            texts.push(chunk.to_str()?);
        }
        Ok(texts)
    }
}

fn write<'py>(py: Python<'py>, body: &Body<'_>, measured: &[Measured]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: `write` proves that it has written all of the memory.
    #[expect(unsafe_code, reason = "every byte is written")]
    unsafe {
        filled_pybytes(py, body.size(measured), |memory| {
            body.write(Isa::codec(), memory);
            Ok(())
        })
    }
}

/// Encode the body of a request: `{"input":<documents>,<rest>` as compact JSON in UTF-8.
///
/// `documents` is a list of lists of str, `rest` the bytes after the input, closing brace included. `flat` encodes all
/// texts as one list. Raises `UnicodeEncodeError` for a lone surrogate. The interpreter is released.
#[pyfunction]
#[pyo3(signature = (documents, rest, *, flat = false))]
fn encode_request<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyAny>,
    rest: &[u8],
    flat: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let documents = Documents::extract(documents)?;
    let texts = documents.texts()?;
    let body = Body { texts: &texts, counts: (!flat).then_some(&documents.counts), rest };
    let measured = detached(py, || body.measure(Isa::codec()))?;
    write(py, &body, &measured)
}

/// None for an error of invalid documents; short memory stays an error.
fn valid<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyMemoryError>(py) => Err(error),
        Err(_) => Ok(None),
    }
}

/// A body, the number of chunks of each document, and an upper bound of its tokens.
type Prepared<'py> = (Bound<'py, PyBytes>, Vec<usize>, Vec<u64>);

/// Check documents and encode the body of a request in one pass.
///
/// Returns `(body, chunk_counts, tokens_upper)`; the tokens include the separators between chunks. Returns None if the
/// documents are not valid: not a list of lists of str, an empty document or chunk, or a chunk that holds the separator
/// or a lone surrogate. The caller then finds the error by a full check.
#[pyfunction]
#[pyo3(signature = (documents, rest, separator))]
fn prepare_request<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyAny>,
    rest: &[u8],
    separator: Option<&str>,
) -> PyResult<Option<Prepared<'py>>> {
    let Some(documents) = valid(py, Documents::extract(documents))? else { return Ok(None) };
    let Some(texts) = valid(py, documents.texts())? else { return Ok(None) };
    if documents.counts.contains(&0) || texts.contains(&"") {
        return Ok(None);
    }
    let body = Body { texts: &texts, counts: Some(&documents.counts), rest };
    let prepare = |check: &mut tokens::Poll<'_>| {
        let mut interrupts = Interrupts::new(check);
        let measured = body.measure(Isa::codec())?;
        let mut pairs = texts.iter().zip(&measured);
        // It is known which texts have a `<`, with which most separators begin.
        let may_hold = |measured: &Measured| measured.less_than || separator.is_some_and(|text| !text.starts_with('<'));
        if pairs.clone().any(|(text, found)| may_hold(found) && tokens::find_separator(text, separator).is_some()) {
            return Ok(None);
        }
        // What is ASCII is its own NFC form.
        let mut upper = memory::vector(documents.counts.len())?;
        for &count in &documents.counts {
            let mut sum = count as u64 - 1;
            for (text, measured) in pairs.by_ref().take(count) {
                sum += if measured.ascii { text.len() as u64 } else { tokens::upper(text, &mut || interrupts.poll())? };
            }
            upper.push(sum);
        }
        Ok(Some((measured, upper)))
    };
    let found = interruptible(py, |py, check| detached(py, || prepare(check)))?;
    let Some((measured, upper)) = found else { return Ok(None) };
    let body = write(py, &body, &measured)?;
    Ok(Some((body, documents.counts, upper)))
}
