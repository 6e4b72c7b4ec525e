//! Similarities, searches and indexes for Python.

mod arguments;
mod binary_index;
mod common;
mod embeddings;
mod functions;
mod index;
mod int8;
mod keys;
mod matches;
mod merge;
mod results;
mod shards;

use pyo3::prelude::*;

use super::export::export;

/// Add the functions and classes of search to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    export(module, wrap_pyfunction!(functions::hamming, module)?)?;
    export(module, wrap_pyfunction!(functions::dot, module)?)?;
    export(module, wrap_pyfunction!(functions::cosine, module)?)?;
    export(module, wrap_pyfunction!(functions::top_k, module)?)?;
    export(module, wrap_pyfunction!(merge::merge_top_k, module)?)?;
    module.add_function(wrap_pyfunction!(merge::merge_ranges, module)?)?;
    module.add_function(wrap_pyfunction!(shards::ids_of_rows, module)?)?;
    module.add_function(wrap_pyfunction!(shards::first_stage, module)?)?;
    module.add_function(wrap_pyfunction!(shards::second_stage, module)?)?;
    module.add_class::<matches::Matches>()?;
    module.add_class::<index::PyIndex>()?;
    module.add_class::<binary_index::PyBinaryIndex>()?;
    module.add_class::<results::RangeMatches>()?;
    module.add_class::<results::Pairs>()?;
    module.add_class::<results::Calibration>()?;
    module.add_function(wrap_pyfunction!(embeddings::space_of_prefix, module)?)
}
