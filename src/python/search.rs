//! The search room as Python sees it.

mod functions;
mod index;
mod matches;

use std::num::NonZero;

use pyo3::prelude::*;

use super::convert::integer;

/// Add the room's functions and classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(functions::hamming, module)?)?;
    module.add_function(wrap_pyfunction!(functions::dot, module)?)?;
    module.add_function(wrap_pyfunction!(functions::cosine, module)?)?;
    module.add_function(wrap_pyfunction!(functions::top_k, module)?)?;
    module.add_class::<matches::Matches>()?;
    module.add_class::<index::PyIndex>()?;
    module.add_class::<index::PyBinaryIndex>()?;
    Ok(())
}

/// The `threads` argument: None, or at least 1.
fn thread_count(threads: Option<&Bound<'_, PyAny>>) -> PyResult<Option<NonZero<usize>>> {
    threads.map_or(Ok(None), |threads| Ok(NonZero::new(integer("threads", threads, 1)?)))
}
