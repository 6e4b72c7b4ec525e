//! Methods that both kinds of index share.

use std::mem::MaybeUninit;
use std::path::PathBuf;

use numpy::{Element, IntoPyArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::super::convert::{self, Rows, collected, detached, filled, integer, interruptible, saturated, short_repr};
use super::super::errors;
use super::super::scalars::{Argument, boolean};
use super::embeddings::{Given, Use};
use crate::error::Error;
use crate::search::file;
use crate::search::index::{Calibration, Index, Kind};

pub(super) fn create(kind: Kind, dims: &Bound<'_, PyAny>, space: Option<&Bound<'_, PyAny>>) -> PyResult<Index> {
    let space = space.map(space_of).transpose()?;
    Ok(Index::new(kind, dims_of(kind, dims)?, space))
}

/// The `dims` argument.
fn dims_of(kind: Kind, given: &Bound<'_, PyAny>) -> PyResult<usize> {
    let wrong = |what| PyValueError::new_err(format!("dims {what}, got {}", short_repr(given)));
    let dims = saturated(given)?
        .ok_or_else(|| PyTypeError::new_err(format!("dims must be an int, got {}", short_repr(given))))?;
    let dims = usize::try_from(dims).unwrap_or_default(); // out of range as the value is
    kind.check_dims(dims).map_err(wrong)?;
    Ok(dims)
}

/// The `space` argument.
fn space_of(space: &Bound<'_, PyAny>) -> PyResult<String> {
    let name: String = space
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("space must be a str or None, got {}", short_repr(space))))?;
    if name.is_empty() || name.len() > file::MAX_SPACE || name.contains('\0') {
        let expected = format!("1 to {} bytes of UTF-8 without null characters", file::MAX_SPACE);
        return Err(PyValueError::new_err(format!("space must have {expected}, got {}", short_repr(space))));
    }
    Ok(name)
}

pub(super) fn add<'py, T: Element + Sync>(
    py: Python<'py>,
    index: &Index,
    vectors: &Bound<'py, PyAny>,
    ids: Option<&Bound<'py, PyAny>>,
    work: impl FnOnce(&[T], Option<&[i64]>) -> Result<Vec<i64>, Error> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let width = if index.kind() == Kind::Binary { index.dims() / 8 } else { index.dims() };
    // Before the rows: an `__index__` of an id could change their shape.
    let ids = ids.map(ids_of).transpose()?;
    let given = Given::extract(index, vectors, index.dims(), Use::Added)?;
    let rows = Rows::<T>::extract("vectors", &given.array)?;
    if rows.width() != width {
        let got = rows.width();
        return Err(PyValueError::new_err(format!("vectors must have {width} columns, as the index has, got {got}")));
    }
    let values = rows.values();
    let adopted = given.adopt_space(py, index)?;
    let assigned = detached(py, || work(values, ids.as_deref())).inspect_err(|_| {
        if adopted {
            index.forget_space();
        }
    })?;
    Ok(assigned.into_pyarray(py).into_any())
}

/// The `ids` argument.
pub(super) fn ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    convert::ids("ids", ids)
}

pub(super) fn remove(py: Python<'_>, index: &Index, ids: &Bound<'_, PyAny>) -> PyResult<()> {
    let ids = ids_of(ids)?;
    detached(py, || index.remove(&ids))
}

/// A matrix of `count` rows, which `each` visits in turn.
pub(super) fn vectors<T: Element + Send + Copy>(
    py: Python<'_>,
    count: usize,
    width: usize,
    each: impl FnOnce(&mut dyn FnMut(&[T])) -> Result<(), Error> + Send,
) -> PyResult<Bound<'_, PyAny>> {
    let fill = |memory: &mut [MaybeUninit<T>]| {
        let mut rows = memory.chunks_exact_mut(width);
        each(&mut |row| {
            let memory = rows.next().expect("there is room for each row");
            assert_eq!(memory.len(), row.len(), "rows of {width} values");
            for (memory, &value) in memory.iter_mut().zip(row) {
                memory.write(value);
            }
        })?;
        assert_eq!(rows.len(), 0, "{count} rows are visited");
        Ok(())
    };
    // SAFETY: each row that was visited was written wholly, and all were visited, as is checked.
    #[expect(unsafe_code, reason = "every element is written")]
    let (rows, ()) = unsafe { filled(py, &[count, width], fill) }?;
    Ok(rows)
}

/// The CRC-32 of the rows of each range of ids.
pub(super) fn checksums(py: Python<'_>, index: &Index, ranges: &[(i64, i64)]) -> PyResult<Vec<u32>> {
    detached(py, || index.checksums(ranges))
}

/// Counts as an array, or as an int for a single query.
pub(super) fn counts<'py>(py: Python<'py>, counts: &[u64], single: bool) -> PyResult<Bound<'py, PyAny>> {
    if single {
        return Ok(counts.first().copied().unwrap_or_default().into_pyobject(py)?.into_any());
    }
    collected(py, &[counts.len()], counts.iter().map(|&count| count as i64))
}

