//! Arguments that are arrays or `ctxembed.Embeddings`, whose space, dimensions and role are checked.

use numpy::PyUntypedArray;
use pyo3::prelude::*;

use super::super::classes::SPACE_ERROR;
use crate::search::index::Index;

/// The array of an argument, unchecked.
pub(super) fn array_of<'py>(argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if is_embeddings(argument)? { argument.getattr("vectors") } else { Ok(argument.clone()) }
}

/// Whether an argument has the attributes of `Embeddings`. Its class is not asked for: after a reload of the package there
/// are two.
fn is_embeddings(argument: &Bound<'_, PyAny>) -> PyResult<bool> {
    if argument.is_instance_of::<PyUntypedArray>() {
        return Ok(false);
    }
    Ok(argument.hasattr("vectors")? && argument.hasattr("dimensions")? && argument.hasattr("space")?)
}

/// What is done with embeddings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// They are added to the index.
    Added,
    /// They are compared with its rows.
    Compared,
}

/// The array of an argument, and the space of its vectors if it is `Embeddings`.
pub(super) struct Given<'py> {
    pub(super) array: Bound<'py, PyAny>,
    pub(super) space: Option<String>,
}

impl<'py> Given<'py> {
    /// Take an argument apart. `compared` are the dimensions of which scores are computed.
    pub(super) fn extract(
        index: &Index,
        argument: &Bound<'py, PyAny>,
        compared: usize,
        purpose: Use,
    ) -> PyResult<Self> {
        if !is_embeddings(argument)? {
            return Ok(Self { array: argument.clone(), space: None });
        }
        let py = argument.py();
        let dims: usize = argument.getattr("dimensions")?.extract()?;
        let text = |name| argument.getattr(name)?.extract::<Option<String>>();
        let (space, role) = (text("space")?, text("input_type")?);
        let refused = |message: String| SPACE_ERROR.instance(py, (message,)).unwrap_or_else(|failed| failed);
        if dims != index.dims() && (purpose == Use::Added || dims != compared) {
            return Err(refused(format!(
                "the index has {} dimensions, and the embeddings have {dims}: pass dimensions={} when they are embedded",
                index.dims(),
                index.dims()
            )));
        }
        if let (Some(own), Some(given)) = (index.space(), space.as_deref()) {
            let own = space_of_prefix(own, index.dims(), dims);
            if own != given {
                return Err(other_space(py, &own, given, purpose));
            }
        }
        match (purpose, role.as_deref()) {
            (Use::Added, Some("query")) => Err(refused(
                "an index holds documents, and the embeddings are those of queries (input_type 'query'): use embed \
                 instead of embed_queries, or pass .vectors"
                    .to_owned(),
            )),
            (Use::Compared, Some("document")) => Err(refused(
                "queries are expected, and the embeddings are those of documents (input_type 'document'): use \
                 embed_queries instead of embed, or pass .vectors"
                    .to_owned(),
            )),
            _ => Ok(Self { array: array_of(argument)?, space }),
        }
    }

    /// Let an empty index take over the space; return whether it did.
    pub(super) fn adopt_space(&self, py: Python<'_>, index: &Index) -> PyResult<bool> {
        let Some(space) = &self.space else { return Ok(false) };
        index.adopt_space(space).map_err(|own| other_space(py, &own, space, Use::Added))
    }
}

fn other_space(py: Python<'_>, own: &str, given: &str, purpose: Use) -> PyErr {
    let what = if purpose == Use::Added { "add them to another index" } else { "embed them by a model of that space" };
    let message = format!(
        "the index holds vectors of the space {own:?}, and the embeddings are of the space {given:?}, which cannot be \
         compared: {what}"
    );
    SPACE_ERROR.instance(py, (message,)).unwrap_or_else(|failed| failed)
}

/// The space of the first `after` of `before` dimensions: a space that names its dimensions has another name.
#[pyfunction]
pub(super) fn space_of_prefix(space: String, before: usize, after: usize) -> String {
    let Some((start, end)) = space.rsplit_once(&format!("@{before}")) else { return space };
    if end.is_empty() || end.starts_with('#') { format!("{start}@{after}{end}") } else { space }
}
