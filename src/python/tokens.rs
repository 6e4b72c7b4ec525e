//! Token counts for Python.

use std::io::ErrorKind;
use std::num::NonZero;
use std::panic::catch_unwind;
use std::path::PathBuf;

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::convert::{collected, detached, integer, interruptible};
use super::errors::{self, memory_error};
use crate::error::Error;
use crate::memory;
use crate::tokens::{self, Classes, Counter, Inspection, Interrupts};

/// Add the functions and the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(token_upper_bound, module)?)?;
    module.add_function(wrap_pyfunction!(token_estimate, module)?)?;
    module.add_function(wrap_pyfunction!(token_classes, module)?)?;
    module.add_function(wrap_pyfunction!(inspect_chunks, module)?)?;
    module.add_class::<NativeCounter>()?;
    module.add_function(wrap_pyfunction!(check_chunks, module)?)?;
    Ok(())
}

/// Strings as owned references, which keep them alive while the interpreter is released.
struct Texts<'py>(Vec<Bound<'py, PyString>>);

impl<'py> Texts<'py> {
    fn extract(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err(format!("{name} must be a list of str, got one str: pass [text]")));
        }
        let Ok(list) = object.cast::<PyList>() else {
            let got = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("{name} must be a list of str, got {got}")));
        };
        let mut texts = reserved(list)?;
        for (i, item) in list.iter().enumerate() {
            match item.cast_into::<PyString>() {
                Ok(text) => texts.push(text),
                Err(error) => {
                    let got = error.into_inner().get_type().name()?;
                    return Err(PyTypeError::new_err(format!("{name}[{i}] must be a str, got {got}")));
                }
            }
        }
        Ok(Self(texts))
    }

    /// All strings as UTF-8. A string that cannot be encoded is an error that names it.
    fn utf8(&self, name: &str) -> PyResult<Vec<&str>> {
        let mut texts = self.reserved()?;
        for (i, text) in self.0.iter().enumerate() {
            texts.push(encoded(text)?.map_err(|at| {
                PyValueError::new_err(format!(
                    "{name}[{i}] has a lone surrogate at character {at}: it cannot be encoded as UTF-8"
                ))
            })?);
        }
        Ok(texts)
    }

    /// All strings as UTF-8, or the position of the first character of each that cannot be encoded.
    fn encoded(&self) -> PyResult<Vec<Result<&str, usize>>> {
        let mut texts = self.reserved()?;
        for text in &self.0 {
            texts.push(encoded(text)?);
        }
        Ok(texts)
    }

    /// An empty vector with room for a value of each text.
    fn reserved<T>(&self) -> PyResult<Vec<T>> {
        memory::vector(self.0.len()).map_err(memory_error)
    }
}

/// Work on each of `texts` with the interpreter released. Ctrl-C ends it, also within a long text.
fn each<'a, A: Sync, T: Send>(
    py: Python<'_>,
    texts: &'a [A],
    mut work: impl FnMut(usize, &'a A, &mut tokens::Poll<'_>) -> Result<T, Error> + Send,
    length: impl Fn(&A) -> usize + Sync,
) -> PyResult<Vec<T>> {
    interruptible(py, |py, check| {
        detached(py, || {
            let mut found = memory::vector(texts.len())?;
            let mut interrupts = Interrupts::new(check);
            for (i, text) in texts.iter().enumerate() {
                found.push(work(i, text, &mut || interrupts.poll())?);
                interrupts.after(length(text))?;
            }
            Ok(found)
        })
    })
}

/// An empty vector with room for what `list` holds.
fn reserved<T>(list: &Bound<'_, PyList>) -> PyResult<Vec<T>> {
    memory::vector(list.len()).map_err(memory_error)
}

/// `text` as UTF-8, or the position of the first character that cannot be encoded.
fn encoded<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Result<&'a str, usize>> {
    match text.to_str() {
        Ok(text) => Ok(Ok(text)),
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            Ok(Err(error.value(text.py()).getattr("start")?.extract()?))
        }
        Err(error) => Err(error),
    }
}

