//! Core errors as Python exceptions.

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;

use super::classes::{DECODE_ERROR, INDEX_FILE_ERROR};
use crate::error::{DecodeError, Error};

/// The Python exception for a core error. If its class cannot be instantiated, the exception for that.
pub(super) fn to_py(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Decode(DecodeError { kind, offset, document, chunk, message }) => {
            DECODE_ERROR.instance(py, (message, kind.name(), offset, document, chunk)).unwrap_or_else(|failed| failed)
        }
        Error::Value(message) => PyValueError::new_err(message),
        Error::IndexFile(message) => INDEX_FILE_ERROR.instance(py, (message,)).unwrap_or_else(|failed| failed),
        // With errno first, Python picks the subclass: FileNotFoundError, PermissionError, ...
        Error::Io(error, context) => match error.raw_os_error() {
            Some(errno) => PyOSError::new_err((errno, format!("{context}: {error}"))),
            None => PyOSError::new_err(format!("{context}: {error}")),
        },
        Error::Memory(message) => PyMemoryError::new_err(message),
        // The exception of a signal handler, or KeyboardInterrupt if there is none.
        Error::Interrupted => py.check_signals().err().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
    }
}

/// The Python exception for short memory, where no interpreter token is at hand.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn memory_error(error: Error) -> PyErr {
    PyMemoryError::new_err(error.to_string())
}
