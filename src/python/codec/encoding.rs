//! The arguments that say how vectors are encoded.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::convert;
use super::super::scalars::Argument;
use crate::codec::Encoding;
use crate::codec::response;

/// The `encoding_format` argument.
pub(super) fn encoding(name: Argument<'_, &str>) -> PyResult<Encoding> {
    name.choice("encoding_format", &[("base64_int8", Encoding::Int8), ("base64_binary", Encoding::Binary)])
}

/// Bytes per row for `dimensions`, if given.
pub(super) fn row_bytes(encoding: Encoding, dimensions: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(dimensions) = dimensions else { return Ok(None) };
    let dimensions = convert::integer("dimensions", dimensions, 1)?;
    if encoding == Encoding::Binary && !dimensions.is_multiple_of(8) {
        return Err(PyValueError::new_err(format!(
            "dimensions must be a multiple of 8 for base64_binary, got {dimensions}"
        )));
    }
    let most = encoding.dimensions(response::MOST_ROW_BYTES);
    if dimensions > most {
        return Err(PyValueError::new_err(format!("dimensions must be at most {most}, got {dimensions}")));
    }
    Ok(Some(encoding.row_bytes(dimensions)))
}
