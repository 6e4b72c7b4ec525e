//! Arrays as arguments and results. Vectors are borrowed, never cast or copied; ids are copied. A result is one allocation
//! that `NumPy` owns.

use std::mem::MaybeUninit;

use numpy::npyffi::{self, PY_ARRAY_API, npy_intp};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyReadwriteArray2, PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyList, PyTuple};

use super::errors;
use crate::error::Error;
use crate::memory::copied;

/// Load what `rust-numpy` would load at its first use. That runs Python code, and `rust-numpy` panics if it raises, for
/// instance on Ctrl-C; an interrupted import may fail.
pub(super) fn load_numpy(py: Python<'_>) -> PyResult<()> {
    py.import("numpy")?; // takes nearly all of the time; errors are returned
    let array = PyArray1::from_slice(py, &[0_u8]);
    array.try_readonly().map(drop).map_err(|error| borrowed("array", &error))
}

/// Run `work` with the interpreter released. Its error becomes a Python exception.
pub(super) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, Error> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| errors::to_py(py, error))
}

/// Run `call` with a check for signals, which it calls now and then on this thread while detached. The exception of a
/// signal handler, mostly `KeyboardInterrupt`, becomes the result.
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

/// `object` as an int, not a bool, of at least `minimum`. A value above the largest i64 becomes that.
pub(super) fn integer(name: &str, object: &Bound<'_, PyAny>, minimum: usize) -> PyResult<usize> {
    let value = saturated(object)?
        .ok_or_else(|| PyTypeError::new_err(format!("{name} must be an int, got {}", short_repr(object))))?;
    usize::try_from(value)
        .ok()
        .filter(|&value| value >= minimum)
        .ok_or_else(|| PyValueError::new_err(format!("{name} must be at least {minimum}, got {}", short_repr(object))))
}

/// The value of an int that is not a bool, or the i64 nearest to it. None for another type.
pub(super) fn saturated(object: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    let py = object.py();
    if object.is_instance_of::<PyBool>() {
        return Ok(None);
    }
    match object.extract::<i64>() {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => {
            let exact = py.import("operator")?.call_method1("index", (object,))?;
            Ok(Some(if exact.lt(0)? { i64::MIN } else { i64::MAX }))
        }
        Err(error) if error.is_instance_of::<PyTypeError>(py) => Ok(None),
        Err(error) => Err(error), // of the object's own `__index__`
    }
}

/// Rows borrowed from a C-contiguous array of one or two dimensions.
pub(super) struct Rows<'py, T: Element> {
    array: RowArray<'py, T>,
    /// The shape at extraction. Another thread can give the array another one.
    len: usize,
    width: usize,
}

enum RowArray<'py, T: Element> {
    /// One vector: results have no row axis.
    One(PyReadonlyArray1<'py, T>),
    /// A matrix with one vector per row.
    Many(PyReadonlyArray2<'py, T>),
}

impl<'py, T: Element> Rows<'py, T> {
    /// Borrow `object` as rows of `T`. Errors name the argument `name`.
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
        // As a slice, such an array would have no values.
        if !array.is_aligned() {
            return Err(PyValueError::new_err(format!(
                "{name} must be aligned in memory, got an array of {} at an odd address: pass {name}.copy()",
                array.dtype()
            )));
        }
        match *array.shape() {
            [width] => {
                let array = array.cast::<PyArray1<T>>()?.try_readonly().map_err(|e| borrowed(name, &e))?;
                Ok(Self { array: RowArray::One(array), len: 1, width })
            }
            [len, width] => {
                let array = array.cast::<PyArray2<T>>()?.try_readonly().map_err(|e| borrowed(name, &e))?;
                Ok(Self { array: RowArray::Many(array), len, width })
            }
            ref shape => Err(PyValueError::new_err(format!(
                "{name} must have 1 or 2 dimensions, got {} (shape {shape:?})",
                shape.len()
            ))),
        }
    }

    /// Like [`Rows::extract`], but a vector without a row axis is an error.
    pub(super) fn extract_matrix(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let rows = Self::extract(name, object)?;
        if rows.is_single() {
            return Err(PyValueError::new_err(format!(
                "{name} must be a matrix of shape (n, width), got one vector of shape [{}]: pass {name}[None, :]",
                rows.width
            )));
        }
        Ok(rows)
    }

    /// All values, row after row.
    pub(super) fn values(&self) -> &[T] {
        // `extract` checked contiguity and alignment, so the fallback is never used.
        match &self.array {
            RowArray::One(array) => array.as_slice().unwrap_or_default(),
            RowArray::Many(array) => array.as_slice().unwrap_or_default(),
        }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Values per row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The shape of a result with `width` values for each of these rows.
    pub(super) fn shape(&self, width: usize) -> Vec<usize> {
        if self.is_single() { vec![width] } else { vec![self.len(), width] }
    }

    /// Whether the caller passed one vector without a row axis.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.array, RowArray::One(_))
    }
}

