//! Arguments that several searches share.

use std::num::NonZero;

use numpy::{Element, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList, PyTuple};

use super::super::convert::{Rows, array, has_dtype, ids, integer, mask as row_mask, saturated, short_repr};
use super::super::scalars::{Argument, number};
use crate::search::index::Index;
use crate::search::query::{Filter, Metric};
use crate::search::range::Threshold;
use crate::similarity::Matrix;

/// The metrics and their names.
pub(super) const METRICS: [(&str, Metric); 4] = [
    ("cosine", Metric::Cosine),
    ("dot", Metric::Dot),
    ("hamming", Metric::Hamming),
    ("asymmetric", Metric::Asymmetric),
];

/// The `threads` argument: None, or at least 1.
pub(super) fn thread_count(threads: Option<&Bound<'_, PyAny>>) -> PyResult<Option<NonZero<usize>>> {
    threads.map_or(Ok(None), |threads| Ok(NonZero::new(integer("threads", threads, 1)?)))
}

/// The `mask` argument: which rows may be found.
pub(super) enum Mask<'py> {
    /// One entry per row.
    Rows(PyReadonlyArray1<'py, u8>),
    /// The ids of the rows.
    Ids(Vec<i64>),
}

impl<'py> Mask<'py> {
    pub(super) fn extract(mask: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Self>> {
        let Some(mask) = mask else { return Ok(None) };
        if mask.is_instance_of::<PyList>() || mask.is_instance_of::<PyTuple>() {
            let first = mask.try_iter()?.next().transpose()?;
            return match first {
                Some(first) if first.is_instance_of::<PyBool>() => Err(PyTypeError::new_err(format!(
                    "mask[0] must be an int of 64 bits, got {}: a list holds ids; for one bool per row pass \
                     numpy.array(mask)",
                    short_repr(&first)
                ))),
                _ => ids("mask", mask).map(|ids| Some(Self::Ids(ids))),
            };
        }
        let array = array("mask", mask, "a numpy array or a list of ids")?;
        let (boolean, empty) = (has_dtype::<bool>(array), array.len() == 0);
        // An empty array holds no ids, whatever its dtype, unless it is a mask of no rows.
        if has_dtype::<i64>(array) || (empty && !boolean) {
            return ids("mask", mask).map(|ids| Some(Self::Ids(ids)));
        }
        if !boolean {
            return Err(PyTypeError::new_err(format!(
                "mask must have dtype bool (one entry per row) or int64 (ids), got {}",
                array.dtype()
            )));
        }
        row_mask("mask", mask).map(|rows| Some(Self::Rows(rows)))
    }

    /// The mask in the form that the core takes.
    pub(super) fn filter(mask: Option<&Self>) -> Filter<'_> {
        match mask {
            None => Filter::None,
            Some(Self::Rows(rows)) => Filter::Mask(rows.as_slice().unwrap_or_default()),
            Some(Self::Ids(ids)) => Filter::Ids(ids),
        }
    }
}

/// The `stage` argument.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchMode {
    Exact,
    TwoStage,
    Binary,
}

pub(super) fn stage(stage: Argument<'_, &'static str>) -> PyResult<SearchMode> {
    stage.choice(
        "stage",
        &[("exact", SearchMode::Exact), ("two-stage", SearchMode::TwoStage), ("binary", SearchMode::Binary)],
    )
}

/// The `oversample` argument: None, or at least 1, and for two stages only.
pub(super) fn oversample(oversample: Option<&Bound<'_, PyAny>>, stage: SearchMode) -> PyResult<Option<usize>> {
    match oversample {
        Some(_) if stage != SearchMode::TwoStage => {
            Err(PyValueError::new_err("oversample is for stage='two-stage' only: leave it None"))
        }
        given => given.map(|given| integer("oversample", given, 1)).transpose(),
    }
}

/// The `recall` argument: above 0 and at most 1.
pub(super) fn recall(recall: Argument<'_, f64>) -> PyResult<f64> {
    let recall = recall.number("recall")?;
    if recall > 0.0 && recall <= 1.0 {
        return Ok(recall);
    }
    Err(PyValueError::new_err(format!("recall must be above 0 and at most 1, got {recall}")))
}

/// The `limit` argument: None, or at least 1.
pub(super) fn limit(limit: Option<&Bound<'_, PyAny>>) -> PyResult<Option<NonZero<usize>>> {
    limit.map_or(Ok(None), |limit| Ok(NonZero::new(integer("limit", limit, 1)?)))
}

/// The `dimensions` argument: all dimensions of the index or the first few, in whole bytes where bits are compared.
pub(super) fn dimensions(dimensions: Option<&Bound<'_, PyAny>>, index: &Index, metric: Metric) -> PyResult<usize> {
    let Some(given) = dimensions else { return Ok(index.dims()) };
    let dims = integer("dimensions", given, 1)?;
    if dims > index.dims() {
        return Err(PyValueError::new_err(format!(
            "dimensions must be at most {}, those of the index, got {}",
            index.dims(),
            short_repr(given)
        )));
    }
    if metric == Metric::Hamming && dims < index.dims() && !dims.is_multiple_of(8) {
        return Err(PyValueError::new_err(format!(
            "dimensions must be a multiple of 8 where bits are compared with bits, got {dims}"
        )));
    }
    Ok(dims)
}

/// Queries, of which only the first `width` columns are compared.
pub(super) struct Queries<'py, T: Element> {
    rows: Rows<'py, T>,
    width: usize,
}

impl<'py, T: Element + Copy> Queries<'py, T> {
    pub(super) fn extract(object: &Bound<'py, PyAny>, whole: usize, width: usize) -> PyResult<Self> {
        let rows = Rows::extract("queries", object)?;
        if rows.width() != whole && rows.width() != width {
            let also = if width == whole { String::new() } else { format!(", or the {width} that are compared") };
            return Err(PyValueError::new_err(format!(
                "queries must have {whole} columns, as the index has{also}, got {}",
                rows.width()
            )));
        }
        Ok(Self { rows, width })
    }

    /// The columns that are compared. A search copies them, so that all of it sees the same queries.
    pub(super) fn matrix(&self) -> Matrix<'_, T> {
        Matrix::new(self.rows.values(), self.width, self.rows.width())
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_single(&self) -> bool {
        self.rows.is_single()
    }
}

/// The `radius` or `threshold` argument: a float where cosines are compared, else an int.
pub(super) fn threshold(name: &str, object: &Bound<'_, PyAny>, metric: Metric) -> PyResult<Threshold> {
    let wrong = |expected: &str| PyTypeError::new_err(format!("{name} must be {expected}, got {}", short_repr(object)));
    if metric == Metric::Cosine {
        let least = number(object)?.ok_or_else(|| wrong("a float, the least cosine"))?;
        if least.is_nan() {
            return Err(PyValueError::new_err(format!("{name} must be a number, got nan")));
        }
        return Ok(Threshold::Cosine(least));
    }
    let expected = if metric == Metric::Hamming { "an int, the largest distance" } else { "an int, the least product" };
    // A bound beyond i64 is beyond every score.
    let bound = saturated(object)?.ok_or_else(|| wrong(expected))?;
    let bound = bound.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    Ok(if metric == Metric::Hamming { Threshold::AtMost(bound) } else { Threshold::AtLeast(bound) })
}
