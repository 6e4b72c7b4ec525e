//! Arguments that are no arrays: names, numbers and truths. A refusal names the argument, its value and what was
//! expected.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use super::convert::shown;

/// An argument with a default, checked by the function itself: a refusal of `PyO3`'s names the argument in a note only.
///
/// The signature in the documentation is then written out as `text_signature`.
pub(super) enum Given<'py, T> {
    /// Left out.
    Default(T),
    /// Anything.
    Object(Bound<'py, PyAny>),
}

impl<'a, 'py, T> FromPyObject<'a, 'py> for Given<'py, T> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self::Object(object.to_owned()))
    }
}

impl Given<'_, &str> {
    /// What `known` has under this name.
    pub(super) fn choice<T: Copy>(self, name: &str, known: &[(&str, T)]) -> PyResult<T> {
        match self {
            Self::Default(text) => named(name, text, known),
            Self::Object(object) => choice(name, &object, known),
        }
    }
}

impl Given<'_, f64> {
    /// A number; its range is the caller's to check.
    pub(super) fn number(self, name: &str) -> PyResult<f64> {
        let object = match self {
            Self::Default(number) => return Ok(number),
            Self::Object(object) => object,
        };
        let number = if object.is_instance_of::<PyBool>() { None } else { object.extract().ok() };
        number.ok_or_else(|| PyTypeError::new_err(format!("{name} must be a float, got {}", shown(&object))))
    }
}

impl Given<'_, bool> {
    /// True or False, of Python's kind or NumPy's.
    pub(super) fn truth(self, name: &str) -> PyResult<bool> {
        match self {
            Self::Default(value) => Ok(value),
            Self::Object(object) => truth(name, &object),
        }
    }
}

/// `object` as a bool.
pub(super) fn truth(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.extract().map_err(|_| PyTypeError::new_err(format!("{name} must be True or False, got {}", shown(object))))
}

/// What `known` has under the name that `object` is.
pub(super) fn choice<T: Copy>(name: &str, object: &Bound<'_, PyAny>, known: &[(&str, T)]) -> PyResult<T> {
    match object.cast::<PyString>() {
        Ok(text) => named(name, &text.to_string_lossy(), known),
        Err(_) => Err(PyTypeError::new_err(format!("{name} must be {}, got {}", listed(known), shown(object)))),
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
