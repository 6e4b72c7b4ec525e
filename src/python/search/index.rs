//! Indexes.
#![expect(clippy::doc_markdown, reason = "docstrings are Python's, in its markup")]
#![expect(clippy::needless_pass_by_value, reason = "an argument that Python gives is owned here")]

use std::path::{Path, PathBuf};

use numpy::Element;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::super::convert::{Rows, detached, filled, integer, interruptible, mask as boolean, vector};
use super::super::errors;
use super::matches::{Matches, Scores};
use super::thread_count;
use crate::error::Error;
use crate::search::file;
use crate::search::index::{Index, Kind, Options, signs};
use crate::search::matrix::squared_norms;
use crate::search::scan::{Found, Watch};

/// int8 vectors, searched by cosine or by the Hamming distance of their signs.
///
/// Parameters
/// ----------
/// dims : int
///     Dimensions of every vector, from 1 to 131,071.
///
/// Raises
/// ------
/// TypeError
///     ``dims`` is no int.
/// ValueError
///     ``dims`` is out of its range.
///
/// Notes
/// -----
/// The index keeps a copy of the vectors, their sign bits (1 for a value of at least 0, least significant bit first)
/// and their norms: ``dims + dims / 8 + 4`` bytes a row, and 8 more where ids were given.
///
/// All methods may be called from any number of threads. A search sees the rows that were there when it began, and
/// neither waits for an addition nor holds one up. An index is not picklable: save it, and open it where it is needed.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.Index(2)
/// >>> index.add(np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8))
/// array([0, 1, 2])
/// >>> index.search(np.array([3, 4], dtype=np.int8), 2).ids
/// array([0, 2])
#[pyclass(frozen, name = "Index", module = "ctxembed._core")]
pub(super) struct PyIndex(Index);

#[pymethods]
impl PyIndex {
    #[new]
    fn new(dims: &Bound<'_, PyAny>) -> PyResult<Self> {
        create(Kind::Int8, dims).map(Self)
    }

