//! Python classes that Rust instantiates. Python registers each one where it defines it, so Rust imports none.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

/// `ctxembed.Embeddings`.
pub(super) static EMBEDDINGS: Dataclass<9> = Dataclass {
    name: "Embeddings",
    fields: [
        "vectors",
        "offsets",
        "model",
        "dimensions",
        "encoding_format",
        "usage",
        "failures",
        "space",
        "input_type",
    ],
    registered: Mutex::new(None),
};

/// `ctxembed.Usage`.
pub(super) static USAGE: Dataclass<6> = Dataclass {
    name: "Usage",
    fields: ["prompt_tokens", "total_tokens", "cost_usd", "requests", "discarded", "unreported"],
    registered: Mutex::new(None),
};

/// `ctxembed.DecodeError`.
pub(super) static DECODE_ERROR: Exception = Exception { name: "DecodeError", registered: Mutex::new(None) };

/// `ctxembed.IndexFileError`.
pub(super) static INDEX_FILE_ERROR: Exception = Exception { name: "IndexFileError", registered: Mutex::new(None) };

/// `ctxembed.SpaceError`.
pub(super) static SPACE_ERROR: Exception = Exception { name: "SpaceError", registered: Mutex::new(None) };

/// The Python function that knows the space of a model's vectors.
static SPACE_OF: Registered<Py<PyAny>> = Mutex::new(None);

/// Add the room's functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(register_class, module)?)?;
    module.add_function(wrap_pyfunction!(register_space_of, module)?)
}

/// The latest model that was asked for: most responses are of the same one.
static LATEST_MODEL: Registered<KnownModel> = Mutex::new(None);

/// What [`model_and_space`] found.
struct KnownModel {
    /// The function that named the space: another one may name another.
    space_of: Arc<Py<PyAny>>,
    name: String,
    dimensions: usize,
    /// The three as objects.
    objects: [Py<PyAny>; 3],
}

/// Register the function that names the space of decoded vectors: it takes the name of the model and the dimensions, and
/// returns a str or None. An answer is kept until a function is registered again, be it the same. Returns the function, so
/// this is a decorator.
#[pyfunction]
fn register_space_of(function: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    set(&SPACE_OF, function.clone().unbind());
    function
}

/// The name of a model, dimensions and the space of vectors of both, or None where the model is not known.
pub(super) fn model_and_space(
    py: Python<'_>,
    name: Option<String>,
    dimensions: usize,
) -> PyResult<[Bound<'_, PyAny>; 3]> {
    let Some(name) = name else {
        return Ok([py.None().into_bound(py), dimensions.into_bound_py_any(py)?, py.None().into_bound(py)]);
    };
    let space_of = get(&SPACE_OF, "space_of")?;
    let latest = LATEST_MODEL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(known) = latest
        && known.name == name
        && known.dimensions == dimensions
        && Arc::ptr_eq(&known.space_of, &space_of)
    {
        return Ok(known.objects.each_ref().map(|object| object.bind(py).clone()));
    }
    let (model, count) = (name.as_str().into_bound_py_any(py)?, dimensions.into_bound_py_any(py)?);
    let space = space_of.bind(py).call1((&model, &count))?;
    let objects = [model, count, space];
    let kept = objects.each_ref().map(|object| object.clone().unbind());
    set(&LATEST_MODEL, KnownModel { space_of, name, dimensions, objects: kept });
    Ok(objects)
}

/// Register a class that this module instantiates: Embeddings, Usage, DecodeError, IndexFileError or
/// SpaceError.
///
/// A class of the same name that was registered before is replaced. Returns the class, so this is a class decorator.
///
/// Raises
/// ------
/// TypeError
///     ``cls`` is not a class, or not an exception class where one is needed.
/// ValueError
///     The name is none of these, or the fields of the dataclass are not those that are set here.
#[pyfunction]
fn register_class<'py>(cls: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let class = cls.cast::<PyType>().map_err(|_| PyTypeError::new_err(format!("cls must be a class, got {cls}")))?;
    let name = class.name()?;
    match name.to_str()? {
        "Embeddings" => EMBEDDINGS.register(class)?,
        "Usage" => USAGE.register(class)?,
        "DecodeError" => DECODE_ERROR.register(class)?,
        "IndexFileError" => INDEX_FILE_ERROR.register(class)?,
        "SpaceError" => SPACE_ERROR.register(class)?,
        other => return Err(PyValueError::new_err(format!("no class named {other:?} is instantiated here"))),
    }
    Ok(cls.clone())
}