fn int64(py: Python<'_>, values: impl ExactSizeIterator<Item = u64> + Send) -> PyResult<Bound<'_, PyAny>> {
    collected(py, &[values.len()], values.map(|value| value as i64))
}

/// Bytes of each text's NFC form, int64 of shape (n,). `ctxembed.token_upper_bound` is the public function.
#[pyfunction]
fn token_upper_bound<'py>(py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let texts = Texts::extract("texts", texts)?;
    let texts = texts.utf8("texts")?;
    let upper = each(py, &texts, |_, text, poll| tokens::upper(text, poll), |text| text.len())?;
    int64(py, upper.into_iter())
}

/// Three int64 arrays of one value per text.
type Triple<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Bounds and estimate of each text: `(lower, estimate, upper)`, int64 arrays of shape (n,).
#[pyfunction]
fn token_estimate<'py>(py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<Triple<'py>> {
    let texts = Texts::extract("texts", texts)?;
    let texts = texts.utf8("texts")?;
    let found = each(py, &texts, |_, text, poll| tokens::inspect(text, None, poll), |text| text.len())?;
    triple(py, &found)
}

fn triple<'py>(py: Python<'py>, found: &[Inspection]) -> PyResult<Triple<'py>> {
    Ok((
        int64(py, found.iter().map(|text| text.lower))?,
        int64(py, found.iter().map(|text| text.estimate))?,
        int64(py, found.iter().map(|text| text.upper))?,
    ))
}

/// The character classes that the estimate counts: `(names, counts)`, counts int64 of shape (n, classes).
#[pyfunction]
fn token_classes<'py>(py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<(Vec<String>, Bound<'py, PyAny>)> {
    let texts = Texts::extract("texts", texts)?;
    let texts = texts.utf8("texts")?;
    let names: Vec<_> = tokens::NAMES.iter().map(|&name| name.to_owned()).collect();
    let width = names.len();
    let counts = each(py, &texts, |_, text, _| Ok(Classes::of(text).counts), |text| text.len())?;
    let counts = counts.iter().flatten().map(|&count| count as i64);
    let counts = collected(py, &[texts.len(), width], counts)?;
    Ok((names, counts))
}

/// A chunk that the API would refuse: its position, the fault, and the position of the character.
type Fault = (usize, &'static str, usize);

/// Lower bound, estimate and upper bound of each chunk, and the faults.
type Inspected<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Vec<Fault>);

/// Estimate the tokens of chunks and find their faults: `(lower, estimate, upper, faults)`.
///
/// A fault is `(position, "empty" | "separator" | "surrogate", character)`. Faults are in order of position. A chunk
/// that cannot be encoded has zero tokens.
#[pyfunction]
#[pyo3(signature = (chunks, separator))]
fn inspect_chunks<'py>(
    py: Python<'py>,
    chunks: &Bound<'py, PyAny>,
    separator: Option<&str>,
) -> PyResult<Inspected<'py>> {
    let chunks = Texts::extract("chunks", chunks)?;
    let texts = chunks.encoded()?;
    let mut faults: Vec<Fault> = Vec::new();
    let inspect = |i, text: &Result<&str, usize>, poll: &mut tokens::Poll<'_>| {
        let found = tokens::inspect(text.unwrap_or(""), separator, poll)?;
        let fault = match *text {
            Ok("") => Some((i, "empty", 0)),
            Ok(_) => found.separator.map(|at| (i, "separator", at)),
            Err(at) => Some((i, "surrogate", at)),
        };
        fault.map_or(Ok(()), |fault| memory::push(&mut faults, fault))?;
        Ok(found)
    };
    let found = each(py, &texts, inspect, |text| text.map_or(0, str::len))?;
    let (lower, estimate, upper) = triple(py, &found)?;
    Ok((lower, estimate, upper, faults))
}

