//! Keys of documents: digests of their texts.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use sha2::{Digest, Sha256};

use super::convert::detached;
use super::errors::memory_error;
use crate::memory;

/// Add the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DocumentHasher>()
}

/// Bytes that are hashed with the interpreter held: to release it takes longer.
const SHORT: usize = 1 << 14;

/// Hashes the texts of documents, each behind the same first bytes.
#[pyclass(frozen, module = "ctxembed._core")]
struct DocumentHasher(Sha256);

#[pymethods]
impl DocumentHasher {
    #[new]
    fn new(start: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(start))
    }

    /// Return the SHA-256 of the first bytes, the number of texts, and each text in UTF-8 behind its length; numbers have
    /// 8 bytes, least first.
    fn key<'py>(&self, py: Python<'py>, texts: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyBytes>> {
        let mut strings = memory::vector(texts.len()).map_err(memory_error)?;
        for text in texts.iter() {
            strings.push(text.cast_into::<PyString>()?);
        }
        let mut contents = memory::vector(strings.len()).map_err(memory_error)?;
        for string in &strings {
            contents.push(string.to_str()?.as_bytes());
        }
        let digest = if contents.iter().map(|content| content.len()).sum::<usize>() > SHORT {
            detached(py, || Ok(self.digest(&contents)))?
        } else {
            self.digest(&contents)
        };
        Ok(PyBytes::new(py, &digest))
    }
}

impl DocumentHasher {
    fn digest(&self, contents: &[&[u8]]) -> [u8; 32] {
        let mut hasher = self.0.clone();
        hasher.update((contents.len() as u64).to_le_bytes());
        for content in contents {
            hasher.update((content.len() as u64).to_le_bytes());
            hasher.update(content);
        }
        hasher.finalize().into()
    }
}