/// `object` as an array of any dtype.
pub(super) fn untyped<'a, 'py>(name: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    array(name, object, "a numpy array")
}

/// `object` as an array of any dtype; the error says that `expected` was expected.
pub(super) fn array<'a, 'py>(
    name: &str,
    object: &'a Bound<'py, PyAny>,
    expected: &str,
) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    let array = object.cast::<PyUntypedArray>().map_err(|_| {
        let got = object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{name} must be {expected}, got {got}"))
    })?;
    refuse_masked(name, array)?;
    Ok(array)
}

/// Raise for a masked array: its masked values would be read like the others.
pub(super) fn refuse_masked(name: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    // Nearly all arrays are plain and return here.
    let py = array.py();
    if array.get_type().is(py.get_type::<PyUntypedArray>()) {
        return Ok(());
    }
    if array.is_instance(&py.import("numpy.ma")?.getattr("MaskedArray")?)? {
        return Err(PyTypeError::new_err(format!(
            "{name} must be an array without a mask, got a MaskedArray: pass its unmasked rows, or \
             numpy.ma.getdata({name}) to ignore the mask"
        )));
    }
    Ok(())
}

/// Whether `object` is an array of int8 and not of uint8; another dtype is an error.
pub(super) fn is_signed(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let array = untyped(name, object)?;
    let signed = has_dtype::<i8>(array);
    if signed || has_dtype::<u8>(array) {
        return Ok(signed);
    }
    Err(PyTypeError::new_err(format!(
        "{name} must have dtype int8 or uint8, got {} (nothing is cast silently)",
        array.dtype()
    )))
}

/// A boolean array of one dimension and any length, as bytes: zero is False.
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
    // Read as bytes: a boolean array of NumPy may hold any byte, a bool of Rust only 0 and 1. Not by a method of the
    // array's own, which a subclass may override.
    let py = array.py();
    let bytes = py.get_type::<PyUntypedArray>().call_method1("view", (array, dtype::<u8>(py)))?;
    bytes.cast::<PyArray1<u8>>()?.try_readonly().map_err(|error| borrowed(name, &error))
}

/// A copy of ids, from an array or a list of int. They are small beside the vectors, and another thread may change the
/// array. An empty array may have any dtype, because `numpy.array([])` has float64.
pub(super) fn ids(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        return listed_ids(name, object);
    }
    let py = object.py();
    let array = array(name, object, "a numpy array or a list of int")?;
    let (empty, shape) = (array.len() == 0, array.shape());
    if !empty {
        expect_dtype::<i64>(name, array)?;
    }
    if shape.len() != 1 {
        let (dimensions, shape) = (shape.len(), shape);
        return Err(PyValueError::new_err(format!("{name} must have 1 dimension, got {dimensions} (shape {shape:?})")));
    }
    if empty {
        return Ok(vec![]);
    }
    let plain = if array.is_c_contiguous() && array.is_aligned() {
        object.clone()
    } else {
        let options = PyDict::new(py);
        options.set_item("order", "C")?;
        py.import("numpy")?.call_method("array", (array,), Some(&options))?
    };
    let borrow = plain.cast::<PyArray1<i64>>()?.try_readonly().map_err(|error| borrowed(name, &error))?;
    let values = borrow.as_slice()?;
    let copy = || copied(values).map_err(Error::from);
    if values.len() <= MAX_ATTACHED { copy().map_err(|error| errors::to_py(py, error)) } else { detached(py, copy) }
}

/// Up to this many ids are copied attached: releasing the interpreter would take longer.
const MAX_ATTACHED: usize = 1000;