/// The `path` argument.
fn path_of(path: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let wrong = || PyTypeError::new_err(format!("path must be a str or os.PathLike, got {}", short_repr(path)));
    let named: PathBuf = path
        .extract()
        .map_err(|error: PyErr| if error.is_instance_of::<PyTypeError>(path.py()) { wrong() } else { error })?;
    if named.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(PyValueError::new_err(format!("path must not contain a null character, got {}", short_repr(path))));
    }
    Ok(named)
}

pub(super) fn save(py: Python<'_>, index: &Index, path: &Bound<'_, PyAny>) -> PyResult<()> {
    let path = path_of(path)?;
    interruptible(py, |py, check| detached(py, || file::save(index, &path, check)))
}

pub(super) fn open(
    py: Python<'_>,
    kind: Kind,
    path: &Bound<'_, PyAny>,
    mmap: Argument<'_, bool>,
    verify: Option<&Bound<'_, PyAny>>,
) -> PyResult<Index> {
    let path = path_of(path)?;
    let mmap = mmap.boolean("mmap")?;
    let verify = verify.map_or(Ok(!mmap), |verify| boolean("verify", verify))?;
    let index = interruptible(py, |py, check| {
        detached(py, || {
            if mmap {
                // SAFETY: `open` in Python asks its caller not to change the file while the index lives.
                #[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
                unsafe {
                    file::open_mapped(&path, verify, check)
                }
            } else {
                file::open(&path, verify, check)
            }
        })
    })?;
    if index.kind() == kind {
        return Ok(index);
    }
    let class = match index.kind() {
        Kind::Int8 => "Index",
        Kind::Binary => "BinaryIndex",
    };
    let content = index.kind().describe();
    let message = format!("{} holds {content}: open it with {class}.open", path.display());
    Err(errors::to_py(py, Error::IndexFile(message)))
}

pub(super) fn open_segments(
    py: Python<'_>,
    kind: Kind,
    dims: &Bound<'_, PyAny>,
    files: &Bound<'_, PyAny>,
    space: Option<&Bound<'_, PyAny>>,
    calibration: Option<&Bound<'_, PyAny>>,
) -> PyResult<Index> {
    let (dims, space) = (dims_of(kind, dims)?, space.map(space_of).transpose()?);
    let calibration = calibration.map(calibration_of).transpose()?;
    let files: Vec<_> = files.try_iter()?.map(|file| segment_of(&file?)).collect::<PyResult<_>>()?;
    interruptible(py, |py, check| {
        detached(py, || {
            // SAFETY: `_open_segments` asks its caller not to change the files while the index lives.
            #[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
            unsafe {
                file::open_segments(kind, dims, &files, space, calibration, check)
            }
        })
    })
}

/// One of the `files` of `_open_segments`.
fn segment_of(file: &Bound<'_, PyAny>) -> PyResult<(PathBuf, Option<[u8; file::HEADER]>)> {
    let wrong = || PyTypeError::new_err(format!("files must hold tuples (path, header), got {}", short_repr(file)));
    let (path, header): (Bound<'_, PyAny>, Option<Bound<'_, PyBytes>>) = file.extract().map_err(|_| wrong())?;
    let header = header.map(|header| {
        let (expected, found) = (file::HEADER, header.as_bytes().len());
        let wrong = |_| PyValueError::new_err(format!("a header must have {expected} bytes, got {found}"));
        header.as_bytes().try_into().map_err(wrong)
    });
    Ok((path_of(&path)?, header.transpose()?))
}

/// The `calibration` argument: an oversample, the rows per query, and the recall that was reached.
fn calibration_of(given: &Bound<'_, PyAny>) -> PyResult<Calibration> {
    let wrong = || {
        let expected = "calibration must be None or a tuple (oversample, k, recall)";
        PyTypeError::new_err(format!("{expected}, got {}", short_repr(given)))
    };
    let (oversample, k, recall): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>) =
        given.extract().map_err(|_| wrong())?;
    let oversample = integer("the oversample of calibration", &oversample, 1)? as u64;
    let k = integer("the k of calibration", &k, 1)? as u64;
    let recall = Argument::<f64>::Given(recall).number("the recall of calibration")?;
    if !(0.0..=1.0).contains(&recall) {
        return Err(PyValueError::new_err(format!("the recall of calibration must be from 0 to 1, got {recall}")));
    }
    Ok(Calibration { oversample, k, recall })
}

/// The calibration as Python's tuple.
pub(super) fn stored_calibration(index: &Index) -> Option<(u64, u64, f64)> {
    index.calibration().map(|Calibration { oversample, k, recall }| (oversample, k, recall))
}

pub(super) fn seal<'py>(
    py: Python<'py>,
    kind: Kind,
    rows_path: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    dims: &Bound<'_, PyAny>,
    space: Option<&Bound<'_, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (source, rows, target) = (path_of(rows_path)?, integer("rows", rows, 0)?, path_of(target)?);
    let (dims, space) = (dims_of(kind, dims)?, space.map(space_of).transpose()?);
    let header =
        interruptible(py, |py, check| detached(py, || file::seal(kind, dims, space, &source, rows, &target, check)))?;
    Ok(PyBytes::new(py, &header))
}

pub(super) fn not_picklable(index: &Bound<'_, PyAny>) -> PyErr {
    let class = index.get_type().name().map_or_else(|_| "an index".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("cannot pickle {class}: save it to a file and open the file in the other process"))
}
