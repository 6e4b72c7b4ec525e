//! The codec for Python.

mod encoding;
mod new_rows;
mod request_body;
mod response_body;

use std::mem::MaybeUninit;
use std::ops::Range;

use numpy::{PyArrayDescr, PyArrayDescrMethods, dtype};
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use self::encoding::{encoding, row_bytes};
use super::convert::{self, Out, Rows};
use super::errors::memory_error;
use super::export::export;
use super::scalars::Argument;
use crate::codec::{Encoding, base64, bits, vectors};
use crate::error::{DecodeError, DecodeKind, Error};
use crate::isa::Isa;
use crate::memory;

/// Add the functions and classes of the codec to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    request_body::register(module)?;
    response_body::register(module)?;
    export(module, wrap_pyfunction!(decode_base64, module)?)?;
    export(module, wrap_pyfunction!(encode_base64, module)?)?;
    export(module, wrap_pyfunction!(pack_bits, module)?)?;
    export(module, wrap_pyfunction!(unpack_bits, module)?)?;
    export(module, wrap_pyfunction!(reverse_bit_order, module)?)?;
    export(module, wrap_pyfunction!(truncate, module)?)?;
    export(module, wrap_pyfunction!(normalize, module)?)?;
    Ok(())
}

/// Decode base64 strings to one matrix of vectors.
///
/// Parameters
/// ----------
/// strings : str or sequence of str
///     Padded standard base64 (RFC 4648, section 4), such as the API's ``embedding`` fields.
/// dimensions : int, optional
///     Expected dimensions of each vector. By default those of the first string.
/// encoding_format : {"base64_int8", "base64_binary"}, default "base64_int8"
///     What the strings encode: int8 vectors or packed bits.
/// out : ndarray of int8 or uint8, shape (n, width), or (width,) for one str, optional
///     Decode into this C-contiguous array instead of a new one. After an error its contents are undefined.
///
/// Returns
/// -------
/// ndarray, shape (n, dimensions) int8 or (n, dimensions // 8) uint8
///     One row per string; for one str, one vector without the row axis. ``out`` if given.
///
/// Raises
/// ------
/// DecodeError
///     A string is not the canonical base64 of one vector. ``chunk`` is the position of the string, ``offset`` the
///     character in it.
/// ValueError
///     ``out``, ``dimensions`` and ``encoding_format`` do not fit each other.
///
/// Notes
/// -----
/// The GIL is released while decoding. The algorithm is that of Muła and Lemire, "Base64 encoding and decoding at almost the speed of a
/// memory copy", Software: Practice and Experience 50(2), 2020.
///
/// Examples
/// --------
/// >>> decode_base64(["AQID", "/38A"])
/// array([[  1,   2,   3],
///        [ -1, 127,   0]], dtype=int8)
#[pyfunction]
#[pyo3(
    signature = (strings, *, dimensions=None, encoding_format=Argument::Default("base64_int8"), out=None),
    text_signature = "(strings, *, dimensions=None, encoding_format='base64_int8', out=None)",
)]
fn decode_base64<'py>(
    py: Python<'py>,
    strings: &Bound<'py, PyAny>,
    dimensions: Option<&Bound<'py, PyAny>>,
    encoding_format: Argument<'py, &'static str>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let encoding = encoding(encoding_format)?;
    let width = row_bytes(encoding, dimensions)?;
    let one = strings.is_instance_of::<PyString>();
    let strings: Vec<Bound<'py, PyAny>> = if one {
        vec![strings.clone()]
    } else {
        let wrong = || {
            PyTypeError::new_err(format!(
                "strings must be a str or a sequence of str, got {}",
                convert::short_repr(strings)
            ))
        };
        if strings.is_instance_of::<PyBytes>() {
            return Err(wrong()); // iterating would give ints
        }
        let mut listed = Vec::new();
        for entry in strings.try_iter().map_err(|_| wrong())? {
            memory::push(&mut listed, entry?).map_err(memory_error)?;
        }
        listed
    };
    let mut texts = memory::vector(strings.len()).map_err(memory_error)?;
    for (i, string) in strings.iter().enumerate() {
        texts.push(text_of(i, string)?);
    }
    let signed = encoding == Encoding::Int8;
    if let Some(array) = out {
        let mut out = Out::extract(&if one { convert::as_row("out", array)? } else { array.clone() }, signed)?;
        let (rows, row_bytes) = out.shape();
        let want = (texts.len(), width.unwrap_or(row_bytes));
        if want != (rows, row_bytes) {
            return Err(PyValueError::new_err(format!("out has shape ({rows}, {row_bytes}), expected {want:?}")));
        }
        // SAFETY: `decode_texts` writes initialised bytes.
        #[expect(unsafe_code, reason = "initialised memory stays so")]
        unsafe { out.with(py, |memory| decode_texts(&texts, row_bytes, one, memory)) }?;
        return Ok(array.clone());
    }
    let width = width.unwrap_or_else(|| texts.first().map_or(0, |text| base64::decoded_len(text).max(1)));
    let shape = [texts.len(), width];
    let shape = if one { &shape[1..] } else { &shape[..] };
    let fill = |memory: &mut [MaybeUninit<u8>]| decode_texts(&texts, width, one, memory);
    // SAFETY: on success `decode_texts` has written the `width` bytes of each text.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled_bytes(py, shape, signed, fill) }?;
    Ok(array)
}