fn listed_ids(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let mut ids = vec![];
    let reserve =
        |ids: &mut Vec<i64>, more| ids.try_reserve(more).map_err(|error| errors::to_py(object.py(), error.into()));
    reserve(&mut ids, object.len()?)?;
    for (i, id) in object.try_iter()?.enumerate() {
        let id = id?;
        let wrong = || PyTypeError::new_err(format!("{name}[{i}] must be an int of 64 bits, got {}", short_repr(&id)));
        if id.is_instance_of::<PyBool>() {
            return Err(wrong());
        }
        // Extraction uses `__index__`, so NumPy's integers are accepted. Its own errors are passed on.
        let value = id.extract().map_err(|error: PyErr| {
            let py = id.py();
            let unfit = error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyOverflowError>(py);
            if unfit { wrong() } else { error }
        })?;
        reserve(&mut ids, 1)?;
        ids.push(value);
    }
    Ok(ids)
}

/// Whether `array` has the dtype of `T`.
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
    PyValueError::new_err(match error {
        numpy::BorrowError::NotWriteable => format!("{name} is read-only"),
        error => format!("{name} is in use by another call that writes to it: {error}"),
    })
}

/// A new array that `NumPy` owns, and a pointer to its uninitialised memory.
///
/// `NumPy`'s allocator reuses small blocks and asks for huge pages for large ones. A failed allocation raises
/// `MemoryError`.
#[expect(unsafe_code, reason = "the C API's allocation, without its zeroing")]
pub(super) fn allocate<'py, T: Element>(py: Python<'py>, shape: &[usize]) -> PyResult<(Bound<'py, PyAny>, *mut T)> {
    let mut dims = [0 as npy_intp; 2];
    let dims = &mut dims[..shape.len()];
    for (dim, &length) in dims.iter_mut().zip(shape) {
        *dim = npy_intp::try_from(length)
            .map_err(|_| PyValueError::new_err(format!("an array of shape {shape:?} is too large")))?;
    }
    // SAFETY: `dims` outlives the call, which reads all of it and no more; the descriptor's reference is handed over as
    // the API asks; a null result carries a Python error, which `_or_err` takes.
    let array = unsafe {
        let raw = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            npyffi::get_type_object(py, npyffi::NpyTypes::PyArray_Type),
            dtype::<T>(py).into_dtype_ptr(),
            dims.len() as std::ffi::c_int,
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

/// A new array of `shape` (one or two lengths) that `fill` initialises with the interpreter released.
///
/// `fill` gets the uninitialised memory; where it returns `Err` the array is dropped unread.
///
/// # Safety
/// Where `fill` returns `Ok`, it has written every element, or the caller cuts off the others (see [`shrink`]) before
/// anybody else sees the array.
#[expect(unsafe_code, reason = "hands fresh, unshared memory to the core as MaybeUninit")]
pub(super) unsafe fn filled<'py, T: Element + Send, R: Send>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut [MaybeUninit<T>]) -> Result<R, Error> + Send,
) -> PyResult<(Bound<'py, PyAny>, R)> {
    // SAFETY: as the caller vouches.
    unsafe { filled_by(py, shape, |memory| detached(py, || fill(memory))) }
}

/// [`filled`], with the interpreter released only where `fill` does so.
///
/// # Safety
/// As for [`filled`].
#[expect(unsafe_code, reason = "hands fresh, unshared memory to the core as MaybeUninit")]
unsafe fn filled_by<'py, T: Element, R>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut [MaybeUninit<T>]) -> PyResult<R>,
) -> PyResult<(Bound<'py, PyAny>, R)> {
    let (array, data) = allocate::<T>(py, shape)?;
    let length: usize = shape.iter().product();
    // SAFETY: `data` is the start of `length` elements that the array owns and nothing else refers to. MaybeUninit
    // needs no initialisation, and the array outlives the borrow, which ends in this function.
    let memory = unsafe { std::slice::from_raw_parts_mut(data.cast::<MaybeUninit<T>>(), length) };
    let result = fill(memory)?;
    Ok((array, result))
}

/// Elements up to which an array is filled attached: it takes less time than to release the interpreter.
const FEW: usize = 1 << 8;

