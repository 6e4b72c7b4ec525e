//! Request bodies as Python sees them.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::codec::request;
use crate::python::convert::detached;

/// Add the function to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(encode_request, module)?)
}

fn list<'a, 'py>(name: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyList>> {
    object.cast::<PyList>().map_err(|_| {
        let got = object.get_type().name().map_or_else(|_| "another type".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{name} must be a list, got {got}"))
    })
}

/// The body of a request: `{"input":<documents>,<rest>` as compact JSON in UTF-8.
///
/// `documents`: list of list of str. `rest`: the bytes after the input, the closing brace included. `flat`: one list of
/// all texts. Raises `UnicodeEncodeError` for a lone surrogate, which UTF-8 cannot say. The interpreter is released.
#[pyfunction]
#[pyo3(signature = (documents, rest, *, flat = false))]
fn encode_request<'py>(
    py: Python<'py>,
    documents: &Bound<'py, PyAny>,
    rest: &[u8],
    flat: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    // Held by references of their own, so that nobody can take them away while the interpreter is released.
    let mut chunks: Vec<Bound<'py, PyString>> = Vec::new();
    let mut counts = Vec::new();
    for (i, document) in list("documents", documents)?.iter().enumerate() {
        let before = chunks.len();
        for (j, chunk) in list("a document", &document)?.iter().enumerate() {
            chunks.push(
                chunk
                    .cast_into()
                    .map_err(|_| PyTypeError::new_err(format!("document {i}, chunk {j}: must be a str")))?,
            );
        }
        counts.push(chunks.len() - before);
    }
    let texts = chunks.iter().map(|chunk| chunk.to_str()).collect::<PyResult<Vec<_>>>()?;
    let body = request::Body { texts: &texts, counts: (!flat).then_some(&counts), rest };
    let size = detached(py, || Ok(body.size()))?;
    PyBytes::new_with(py, size, |memory| {
        detached(py, || {
            body.write(memory);
            Ok(())
        })
    })
}