/// Decode each text to the next `width` bytes of `memory`. If there is only `one` text, errors give no position.
fn decode_texts(texts: &[&[u8]], width: usize, one: bool, memory: &mut [MaybeUninit<u8>]) -> Result<(), Error> {
    let isa = Isa::codec();
    let mut rest = memory;
    for (i, text) in texts.iter().enumerate() {
        let located = |error: DecodeError| Error::Decode(error.at(None, (!one).then_some(i)));
        if text.is_empty() {
            return Err(located(DecodeError::new(DecodeKind::Length, 0, "vector is empty")));
        }
        let (row, after) = rest.split_at_mut(width);
        base64::decode_exact(isa, text, row).map_err(located)?;
        rest = after;
    }
    Ok(())
}

fn text_of<'a>(position: usize, string: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    let wrong =
        || PyTypeError::new_err(format!("strings[{position}] must be str, got {}", convert::short_repr(string)));
    let string = string.cast::<PyString>().map_err(|_| wrong())?;
    string.to_str().map(str::as_bytes).map_err(|error| {
        if !error.is_instance_of::<PyUnicodeEncodeError>(string.py()) {
            return error;
        }
        PyValueError::new_err(format!(
            "strings[{position}] holds a lone surrogate, which is not in the base64 alphabet"
        ))
    })
}

/// Encode vectors as base64, as the API does.
///
/// Parameters
/// ----------
/// vectors : ndarray of int8 or uint8, shape (n, width) or (width,)
///     int8 vectors, or packed bits.
///
/// Returns
/// -------
/// list of str, or str for one vector
///     Padded standard base64 (RFC 4648, section 4) of each row's bytes.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> encode_base64(np.array([[1, 2, 3]], dtype=np.int8))
/// ['AQID']
#[pyfunction]
#[pyo3(signature = (vectors))]
fn encode_base64<'py>(py: Python<'py>, vectors: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if convert::is_signed("vectors", vectors)? {
        encode(py, &Rows::<i8>::extract("vectors", vectors)?)
    } else {
        encode(py, &Rows::<u8>::extract("vectors", vectors)?)
    }
}

fn encode<'py, T: convert::Byte>(py: Python<'py>, rows: &Rows<'py, T>) -> PyResult<Bound<'py, PyAny>> {
    let width = rows.width();
    let bytes = T::bytes(rows.values());
    let isa = Isa::codec();
    let length = base64::encoded_len(width).unwrap_or(0);
    let text = convert::detached(py, || {
        let mut text = memory::vector(bytes.len() / width.max(1) * length)?;
        for row in bytes.chunks_exact(width.max(1)) {
            base64::encode_into(isa, row, &mut text);
        }
        Ok(text)
    })?;
    // Base64 text is ASCII, so the default is never used.
    let text = std::str::from_utf8(&text).unwrap_or_default();
    let row = |i: usize| PyString::from_bytes(py, text[Range { start: i * length, end: (i + 1) * length }].as_bytes());
    if rows.is_single() {
        return Ok(row(0)?.into_any());
    }
    let list = unset_list(py, rows.len())?;
    for i in 0..rows.len() {
        list.set_item(i, row(i)?)?;
    }
    Ok(list.into_any())
}