/// Like `inspect_chunks`, without the estimate and so much faster: `(upper, faults)`.
#[pyfunction]
#[pyo3(signature = (chunks, separator))]
fn check_chunks<'py>(
    py: Python<'py>,
    chunks: &Bound<'py, PyAny>,
    separator: Option<&str>,
) -> PyResult<(Bound<'py, PyAny>, Vec<Fault>)> {
    let chunks = Texts::extract("chunks", chunks)?;
    let texts = chunks.encoded()?;
    let mut faults: Vec<Fault> = Vec::new();
    let check = |i, text: &Result<&str, usize>, poll: &mut tokens::Poll<'_>| {
        let fault = match *text {
            Ok("") => Some((i, "empty", 0)),
            Ok(text) => tokens::find_separator(text, separator).map(|at| (i, "separator", at)),
            Err(at) => Some((i, "surrogate", at)),
        };
        fault.map_or(Ok(()), |fault| memory::push(&mut faults, fault))?;
        text.map_or(Ok(0), |text| tokens::upper(text, poll))
    };
    let found = each(py, &texts, check, |text| text.map_or(0, str::len))?;
    Ok((int64(py, found.into_iter())?, faults))
}

/// An exact token counter for one `tokenizer.json`. `ctxembed.TokenCounter` is the public class.
#[pyclass(frozen, module = "ctxembed._core")]
struct NativeCounter {
    counter: Counter,
    checksum: u32,
}

#[pymethods]
impl NativeCounter {
    /// Read a file. A ValueError says why its tokenizer is not supported.
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 extracts owned values")]
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, || {
            let json = std::fs::read(&path).map_err(|error| match error.kind() {
                ErrorKind::OutOfMemory => Error::Memory(format!("no memory for {}", path.display())),
                _ => Error::Io(error, path.display().to_string()),
            })?;
            // A panic is a bug of the reader, but the file is what the caller can change.
            let counter = catch_unwind(|| Counter::from_json(&json))
                .unwrap_or_else(|_| Err(Error::Value("the file cannot be read: its form is unexpected".to_owned())))?;
            Ok(Self { counter, checksum: crc32fast::hash(&json) })
        })
    }

    /// Count the tokens of a text.
    fn count(&self, text: &Bound<'_, PyAny>) -> PyResult<u64> {
        let Ok(text) = text.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!("text must be a str, got {}", text.get_type().name()?)));
        };
        let utf8 = encoded(text)?.map_err(|at| {
            PyValueError::new_err(format!("text has a lone surrogate at character {at}: it cannot be encoded as UTF-8"))
        })?;
        let py = text.py();
        if utf8.len() <= MAX_ATTACHED {
            return self.counter.count(utf8, &mut || Ok(())).map_err(|error| errors::to_py(py, error));
        }
        interruptible(py, |py, check| detached(py, || self.counter.count(utf8, check)))
    }

    /// Count the tokens of each text: int64 of shape (n,).
    #[pyo3(signature = (texts, threads=None))]
    fn count_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let threads = threads.map(|threads| integer("threads", threads, 1)).transpose()?.and_then(NonZero::new);
        let texts = Texts::extract("texts", texts)?;
        let texts = texts.utf8("texts")?;
        let counts = interruptible(py, |py, check| detached(py, || self.counter.count_batch(&texts, threads, check)))?;
        int64(py, counts.into_iter())
    }

    /// Clear the cache of counted words, for benchmarks.
    fn forget(&self) {
        self.counter.forget();
    }

    /// Size of the vocabulary, added tokens included.
    #[getter]
    fn entries(&self) -> usize {
        self.counter.entries()
    }

    /// CRC-32 of the file.
    #[getter]
    fn checksum(&self) -> u32 {
        self.checksum
    }
}

/// Texts up to this many bytes are counted attached: releasing the interpreter would take longer.
const MAX_ATTACHED: usize = 1000;