    /// Add vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : numpy.ndarray
    ///     int8 of shape ``(n, dims)``, or ``(dims,)`` for one.
    /// ids : numpy.ndarray, optional
    ///     int64 of shape ``(n,)``, each different from the others and from all ids in the index. By default ids go
    ///     on from the number of vectors ever added.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     The ids, int64 of shape ``(n,)``.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another dtype.
    /// ValueError
    ///     The width is not ``dims``, an array is not C-contiguous, or an id is taken; the message names it, and
    ///     nothing was added.
    ///
    /// Notes
    /// -----
    /// The vectors are copied. The interpreter is released. An index that was opened from a file takes additions too;
    /// they are in memory, and the file stays as it is.
    #[pyo3(signature = (vectors, ids=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        ids: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add(py, &self.0, vectors, ids, |rows, ids| self.0.add_int8(rows, ids))
    }

    /// Find the best ``k`` rows for each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray
    ///     int8 of shape ``(q, dims)``, or ``(dims,)`` for one query.
    /// k : int
    ///     Rows a query, at least 1; where fewer are there or allowed, there are that many columns.
    /// stage : {"exact", "binary"}, default "exact"
    ///     "exact" compares all vectors by cosine. "binary" compares their sign bits by Hamming distance, which reads
    ///     an eighth of the memory and approximates the order by cosine.
    /// oversample : int, optional
    ///     For a search in two stages, which this version does not have; None.
    /// mask : numpy.ndarray, optional
    ///     bool of shape ``(len(index),)``: only rows where it is True are found. Rows count in the order in which
    ///     they were added, whatever their ids are.
    /// threads : int, optional
    ///     Threads to use, the calling one included; by default as many as pay. The result does not depend on it.
    ///
    /// Returns
    /// -------
    /// Matches
    ///     ``ids`` and ``scores``, float32 cosines for "exact" and int32 distances for "binary", of shape ``(q, k)``,
    ///     or ``(k,)`` for one query. ``exact`` is False for "binary".
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value or shape that does not fit, named in the message.
    ///
    /// Notes
    /// -----
    /// Ties go to the lower id; cosines are compared as in :func:`top_k`, exactly. The interpreter is released, threads
    /// are started for the call and end with it, and Ctrl-C ends the call.
    #[pyo3(signature = (queries, k, *, stage="exact", oversample=None, mask=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "the signature that Python sees")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        stage: &str,
        oversample: Option<&Bound<'py, PyAny>>,
        mask: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Matches> {
        let index = &self.0;
        let stage = Stage::named(stage)?;
        if oversample.is_some() {
            return Err(PyValueError::new_err("oversample is for stage='two-stage' only: leave it None"));
        }
        let queries = rows_of::<i8>("queries", queries, index.dims())?;
        let (count, one) = (queries.len(), queries.is_one());
        let values = queries.values();
        let run = Request { k, mask, threads };
        match stage {
            Stage::Exact => {
                let (found, norms) = run.search(py, |options, watch| {
                    Ok((index.search_cosine(values, options, watch)?, squared_norms(values, index.dims())))
                })?;
                Matches::wrap(py, &found, count, one, &Scores::Cosines(&norms), true)
            }
            Stage::Binary => {
                let found: Found =
                    run.search(py, |options, watch| index.search_binary(&signs(values, index.dims()), options, watch))?;
                Matches::wrap(py, &found, count, one, &Scores::Integers, false)
            }
        }
    }

    /// Write the index to a file, replacing what is there.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     Where to.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     The system refused; what was at ``path`` is as it was, and no temporary file is left.
    ///
    /// Notes
    /// -----
    /// The file appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The
    /// interpreter is released, and Ctrl-C ends the call. Rows that are added meanwhile are not in the file.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        save(py, &self.0, &path)
    }

    /// Open an index that was saved.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file.
    /// mmap : bool, default True
    ///     Map the file, which takes no time and shares its memory with other processes, instead of reading it.
    /// verify : bool, optional
    ///     Compare the checksums of all data, which reads the whole file. By default only where the file is read
    ///     anyway, that is without ``mmap``. The header and the length of the file are always checked.
    ///
    /// Returns
    /// -------
    /// Index
    ///     With the rows, ids and order of the one that was saved.
    ///
    /// Raises
    /// ------
    /// FileNotFoundError
    ///     There is no such file. Other refusals of the system are other ``OSError``.
    /// IndexFileError
    ///     The file is no index, holds another kind of vectors, is damaged or cut short, or was written by a newer
    ///     version.
    ///
    /// Notes
    /// -----
    /// A mapped file must not be changed in place while the index lives: if it is cut short, the process is ended by
    /// the system (SIGBUS) when it reads the lost part, and if it is overwritten, results are of mixed contents.
    /// Replacing it, as ``save`` does, is safe: an open index keeps the file it was opened from.
    #[staticmethod]
    #[pyo3(signature = (path, mmap=true, verify=None))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool, verify: Option<bool>) -> PyResult<Self> {
        open(py, Kind::Int8, &path, mmap, verify).map(Self)
    }

    /// Dimensions of every vector.
    #[getter]
    fn dims(&self) -> usize {
        self.0.dims()
    }

    /// Dimensions of every vector, as ``dims``.
    #[getter]
    fn dimensions(&self) -> usize {
        self.0.dims()
    }

    fn __len__(&self) -> usize {
        self.0.count()
    }

    fn __repr__(&self) -> String {
        format!("<Index: {} int8 vectors of {} dimensions>", self.0.count(), self.0.dims())
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(not_picklable(slf))
    }
}

