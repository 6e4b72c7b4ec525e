//! The search room as Python sees it.

mod arguments;
mod binary_index;
mod functions;
mod index;
mod indexes;
mod matches;
mod results;

use pyo3::prelude::*;

use super::export;

/// Add the room's functions and classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    export(module, wrap_pyfunction!(functions::hamming, module)?)?;
    export(module, wrap_pyfunction!(functions::dot, module)?)?;
    export(module, wrap_pyfunction!(functions::cosine, module)?)?;
    export(module, wrap_pyfunction!(functions::top_k, module)?)?;
    module.add_class::<matches::Matches>()?;
    module.add_class::<index::PyIndex>()?;
    module.add_class::<binary_index::PyBinaryIndex>()?;
    module.add_class::<results::RangeMatches>()?;
    module.add_class::<results::Pairs>()?;
    module.add_class::<results::Calibration>()?;
    Ok(())
}
