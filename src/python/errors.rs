//! Core errors to Python exceptions. The classes live in `ctxembed._errors`; this is the only road to them.

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::{DecodeError, Error};

static DECODE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static INDEX_FILE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The Python exception for a core error. A class that cannot be imported becomes the import's own error.
pub(super) fn to_py(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Decode(error) => decode_error(py, &error).unwrap_or_else(|failed| failed),
        Error::Value(message) => PyValueError::new_err(message),
        Error::IndexFile(message) => match INDEX_FILE_ERROR.import(py, "ctxembed._errors", "IndexFileError") {
            Ok(class) => PyErr::from_type(class.clone(), message),
            Err(failed) => failed,
        },
        // errno first, so that Python picks the subclass (FileNotFoundError, PermissionError, ...).
        Error::Io(error, context) => match error.raw_os_error() {
            Some(errno) => PyOSError::new_err((errno, format!("{context}: {error}"))),
            None => PyOSError::new_err(format!("{context}: {error}")),
        },
        Error::Memory(message) => PyMemoryError::new_err(message),
        // A signal handler's own exception wins; KeyboardInterrupt stands in where none is set.
        Error::Interrupted => py.check_signals().err().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
    }
}

fn decode_error(py: Python<'_>, error: &DecodeError) -> PyResult<PyErr> {
    let class = DECODE_ERROR.import(py, "ctxembed._errors", "DecodeError")?;
    let arguments = (error.message.as_str(), error.kind.name(), error.offset, error.document, error.chunk);
    Ok(PyErr::from_value(class.call1(arguments)?))
}
