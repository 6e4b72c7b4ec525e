//! Packing for Python.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::convert::{collected, detached, filled};
use crate::packing::{self, Effort, Limits, Order};

/// Add the function and the constant to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("WINDOW_REQUESTS", packing::WINDOW_REQUESTS)?;
    module.add_function(wrap_pyfunction!(pack, module)?)?;
    Ok(())
}

type Arrays<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, usize);

/// Pack documents into requests: `(request_of, positions, offsets, lower_bound)`, the arrays int64.
///
/// `limits` is (documents, chunks, tokens per document, tokens). `ctxembed.pack` is the public function.
#[pyfunction]
fn pack<'py>(
    py: Python<'py>,
    token_counts: &Bound<'py, PyArray1<i64>>,
    chunk_counts: Option<&Bound<'py, PyArray1<i64>>>,
    limits: (u32, u32, u32, u32),
    order: &str,
    effort: f64,
) -> PyResult<Arrays<'py>> {
    let order = match order {
        "any" => Order::Any,
        "input" => Order::Input,
        "window" => Order::Window,
        _ => return Err(PyValueError::new_err(format!("order must be 'any', 'input' or 'window', got {order:?}"))),
    };
    if !(effort >= 0.0 && effort.is_finite()) {
        return Err(PyValueError::new_err(format!("effort must be a finite number of seconds >= 0, got {effort}")));
    }
    let (documents, chunks, tokens_per_document, tokens) = limits;
    for (name, value) in [("documents", documents), ("chunks", chunks), ("tokens", tokens)] {
        if !(1..1 << 31).contains(&value) {
            return Err(PyValueError::new_err(format!("limits.{name} must be from 1 to {}, got {value}", i32::MAX)));
        }
    }
    let limits = Limits { documents, chunks, tokens_per_document, tokens };
    let token_counts = borrowed("token_counts", token_counts)?;
    let chunk_counts = chunk_counts.map(|array| borrowed("chunk_counts", array)).transpose()?;
    let token_counts = values("token_counts", &token_counts)?;
    let chunk_counts = chunk_counts.as_ref().map(|array| values("chunk_counts", array)).transpose()?;
    // The exception of a signal handler, which is raised instead of the core's own "interrupted".
    let raised = Mutex::new(None);
    let result = detached(py, || {
        let interrupted = || {
            Python::attach(|py| match py.check_signals() {
                Ok(()) => false,
                Err(error) => {
                    raised.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                    true
                }
            })
        };
        packing::pack(token_counts, chunk_counts, limits, order, &Effort { seconds: effort, interrupted: &interrupted })
    });
    if let Some(error) = raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let packing = result?;
    let n = packing.request_of.len();
    let request_of = collected(py, &[n], packing.request_of.iter().map(|&request| i64::from(request)))?;
    // SAFETY: `write_requests` writes the position of each of the `n` documents to a place of its own.
    #[expect(unsafe_code, reason = "every element is written")]
    let (positions, starts) = unsafe { filled(py, &[n], |memory| packing.write_requests(memory)) }?;
    let offsets = collected(py, &[starts.len()], starts.iter().copied())?;
    Ok((request_of, positions, offsets, packing.lower_bound))
}

fn borrowed<'py>(name: &str, array: &Bound<'py, PyArray1<i64>>) -> PyResult<PyReadonlyArray1<'py, i64>> {
    array
        .try_readonly()
        .map_err(|error| PyValueError::new_err(format!("{name} is in use by another call that writes to it: {error}")))
}

fn values<'a>(name: &str, array: &'a PyReadonlyArray1<'_, i64>) -> PyResult<&'a [i64]> {
    if !array.data().is_aligned() {
        return Err(PyValueError::new_err(format!("{name} must be aligned to 8 bytes: pass a copy")));
    }
    array
        .as_slice()
        .map_err(|_| PyValueError::new_err(format!("{name} must be C-contiguous, got strides {:?}", array.strides())))
}