/// A list of `length` entries that are not set yet. PyO3 panics where memory is short.
#[expect(unsafe_code, reason = "the C API's allocation")]
fn unset_list(py: Python<'_>, length: usize) -> PyResult<Bound<'_, PyList>> {
    let length = isize::try_from(length).map_err(|_| memory_error(Error::Memory(format!("{length} strings"))))?;
    // SAFETY: the call takes any length; a null result carries a Python error, which `_or_err` takes, and any other is an
    // exact list.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyList_New(length))?.cast_into_unchecked()) }
}

/// Pack int8 vectors to one bit per dimension: 1 for a value >= 0, least significant bit first.
///
/// Parameters
/// ----------
/// int8_vectors : ndarray of int8, shape (n, dimensions) or (dimensions,)
///     ``dimensions`` must be a multiple of 8.
///
/// Returns
/// -------
/// ndarray of uint8, shape (n, dimensions // 8) or (dimensions // 8,)
///     Dimension ``i`` is bit ``i % 8`` of byte ``i // 8``, as in ``numpy.packbits(bitorder="little")``.
///
/// Raises
/// ------
/// ValueError
///     ``dimensions`` is not a multiple of 8.
///
/// Notes
/// -----
/// The bits equal those that the API returns, except where the int8 value is 0: rounding to int8 has lost the sign of
/// the model's value there. The GIL is released.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> pack_bits(np.array([1, -1, 0, -5, -5, -5, -5, 127], dtype=np.int8))
/// array([133], dtype=uint8)
#[pyfunction]
fn pack_bits<'py>(py: Python<'py>, int8_vectors: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let rows = Rows::<i8>::extract("int8_vectors", int8_vectors)?;
    if !rows.width().is_multiple_of(8) {
        return Err(PyValueError::new_err(format!(
            "int8_vectors must have a multiple of 8 dimensions to be packed, got {}",
            rows.width()
        )));
    }
    let values = rows.values();
    let isa = Isa::codec();
    let fill = |out: &mut [MaybeUninit<u8>]| {
        bits::pack(isa, values, out);
        Ok(())
    };
    // SAFETY: `pack` writes all of its output.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled(py, &rows.shape(rows.width() / 8), fill) }?;
    Ok(array)
}

/// Unpack bits (least significant first) to one value per dimension: +1 and -1, or True and False.
///
/// Parameters
/// ----------
/// bits : ndarray of uint8, shape (n, width) or (width,)
///     Packed bits.
/// dimensions : int, optional
///     How many of the ``8 * width`` bits to unpack. By default all.
/// dtype : dtype, optional
///     int8 (the default) or float32 for +1 and -1, bool for True and False.
///
/// Returns
/// -------
/// ndarray of ``dtype``, shape (n, dimensions) or (dimensions,)
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> unpack_bits(np.array([133], dtype=np.uint8))
/// array([ 1, -1,  1, -1, -1, -1, -1,  1], dtype=int8)
#[pyfunction]
#[pyo3(signature = (bits, dimensions=None, dtype=None))]
fn unpack_bits<'py>(
    py: Python<'py>,
    bits: &Bound<'py, PyAny>,
    dimensions: Option<&Bound<'py, PyAny>>,
    dtype: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let rows = Rows::<u8>::extract("bits", bits)?;
    let all = rows.width() * 8;
    let dimensions = dimensions.map_or(Ok(all), |dimensions| convert::integer("dimensions", dimensions, 1))?;
    if dimensions > all {
        return Err(PyValueError::new_err(format!(
            "dimensions must be at most {all} for these bits, got {dimensions}"
        )));
    }
    let Some(dtype) = dtype else { return unpack_signs(py, &rows, dimensions) };
    let descr = PyArrayDescr::new(py, dtype)?;
    if descr.is_equiv_to(&self::dtype::<i8>(py)) {
        unpack_signs(py, &rows, dimensions)
    } else if descr.is_equiv_to(&self::dtype::<f32>(py)) {
        unpack::<f32>(py, &rows, dimensions)
    } else if descr.is_equiv_to(&self::dtype::<bool>(py)) {
        unpack::<bool>(py, &rows, dimensions)
    } else {
        Err(PyTypeError::new_err(format!("dtype must be int8, float32 or bool, got {descr}")))
    }
}

fn unpack_signs<'py>(py: Python<'py>, rows: &Rows<'py, u8>, dimensions: usize) -> PyResult<Bound<'py, PyAny>> {
    let (packed, width) = (rows.values(), rows.width());
    let isa = Isa::codec();
    let fill = |out: &mut [MaybeUninit<u8>]| {
        if width > 0 {
            bits::unpack_signs(isa, packed, width, dimensions, out);
        }
        Ok(())
    };
    // SAFETY: `unpack_signs` writes all of its output; without bits there are no dimensions, and it is empty.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled_bytes(py, &rows.shape(dimensions), true, fill) }?;
    Ok(array)
}