/// Packed binary vectors, searched by Hamming distance.
///
/// Parameters
/// ----------
/// dims : int
///     Dimensions, that is bits, of every vector: a multiple of 8.
///
/// Raises
/// ------
/// TypeError
///     ``dims`` is no int.
/// ValueError
///     ``dims`` is out of its range, or not a multiple of 8.
///
/// Notes
/// -----
/// The index keeps a copy of the vectors, ``dims / 8`` bytes a row, and 8 more where ids were given. Threads, files
/// and pickling are as with :class:`Index`.
///
/// Examples
/// --------
/// >>> import numpy as np, ctxembed
/// >>> index = ctxembed.BinaryIndex(8)
/// >>> index.add(np.array([[3], [1], [0]], dtype=np.uint8), np.array([30, 10, 20]))
/// array([30, 10, 20])
/// >>> ids, scores = index.search(np.array([1], dtype=np.uint8), 2)
/// >>> ids, scores
/// (array([10, 20]), array([0, 1], dtype=int32))
#[pyclass(frozen, name = "BinaryIndex", module = "ctxembed._core")]
pub(super) struct PyBinaryIndex(Index);

#[pymethods]
impl PyBinaryIndex {
    #[new]
    fn new(dims: &Bound<'_, PyAny>) -> PyResult<Self> {
        create(Kind::Binary, dims).map(Self)
    }

    /// Add packed vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : numpy.ndarray
    ///     Packed bits, uint8 of shape ``(n, dims / 8)``, or ``(dims / 8,)`` for one, all in one order of bits.
    /// ids : numpy.ndarray, optional
    ///     int64 of shape ``(n,)``, each different from the others and from all ids in the index. By default ids go
    ///     on from the number of vectors ever added.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     The ids, int64 of shape ``(n,)``.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another dtype.
    /// ValueError
    ///     The width is not ``dims / 8``, an array is not C-contiguous, or an id is taken; the message names it, and
    ///     nothing was added.
    #[pyo3(signature = (vectors, ids=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        ids: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add(py, &self.0, vectors, ids, |rows, ids| self.0.add_binary(rows, ids))
    }

    /// Find the ``k`` nearest rows for each query.
    ///
    /// Parameters
    /// ----------
    /// queries : numpy.ndarray
    ///     Packed bits, uint8 of shape ``(q, dims / 8)``, or ``(dims / 8,)`` for one query.
    /// k : int
    ///     Rows a query, at least 1; where fewer are there or allowed, there are that many columns.
    /// mask : numpy.ndarray, optional
    ///     bool of shape ``(len(index),)``: only rows where it is True are found. Rows count in the order in which
    ///     they were added, whatever their ids are.
    /// threads : int, optional
    ///     Threads to use, the calling one included; by default as many as pay. The result does not depend on it.
    ///
    /// Returns
    /// -------
    /// Matches
    ///     ``ids`` and ``scores``, int32 distances, of shape ``(q, k)``, or ``(k,)`` for one query.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An argument has another type or dtype than described.
    /// ValueError
    ///     A value or shape that does not fit, named in the message.
    #[pyo3(signature = (queries, k, *, mask=None, threads=None))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        mask: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Matches> {
        let queries = rows_of::<u8>("queries", queries, self.0.dims() / 8)?;
        let values = queries.values();
        let run = Request { k, mask, threads };
        let found = run.search(py, |options, watch| self.0.search_binary(values, options, watch))?;
        Matches::wrap(py, &found, queries.len(), queries.is_one(), &Scores::Integers, true)
    }

    /// Write the index to a file, replacing what is there: as :meth:`Index.save`.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        save(py, &self.0, &path)
    }

    /// Open an index that was saved: as :meth:`Index.open`.
    #[staticmethod]
    #[pyo3(signature = (path, mmap=true, verify=None))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool, verify: Option<bool>) -> PyResult<Self> {
        open(py, Kind::Binary, &path, mmap, verify).map(Self)
    }

    /// Dimensions, that is bits, of every vector.
    #[getter]
    fn dims(&self) -> usize {
        self.0.dims()
    }

    /// Dimensions, that is bits, of every vector, as ``dims``.
    #[getter]
    fn dimensions(&self) -> usize {
        self.0.dims()
    }

    fn __len__(&self) -> usize {
        self.0.count()
    }

    fn __repr__(&self) -> String {
        format!("<BinaryIndex: {} packed vectors of {} dimensions>", self.0.count(), self.0.dims())
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(not_picklable(slf))
    }
}

/// How a search goes about it.
enum Stage {
    Exact,
    Binary,
}

