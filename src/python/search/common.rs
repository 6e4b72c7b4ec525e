//! Methods that both kinds of index share.

use std::mem::MaybeUninit;
use std::path::PathBuf;

use numpy::{Element, IntoPyArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{self, Rows, collected, detached, filled, interruptible, saturated, short_repr};
use super::super::errors;
use super::super::scalars::{Argument, boolean};
use super::embeddings::{Given, Use};
use crate::error::Error;
use crate::search::file;
use crate::search::index::{Index, Kind};

pub(super) fn create(kind: Kind, dims: &Bound<'_, PyAny>, space: Option<&Bound<'_, PyAny>>) -> PyResult<Index> {
    let space = space.map(space_of).transpose()?;
    let given = dims;
    let wrong = |what| PyValueError::new_err(format!("dims {what}, got {}", short_repr(given)));
    let dims = saturated(given)?
        .ok_or_else(|| PyTypeError::new_err(format!("dims must be an int, got {}", short_repr(given))))?;
    let dims = usize::try_from(dims).unwrap_or_default(); // out of range as the value is
    kind.check_dims(dims).map_err(wrong)?;
    Ok(Index::new(kind, dims, space))
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
    let (content, class) = match index.kind() {
        Kind::Int8 => ("int8 vectors", "Index"),
        Kind::Binary => ("packed binary vectors", "BinaryIndex"),
    };
    let message = format!("{} holds {content}: open it with {class}.open", path.display());
    Err(errors::to_py(py, Error::IndexFile(message)))
}

pub(super) fn not_picklable(index: &Bound<'_, PyAny>) -> PyErr {
    let class = index.get_type().name().map_or_else(|_| "an index".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("cannot pickle {class}: save it to a file and open the file in the other process"))
}