fn unpack<'py, T: bits::FromBit + numpy::Element + Send>(
    py: Python<'py>,
    rows: &Rows<'py, u8>,
    dimensions: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (packed, width) = (rows.values(), rows.width());
    let isa = Isa::codec();
    let fill = |out: &mut [MaybeUninit<T>]| {
        if width > 0 {
            bits::unpack(isa, packed, width, dimensions, out);
        }
        Ok(())
    };
    // SAFETY: `unpack` writes all of its output; without bits there are no dimensions, and it is empty.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled(py, &rows.shape(dimensions), fill) }?;
    Ok(array)
}

/// Reverse the bits within each byte: least significant first to most significant first, and back.
///
/// Parameters
/// ----------
/// bits : ndarray of uint8, shape (n, width) or (width,)
///     Packed bits. The API packs least significant first; ``numpy.packbits`` by default, sentence-transformers and
///     other vendors pack most significant first.
///
/// Returns
/// -------
/// ndarray of uint8, of the same shape
///     A copy.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> reverse_bit_order(np.array([0b1000_0101], dtype=np.uint8))
/// array([161], dtype=uint8)
#[pyfunction]
fn reverse_bit_order<'py>(py: Python<'py>, bits: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let rows = Rows::<u8>::extract("bits", bits)?;
    let packed = rows.values();
    let isa = Isa::codec();
    let fill = |out: &mut [MaybeUninit<u8>]| {
        bits::reverse(isa, packed, out);
        Ok(())
    };
    // SAFETY: `reverse` writes all of its output.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled(py, &rows.shape(rows.width()), fill) }?;
    Ok(array)
}

/// Keep the first dimensions of each vector (Matryoshka).
///
/// Parameters
/// ----------
/// vectors : ndarray of int8 or uint8, shape (n, width) or (width,)
///     int8 vectors, or packed bits.
/// dims : int
///     Dimensions to keep; a multiple of 8 for bits.
///
/// Returns
/// -------
/// ndarray of the same dtype, shape (n, dims) int8 or (n, dims // 8) uint8
///     A contiguous copy.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> truncate(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int8), 2)
/// array([[1, 2],
///        [4, 5]], dtype=int8)
#[pyfunction]
fn truncate<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    dims: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let dims = convert::integer("dims", dims, 1)?;
    if convert::is_signed("vectors", vectors)? {
        let rows = Rows::<i8>::extract("vectors", vectors)?;
        check_truncation(dims, rows.width())?;
        return keep(py, &rows, dims);
    }
    let rows = Rows::<u8>::extract("vectors", vectors)?;
    check_truncation(dims, rows.width() * 8)?;
    if !dims.is_multiple_of(8) {
        return Err(PyValueError::new_err(format!("dims must be a multiple of 8 for bits, got {dims}")));
    }
    keep(py, &rows, dims / 8)
}

fn check_truncation(dims: usize, has: usize) -> PyResult<()> {
    if dims <= has {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("dims must be at most the vectors' {has}, got {dims}")))
}

fn keep<'py, T: numpy::Element + Copy + Send + Sync>(
    py: Python<'py>,
    rows: &Rows<'py, T>,
    kept: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (values, width) = (rows.values(), rows.width());
    let fill = |out: &mut [MaybeUninit<T>]| {
        vectors::truncate(values, width, kept, out);
        Ok(())
    };
    // SAFETY: `truncate` writes all of its output.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled(py, &rows.shape(kept), fill) }?;
    Ok(array)
}

/// Scale int8 vectors to unit length.
///
/// Parameters
/// ----------
/// int8_vectors : ndarray of int8, shape (n, dimensions) or (dimensions,)
///     Vectors as the API returns them, not normalised.
///
/// Returns
/// -------
/// ndarray of float32, of the same shape
///     Unit vectors. A zero vector stays zero.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> normalize(np.array([[3, 4], [0, 0]], dtype=np.int8))
/// array([[0.6, 0.8],
///        [0. , 0. ]], dtype=float32)
#[pyfunction]
fn normalize<'py>(py: Python<'py>, int8_vectors: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let rows = Rows::<i8>::extract("int8_vectors", int8_vectors)?;
    let (values, width) = (rows.values(), rows.width());
    let isa = Isa::codec();
    let fill = |out: &mut [MaybeUninit<f32>]| {
        if width > 0 {
            vectors::normalize(isa, values, width, out);
        }
        Ok(())
    };
    // SAFETY: `normalize` writes all of its output, which is empty where rows have no values.
    #[expect(unsafe_code, reason = "every element is written")]
    let (array, ()) = unsafe { convert::filled(py, &rows.shape(width), fill) }?;
    Ok(array)
}
