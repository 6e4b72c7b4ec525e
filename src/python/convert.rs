//! Arrays in and out. Inputs are borrowed, never cast or copied; an output is one allocation that `NumPy` owns.

use std::mem::MaybeUninit;

use numpy::npyffi::{self, PY_ARRAY_API, npy_intp};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::errors;
use crate::error::Error;

/// Run `work` with the interpreter released, and turn its error into the Python exception.
pub(super) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, Error> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| errors::to_py(py, error))
}

/// Run `call` with a function that asks the interpreter for signals, to be called now and then on this thread while
/// detached. What a signal handler raised (`KeyboardInterrupt`, mostly) becomes the result.
pub(super) fn interruptible<T>(
    py: Python<'_>,
    call: impl FnOnce(Python<'_>, &mut (dyn FnMut() -> Result<(), Error> + Send)) -> PyResult<T>,
) -> PyResult<T> {
    let mut raised = None;
    let result = call(py, &mut || {
        #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is not general enough in lifetime")]
        Python::attach(|py| py.check_signals()).map_err(|error| {
            raised = Some(error);
            Error::Interrupted
        })
    });
    raised.map_or(result, Err)
}

/// `object` as an int of at least `minimum`; what is too large for this machine counts as the largest.
pub(super) fn integer(name: &str, object: &Bound<'_, PyAny>, minimum: usize) -> PyResult<usize> {
    let shown = || object.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string());
    let below = || PyValueError::new_err(format!("{name} must be at least {minimum}, got {}", shown()));
    if object.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("{name} must be an int, got {}", shown())));
    }
    match object.extract::<i64>() {
        Ok(value) => usize::try_from(value).ok().filter(|&value| value >= minimum).ok_or_else(below),
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
            if object.lt(0)? {
                Err(below())
            } else {
                Ok(usize::MAX)
            }
        }
        Err(_) => Err(PyTypeError::new_err(format!("{name} must be an int, got {}", shown()))),
    }
}

/// Rows borrowed from a C-contiguous array of one or two dimensions.
pub(super) enum Rows<'py, T: Element> {
    /// One vector: results lose the row axis.
    One(PyReadonlyArray1<'py, T>),
    /// A matrix, one vector a row.
    Many(PyReadonlyArray2<'py, T>),
}

impl<'py, T: Element> Rows<'py, T> {
    /// Borrow `object` as rows of `T`; `name` is the argument's, for the message.
    pub(super) fn extract(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = untyped(name, object)?;
        expect_dtype::<T>(name, array)?;
        if !array.is_c_contiguous() {
            return Err(PyValueError::new_err(format!(
                "{name} must be C-contiguous, got an array of shape {:?} and strides {:?}: \
                 pass numpy.ascontiguousarray({name})",
                array.shape(),
                array.strides()
            )));
        }
        match array.ndim() {
            1 => Ok(Self::One(array.cast::<PyArray1<T>>()?.try_readonly().map_err(|e| borrowed(name, &e))?)),
            2 => Ok(Self::Many(array.cast::<PyArray2<T>>()?.try_readonly().map_err(|e| borrowed(name, &e))?)),
            n => Err(PyValueError::new_err(format!(
                "{name} must have 1 or 2 dimensions, got {n} (shape {:?})",
                array.shape()
            ))),
        }
    }

    /// As [`Rows::extract`], but one vector alone is an error.
    pub(super) fn extract_matrix(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        match Self::extract(name, object)? {
            rows @ Self::Many(_) => Ok(rows),
            Self::One(array) => Err(PyValueError::new_err(format!(
                "{name} must be a matrix of shape (n, width), got one vector of shape {:?}: pass {name}[None, :]",
                array.shape()
            ))),
        }
    }

    /// All values, row after row.
    pub(super) fn values(&self) -> &[T] {
        // Contiguity was checked at extraction, so the fallback is never taken.
        match self {
            Self::One(array) => array.as_slice().unwrap_or_default(),
            Self::Many(array) => array.as_slice().unwrap_or_default(),
        }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(array) => array.shape()[0],
        }
    }

    /// Values a row.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::One(array) => array.shape()[0],
            Self::Many(array) => array.shape()[1],
        }
    }

    /// Whether the caller passed one vector without a row axis.
    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }
}

/// `object` as an array of any dtype.
pub(super) fn untyped<'a, 'py>(name: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    object.cast::<PyUntypedArray>().map_err(|_| {
        let got = object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{name} must be a numpy array, got {got}"))
    })
}