/// A new array of `shape` (one or two lengths) with one element for each of `values`; where they are many, with the
/// interpreter released.
pub(super) fn collected<'py, T: Element + Send>(
    py: Python<'py>,
    shape: &[usize],
    values: impl Iterator<Item = T> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let fill = |memory: &mut [MaybeUninit<T>]| {
        let mut written = 0;
        for (element, value) in memory.iter_mut().zip(values) {
            element.write(value);
            written += 1;
        }
        assert_eq!(written, memory.len(), "as many values as elements");
    };
    let fill = |memory: &mut [MaybeUninit<T>]| {
        if memory.len() <= FEW {
            fill(memory);
        } else {
            py.detach(|| fill(memory));
        }
        Ok(())
    };
    // SAFETY: `fill` checks that it has written every element.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { filled_by(py, shape, fill) }?;
    Ok(array)
}

/// New `bytes` that `fill` initialises wholly, with the interpreter released. See [`filled`].
///
/// # Safety
/// Where `fill` returns `Ok`, it has written every byte.
#[expect(unsafe_code, reason = "the C API's allocation, without PyO3's zeroing")]
pub(super) unsafe fn filled_pybytes(
    py: Python<'_>,
    size: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<(), Error> + Send,
) -> PyResult<Bound<'_, PyBytes>> {
    let length = isize::try_from(size).map_err(|_| PyOverflowError::new_err(format!("{size} bytes are too many")))?;
    // SAFETY: a null pointer asks for memory that is not initialised; a null result carries a Python error, which
    // `_or_err` takes, and any other is an exact `bytes`.
    let bytes = unsafe {
        let raw = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length);
        Bound::from_owned_ptr_or_err(py, raw)?.cast_into_unchecked::<PyBytes>()
    };
    // SAFETY: the object was made above with `size` bytes, to which nothing else refers yet. MaybeUninit needs no
    // initialisation, and the object outlives the borrow, which ends in this function.
    let memory = unsafe {
        let start = ffi::PyBytes_AsString(bytes.as_ptr());
        std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), size)
    };
    detached(py, || fill(memory))?;
    Ok(bytes)
}

/// A new matrix of bytes that `fill` initialises: int8 where `signed`, else uint8. See [`filled`].
///
/// # Safety
/// As for [`filled`].
#[expect(unsafe_code, reason = "passes on what its caller vouches for")]
pub(super) unsafe fn filled_bytes<'py, R: Send>(
    py: Python<'py>,
    shape: &[usize],
    signed: bool,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<R, Error> + Send,
) -> PyResult<(Bound<'py, PyAny>, R)> {
    // SAFETY: the caller vouches for `fill`, which gets the same memory whatever the sign.
    unsafe {
        if signed { filled::<i8, R>(py, shape, |memory| fill(as_unsigned(memory))) } else { filled(py, shape, fill) }
    }
}

/// A matrix over memory that the core has filled: int8 where `signed`, else uint8. Nothing is copied.
///
/// # Safety
/// All bytes of `memory` are initialised.
#[expect(unsafe_code, reason = "the memory's bytes have the layout of both types")]
pub(super) unsafe fn adopted_bytes(
    py: Python<'_>,
    memory: Vec<MaybeUninit<u8>>,
    shape: [usize; 2],
    signed: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let mut memory = std::mem::ManuallyDrop::new(memory);
    let (start, length, capacity) = (memory.as_mut_ptr(), memory.len(), memory.capacity());
    if signed {
        // SAFETY: the parts are those of a Vec that is not dropped; MaybeUninit<u8> and i8 have one size and
        // alignment; the caller vouches for the contents.
        let bytes = unsafe { Vec::<i8>::from_raw_parts(start.cast(), length, capacity) };
        Ok(PyArray1::from_vec(py, bytes).reshape(shape)?.into_any())
    } else {
        // SAFETY: as above, for u8.
        let bytes = unsafe { Vec::<u8>::from_raw_parts(start.cast(), length, capacity) };
        Ok(PyArray1::from_vec(py, bytes).reshape(shape)?.into_any())
    }
}

/// Signed bytes as unsigned ones.
#[expect(unsafe_code, reason = "the two types have the same layout")]
fn as_unsigned(memory: &mut [MaybeUninit<i8>]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: i8 and u8 have the same size and alignment, and every byte is a value of both.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len()) }
}

/// Initialised bytes, for a function that also takes memory that is not.
///
/// # Safety
/// Only initialised bytes are written to the result.
#[expect(unsafe_code, reason = "MaybeUninit<u8> has the layout of both")]
unsafe fn as_uninit<T: ByteSized>(memory: &mut [T]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: T is i8 or u8 (`ByteSized` is private and implemented for no other), and the caller keeps all bytes
    // initialised.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len()) }
}