impl Stage {
    fn named(name: &str) -> PyResult<Self> {
        match name {
            "exact" => Ok(Self::Exact),
            "binary" => Ok(Self::Binary),
            "two-stage" => {
                Err(PyValueError::new_err("stage 'two-stage' is not in this version: use 'exact' or 'binary'"))
            }
            other => Err(PyValueError::new_err(format!("stage must be 'exact' or 'binary', got {other:?}"))),
        }
    }
}

/// The arguments that all searches of an index share, as Python gave them.
struct Request<'a, 'py> {
    k: &'a Bound<'py, PyAny>,
    mask: Option<&'a Bound<'py, PyAny>>,
    threads: Option<&'a Bound<'py, PyAny>>,
}

impl Request<'_, '_> {
    /// Check the arguments and run a search detached.
    fn search<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Options<'_>, Watch<'_>) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let mask = self.mask.map(|mask| boolean("mask", mask)).transpose()?;
        let options = Options {
            k: integer("k", self.k, 1)?,
            mask: mask.as_ref().map(|mask| mask.as_slice().unwrap_or_default()),
            threads: thread_count(self.threads)?,
        };
        interruptible(py, |py, watch| detached(py, || work(options, watch)))
    }
}

fn create(kind: Kind, dims: &Bound<'_, PyAny>) -> PyResult<Index> {
    let dims = integer("dims", dims, 1)?;
    kind.check_dims(dims).map_err(|what| PyValueError::new_err(format!("dims {what}")))?;
    Ok(Index::new(kind, dims))
}

/// Vectors of the index's width.
fn rows_of<'py, T: Element>(name: &str, object: &Bound<'py, PyAny>, width: usize) -> PyResult<Rows<'py, T>> {
    let rows = Rows::extract(name, object)?;
    if rows.width() != width {
        return Err(PyValueError::new_err(format!(
            "{name} must have {width} columns, as the index has, got {}",
            rows.width()
        )));
    }
    Ok(rows)
}

fn add<'py, T: Element + Sync>(
    py: Python<'py>,
    index: &Index,
    vectors: &Bound<'py, PyAny>,
    ids: Option<&Bound<'py, PyAny>>,
    work: impl FnOnce(&[T], Option<&[i64]>) -> Result<Vec<i64>, Error> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let width = if index.kind() == Kind::Binary { index.dims() / 8 } else { index.dims() };
    let rows = rows_of::<T>("vectors", vectors, width)?;
    let ids = ids.map(|ids| vector::<i64>("ids", ids)).transpose()?;
    let (values, own) = (rows.values(), ids.as_ref().map(|ids| ids.as_slice().unwrap_or_default()));
    let (assigned, ()) = filled(py, &[rows.len()], |memory| {
        let assigned = work(values, own)?;
        for (memory, id) in memory.iter_mut().zip(assigned) {
            memory.write(id);
        }
        Ok(())
    })?;
    Ok(assigned)
}

fn save(py: Python<'_>, index: &Index, path: &Path) -> PyResult<()> {
    interruptible(py, |py, watch| detached(py, || file::save(index, path, watch)))
}

fn open(py: Python<'_>, kind: Kind, path: &Path, mmap: bool, verify: Option<bool>) -> PyResult<Index> {
    let verify = verify.unwrap_or(!mmap);
    let index = interruptible(py, |py, watch| detached(py, || file::open(path, mmap, verify, watch)))?;
    if index.kind() == kind {
        return Ok(index);
    }
    let (holds, class) = match index.kind() {
        Kind::Int8 => ("int8 vectors", "Index"),
        Kind::Binary => ("packed binary vectors", "BinaryIndex"),
    };
    let message = format!("{} holds {holds}: open it with {class}.open", path.display());
    Err(errors::to_py(py, Error::IndexFile(message)))
}

fn not_picklable(index: &Bound<'_, PyAny>) -> PyErr {
    let class = index.get_type().name().map_or_else(|_| "an index".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("cannot pickle {class}: save it to a file, and open the file where it is needed"))
}
