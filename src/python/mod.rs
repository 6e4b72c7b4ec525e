//! The Python binding, one file per room of the core. No other module names `PyO3` or `NumPy`.
//!
//! A function here extracts its arguments, validates them, calls the core inside [`convert::detached`] and wraps the
//! result. Nothing whose cost grows with the payload runs while attached to the interpreter.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "doc comments here are Python docstrings, in numpydoc form"
)]

mod catalogue;
mod classes;
mod codec;
mod convert;
mod errors;
mod export;
mod hits;
mod keys;
mod packing;
mod records;
mod scalars;
mod search;
mod tokens;

use pyo3::prelude::*;

use crate::isa;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if let Err(value) = isa::ceiling() {
        return Err(pyo3::exceptions::PyValueError::new_err(format!(
            "{}={value:?} is not an instruction set here: expected one of {}",
            isa::VARIABLE,
            isa_names().join(", ")
        )));
    }
    convert::load_numpy(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(isa_names, module)?)?;
    module.add_function(wrap_pyfunction!(isa_paths, module)?)?;
    classes::register(module)?;
    catalogue::register(module)?;
    hits::register(module)?;
    keys::register(module)?;
    records::register(module)?;
    codec::register(module)?;
    search::register(module)?;
    packing::register(module)?;
    tokens::register(module)?;
    Ok(())
}

/// The values of `CTXEMBED_ISA` on this architecture, from the portable path up.
#[pyfunction]
fn isa_names() -> Vec<&'static str> {
    isa::Isa::ALL.map(isa::Isa::name).to_vec()
}

/// The instruction set that each family of kernels uses in this process: `[("codec", "avx2"), ...]`.
#[pyfunction]
fn isa_paths() -> [(&'static str, &'static str); 3] {
    [("codec", isa::Isa::codec().name()), ("hamming", isa::Isa::hamming().name()), ("dot", isa::Isa::dot().name())]
}