trait ByteSized: Element {}
impl ByteSized for i8 {}
impl ByteSized for u8 {}

/// i8 or u8, whose slices can be read as bytes.
pub(super) trait Byte: Element {
    /// The values as bytes.
    fn bytes(values: &[Self]) -> &[u8];
}

impl Byte for u8 {
    fn bytes(values: &[Self]) -> &[u8] {
        values
    }
}

impl Byte for i8 {
    #[expect(unsafe_code, reason = "the two types have the same layout")]
    fn bytes(values: &[Self]) -> &[u8] {
        // SAFETY: i8 and u8 have the same size and alignment, and every byte is a value of both.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
    }
}

/// Shrink a new array that nothing else refers to, and free the memory behind its first rows.
pub(super) fn shrink(array: &Bound<'_, PyAny>, shape: &[usize]) -> PyResult<()> {
    let options = PyDict::new(array.py());
    options.set_item("refcheck", false)?;
    array.call_method("resize", (shape,), Some(&options)).map(drop)
}

/// A view of a contiguous array of one dimension as one row; any other array itself.
pub(super) fn as_row<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let array = untyped(name, object)?;
    // NumPy would copy an array of another layout, and what is written to the copy would be lost.
    if array.ndim() == 1 && array.is_c_contiguous() {
        object.call_method1("reshape", (1, -1))
    } else {
        Ok(object.clone())
    }
}

/// A caller's matrix to decode into: int8 where `signed`, else uint8.
pub(super) enum Out<'py> {
    /// int8 values.
    Signed(PyReadwriteArray2<'py, i8>),
    /// Packed bits.
    Unsigned(PyReadwriteArray2<'py, u8>),
}

impl<'py> Out<'py> {
    /// Borrow `object` for writing.
    pub(super) fn extract(object: &Bound<'py, PyAny>, signed: bool) -> PyResult<Self> {
        let array = untyped("out", object)?;
        if signed {
            expect_dtype::<i8>("out", array)?;
        } else {
            expect_dtype::<u8>("out", array)?;
        }
        if array.ndim() != 2 || !array.is_c_contiguous() {
            return Err(PyValueError::new_err(format!(
                "out must be a C-contiguous matrix, got shape {:?} and strides {:?}",
                array.shape(),
                array.strides()
            )));
        }
        if signed {
            Ok(Self::Signed(array.cast::<PyArray2<i8>>()?.try_readwrite().map_err(|e| borrowed("out", &e))?))
        } else {
            Ok(Self::Unsigned(array.cast::<PyArray2<u8>>()?.try_readwrite().map_err(|e| borrowed("out", &e))?))
        }
    }

    /// Rows, and bytes per row.
    pub(super) fn shape(&self) -> (usize, usize) {
        let shape = match self {
            Self::Signed(array) => array.shape(),
            Self::Unsigned(array) => array.shape(),
        };
        (shape[0], shape[1])
    }

    /// Run `work` on the memory, with the interpreter released.
    ///
    /// # Safety
    /// `work` writes initialised bytes only.
    #[expect(unsafe_code, reason = "initialised memory as MaybeUninit")]
    pub(super) unsafe fn with<R: Send>(
        &mut self,
        py: Python<'_>,
        work: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        // Contiguity was checked at extraction, so the error is never met.
        // SAFETY: the caller vouches for `work`.
        let memory = unsafe {
            match self {
                Self::Signed(array) => as_uninit(array.as_slice_mut()?),
                Self::Unsigned(array) => as_uninit(array.as_slice_mut()?),
            }
        };
        detached(py, || work(memory))
    }
}

/// `repr(object)`, cut to 80 characters.
pub(super) fn short_repr(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().map_or_else(|_| unprintable(object), |repr| repr.to_string_lossy().into_owned());
    if text.chars().count() > 80 { text.chars().take(77).chain("...".chars()).collect() } else { text }
}

/// What stands for an object without a `repr`. An int has none if it has thousands of digits.
fn unprintable(object: &Bound<'_, PyAny>) -> String {
    let bits = object.call_method0("bit_length").and_then(|bits| bits.extract::<u64>());
    let negative = if object.lt(0).unwrap_or(false) { "a negative int" } else { "an int" };
    bits.map_or_else(|_| "an object without a repr".to_owned(), |bits| format!("{negative} of {bits} bits"))
}