/// A boolean array of one dimension, as bytes: zero is False. The length is the caller's to check.
pub(super) fn mask<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray1<'py, u8>> {
    let array = untyped(name, object)?;
    expect_dtype::<bool>(name, array)?;
    if array.ndim() != 1 || !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!(
            "{name} must be C-contiguous with 1 dimension, got an array of shape {:?} and strides {:?}",
            array.shape(),
            array.strides()
        )));
    }
    // Read as bytes, for NumPy lets any byte be in a boolean array, and Rust's bool does not.
    let bytes = array.call_method1("view", (dtype::<u8>(array.py()),))?;
    bytes.cast::<PyArray1<u8>>()?.try_readonly().map_err(|error| borrowed(name, &error))
}

/// An array of one dimension, borrowed.
pub(super) fn vector<'py, T: Element>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray1<'py, T>> {
    match Rows::extract(name, object)? {
        Rows::One(array) => Ok(array),
        Rows::Many(array) => {
            Err(PyValueError::new_err(format!("{name} must have 1 dimension, got 2 (shape {:?})", array.shape())))
        }
    }
}

/// Whether `array` holds `T`, without raising.
pub(super) fn has_dtype<T: Element>(array: &Bound<'_, PyUntypedArray>) -> bool {
    array.dtype().is_equiv_to(&dtype::<T>(array.py()))
}

fn expect_dtype<T: Element>(name: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    if has_dtype::<T>(array) {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "{name} must have dtype {}, got {} (nothing is cast silently)",
        dtype::<T>(array.py()),
        array.dtype()
    )))
}

fn borrowed(name: &str, error: &numpy::BorrowError) -> PyErr {
    PyValueError::new_err(format!("{name} is in use by another call that writes to it: {error}"))
}

/// A new array that `NumPy` owns, and its memory, not yet initialised.
///
/// `NumPy`'s own allocator is used because it reuses small blocks and asks for huge pages for large ones. An
/// allocation that fails is Python's `MemoryError`.
#[expect(unsafe_code, reason = "the C API's allocation, without its zeroing")]
fn allocate<'py, T: Element>(py: Python<'py>, shape: &[usize]) -> PyResult<(Bound<'py, PyAny>, *mut T)> {
    let mut dims = [0 as npy_intp; 2];
    for (dim, &length) in dims.iter_mut().zip(shape) {
        *dim = npy_intp::try_from(length)
            .map_err(|_| PyValueError::new_err(format!("an array of shape {shape:?} is too large")))?;
    }
    // SAFETY: `dims` outlives the call and `shape` (1 or 2 long) tells how many of it are read; the descriptor's
    // reference is handed over as the API asks; a null result carries a Python error, which `_or_err` takes.
    let array = unsafe {
        let raw = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            npyffi::get_type_object(py, npyffi::NpyTypes::PyArray_Type),
            dtype::<T>(py).into_dtype_ptr(),
            shape.len() as std::ffi::c_int,
            dims.as_mut_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, raw)?
    };
    // SAFETY: the call above made an exact ndarray, so the layout is PyArrayObject's.
    let data = unsafe { (*array.as_ptr().cast::<npyffi::PyArrayObject>()).fields.data.cast::<T>() };
    Ok((array, data))
}

/// A new array of `shape` (one or two lengths) that `fill` initialises wholly, with the interpreter released.
///
/// `fill` gets the uninitialised memory and must write every element before it returns `Ok`; on `Err` the array is
/// dropped unread.
#[expect(unsafe_code, reason = "hands fresh, unshared memory to the core as MaybeUninit")]
pub(super) fn filled<'py, T: Element + Send, R: Send>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut [MaybeUninit<T>]) -> Result<R, Error> + Send,
) -> PyResult<(Bound<'py, PyAny>, R)> {
    let (array, data) = allocate::<T>(py, shape)?;
    let length: usize = shape.iter().product();
    // SAFETY: `data` is the start of `length` elements that the array owns and nobody else knows of; MaybeUninit
    // asks nothing of their contents, and the array outlives the borrow, which ends in this function.
    let memory = unsafe { std::slice::from_raw_parts_mut(data.cast::<MaybeUninit<T>>(), length) };
    let result = detached(py, || fill(memory))?;
    Ok((array, result))
}