/// A frozen dataclass with slots, and the fields that Rust sets.
pub(super) struct Dataclass<const N: usize> {
    name: &'static str,
    fields: [&'static str; N],
    registered: Registered<(Py<PyType>, [Py<PyString>; N])>,
}

/// An exception class.
pub(super) struct Exception {
    name: &'static str,
    registered: Registered<Py<PyType>>,
}

/// Behind a lock because a reload registers again. No Python code runs while it is held.
type Registered<T> = Mutex<Option<Arc<T>>>;

fn set<T>(registered: &Registered<T>, value: T) {
    let previous = registered.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(value));
    drop(previous); // after the lock: dropping a class can run Python code
}

fn get<T>(registered: &Registered<T>, name: &str) -> PyResult<Arc<T>> {
    let value = registered.lock().unwrap_or_else(PoisonError::into_inner).clone();
    value.ok_or_else(|| PyRuntimeError::new_err(format!("class {name} is not registered: call register_class first")))
}

impl<const N: usize> Dataclass<N> {
    fn register(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let py = class.py();
        let fields = class.getattr("__dataclass_fields__").ok().and_then(|fields| fields.cast_into::<PyDict>().ok());
        let names: Vec<String> = fields.map_or(Ok(vec![]), |fields| fields.keys().extract())?;
        if names != self.fields {
            let (name, expected) = (self.name, self.fields);
            return Err(PyValueError::new_err(format!("{name} must be a dataclass of {expected:?}, got {names:?}")));
        }
        if !class.getattr("__new__")?.is(&py.get_type::<PyAny>().getattr("__new__")?) {
            return Err(PyValueError::new_err(format!("{} must inherit object.__new__", self.name)));
        }
        let names = self.fields.map(|field| PyString::intern(py, field).unbind());
        set(&self.registered, (class.clone().unbind(), names));
        Ok(())
    }

    /// A new instance with these values for the fields, in their order.
    ///
    /// Its `__init__` is not run. Like that of any frozen dataclass it would only call `object.__setattr__` for each
    /// field, which is done here without the Python calls.
    #[expect(unsafe_code, reason = "the C API behind object.__new__ and object.__setattr__")]
    pub(super) fn instance<'py>(&self, py: Python<'py>, values: [Bound<'py, PyAny>; N]) -> PyResult<Bound<'py, PyAny>> {
        let registered = get(&self.registered, self.name)?;
        let (class, names) = (registered.0.bind(py), &registered.1);
        // SAFETY: `register` checked that the class inherits `object.__new__`, which does no more than this for it; a
        // null result carries a Python error, which `_or_err` takes.
        let instance = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
        for (name, value) in names.iter().zip(values) {
            // SAFETY: three live objects; the call takes references of its own.
            let failed = unsafe { ffi::PyObject_GenericSetAttr(instance.as_ptr(), name.as_ptr(), value.as_ptr()) };
            if failed != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(instance)
    }
}

impl Exception {
    fn register(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        if !class.is_subclass_of::<PyException>()? {
            return Err(PyTypeError::new_err(format!("{} must be an exception class, got {class}", self.name)));
        }
        set(&self.registered, class.clone().unbind());
        Ok(())
    }

    /// A new instance, made by calling the class with `arguments`.
    pub(super) fn instance<'py>(
        &self,
        py: Python<'py>,
        arguments: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<PyErr> {
        let class = get(&self.registered, self.name)?;
        Ok(PyErr::from_value(class.bind(py).call1(arguments)?))
    }
}
