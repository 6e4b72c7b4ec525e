//! What the package `ctxembed` exports of this module.

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

/// Add a function that the package `ctxembed` exports, with that package as its `__module__`.
pub(super) fn export<'py>(module: &Bound<'py, PyModule>, function: Bound<'py, PyCFunction>) -> PyResult<()> {
    function.setattr("__module__", "ctxembed")?;
    module.add_function(function)
}
