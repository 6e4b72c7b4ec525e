//! The packing room as Python sees it.

use pyo3::prelude::*;

/// Add the room's functions and classes to the module.
pub(super) fn register(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
