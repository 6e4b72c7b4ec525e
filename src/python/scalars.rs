//! Arguments that are not arrays: names, numbers and bools. An error names the argument, its value and what was
//! expected.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use super::convert::short_repr;

/// An argument with a default. The function converts it itself, because an error from `PyO3` names the argument only in
/// a note. The documented signature must then be given as `text_signature`.
pub(super) enum Argument<'py, T> {
    /// The caller left it out.
    Default(T),
    /// The caller passed this object.
    Given(Bound<'py, PyAny>),
}

impl<'a, 'py, T> FromPyObject<'a, 'py> for Argument<'py, T> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self::Given(object.to_owned()))
    }
}

impl Argument<'_, &str> {
    /// The value that `known` has for this name.
    pub(super) fn choice<T: Copy>(self, name: &str, known: &[(&str, T)]) -> PyResult<T> {
        match self {
            Self::Default(text) => named(name, text, known),
            Self::Given(object) => choice(name, &object, known),
        }
    }
}

impl Argument<'_, f64> {
    /// A number, of any range.
    pub(super) fn number(self, name: &str) -> PyResult<f64> {
        let object = match self {
            Self::Default(number) => return Ok(number),
            Self::Given(object) => object,
        };
        number(&object)?
            .ok_or_else(|| PyTypeError::new_err(format!("{name} must be a float, got {}", short_repr(&object))))
    }
}

impl Argument<'_, bool> {
    /// A bool of Python or `NumPy`.
    pub(super) fn boolean(self, name: &str) -> PyResult<bool> {
        match self {
            Self::Default(value) => Ok(value),
            Self::Given(object) => boolean(name, &object),
        }
    }
}

/// A number that is not a bool. An int beyond every float becomes infinite. None for another type.
pub(super) fn number(object: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let py = object.py();
    if object.is_instance_of::<PyBool>() {
        return Ok(None);
    }
    match object.extract::<f64>() {
        Ok(number) => Ok(Some(number)),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => {
            Ok(Some(if object.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY }))
        }
        Err(error) if error.is_instance_of::<PyTypeError>(py) => Ok(None),
        Err(error) => Err(error), // of the object's own `__float__` or `__index__`
    }
}

/// `object` as a bool.
pub(super) fn boolean(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("{name} must be True or False, got {}", short_repr(object))))
}

/// The value that `known` has for the name `object`.
pub(super) fn choice<T: Copy>(name: &str, object: &Bound<'_, PyAny>, known: &[(&str, T)]) -> PyResult<T> {
    match object.cast::<PyString>() {
        Ok(text) => named(name, &text.to_string_lossy(), known),
        Err(_) => Err(PyTypeError::new_err(format!("{name} must be {}, got {}", listed(known), short_repr(object)))),
    }
}

fn named<T: Copy>(name: &str, text: &str, known: &[(&str, T)]) -> PyResult<T> {
    known.iter().find(|(known, _)| *known == text).map(|&(_, value)| value).ok_or_else(|| {
        let got: String = text.chars().take(50).collect();
        PyValueError::new_err(format!("{name} must be {}, got {got:?}", listed(known)))
    })
}

/// `'a', 'b' or 'c'`.
fn listed<T>(known: &[(&str, T)]) -> String {
    let names: Vec<String> = known.iter().map(|(name, _)| format!("'{name}'")).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}
