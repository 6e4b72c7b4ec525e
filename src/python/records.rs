//! Records of JSON Lines as documents, for the records that need no more than that.

use std::fmt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Add the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RecordReader>()
}

/// Reads lines that are plain records: an object with an id and a list of chunks.
///
/// Parameters
/// ----------
/// id_field, chunks_field, text_field : str
///     Names of the fields.
#[pyclass(frozen, module = "ctxembed._core")]
struct RecordReader {
    id: String,
    chunks: String,
    text: String,
}

/// Id, chunks, other fields and source of a record.
type Record<'py> = (Bound<'py, PyString>, Bound<'py, PyList>, Option<Bound<'py, PyDict>>, Option<Bound<'py, PyString>>);

#[pymethods]
impl RecordReader {
    #[new]
    fn new(id_field: String, chunks_field: String, text_field: String) -> Self {
        Self { id: id_field, chunks: chunks_field, text: text_field }
    }

    /// Return id, chunks, other fields and source of a record; the last two may be None.
    ///
    /// None: the line is no plain record. Python's parser then reads it, or says what is wrong. What it would reject
    /// is never plain, and neither is what has a text to cut, a number that is no 64-bit integer, or an escaped
    /// surrogate.
    fn read<'py>(&self, line: &Bound<'py, PyBytes>) -> Option<Record<'py>> {
        let mut deserializer = serde_json::Deserializer::from_slice(line.as_bytes());
        let record = RecordSeed { reader: self, py: line.py() }.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(record)
    }
}

/// A record that is not plain.
fn not_plain<E: Error>() -> E {
    E::custom("not plain")
}

/// An error of the interpreter, such as a lack of memory. The caller's parser meets it again.
fn of_interpreter<E: Error>(error: PyErr) -> E {
    E::custom(error)
}

fn python_text<'py, E: Error>(py: Python<'py>, text: &str) -> Result<Bound<'py, PyString>, E> {
    PyString::from_bytes(py, text.as_bytes()).map_err(of_interpreter)
}

/// Reads the object of a record.
struct RecordSeed<'a, 'py> {
    reader: &'a RecordReader,
    py: Python<'py>,
}

impl<'de, 'py> DeserializeSeed<'de> for RecordSeed<'_, 'py> {
    type Value = Record<'py>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, 'py> Visitor<'de> for RecordSeed<'_, 'py> {
    type Value = Record<'py>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { reader, py } = self;
        let (mut name, mut chunks, mut source, mut others) = (None, None, None, None);
        while let Some(key) = map.next_key_seed(Key)? {
            // A field that comes twice is left to Python's parser, which takes the last.
            if key == reader.id {
                if name.replace(map.next_value_seed(Name { py })?).is_some() {
                    return Err(not_plain());
                }
            } else if key == reader.chunks {
                if chunks.replace(map.next_value_seed(Chunks { py })?).is_some() {
                    return Err(not_plain());
                }
            } else if key == "source" {
                if source.replace(map.next_value_seed(Text { py, may_be_empty: true })?).is_some() {
                    return Err(not_plain());
                }
            } else if key == reader.text || key == "id" {
                return Err(not_plain());
            } else {
                let value = map.next_value_seed(Value { py })?;
                let fields = others.get_or_insert_with(|| PyDict::new(py));
                fields.set_item(key.as_ref(), value).map_err(of_interpreter)?;
            }
        }
        let (Some(name), Some(chunks)) = (name, chunks) else {
            return Err(not_plain());
        };
        Ok((name, chunks, others, source))
    }
}

/// Reads a name of a field.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = std::borrow::Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = std::borrow::Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(text.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.to_owned().into())
    }
}

/// Reads an id: a text or an integer, which is no empty one.
struct Name<'py> {
    py: Python<'py>,
}

impl<'de, 'py> DeserializeSeed<'de> for Name<'py> {
    type Value = Bound<'py, PyString>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'py> Visitor<'_> for Name<'py> {
    type Value = Bound<'py, PyString>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an id")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.is_empty() {
            return Err(not_plain());
        }
        python_text(self.py, text)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        python_text(self.py, &number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        python_text(self.py, &number.to_string())
    }
}

/// Reads a text.
struct Text<'py> {
    py: Python<'py>,
    may_be_empty: bool,
}

impl<'de, 'py> DeserializeSeed<'de> for Text<'py> {
    type Value = Bound<'py, PyString>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'py> Visitor<'_> for Text<'py> {
    type Value = Bound<'py, PyString>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.is_empty() && !self.may_be_empty {
            return Err(not_plain());
        }
        python_text(self.py, text)
    }
}

/// Reads a list of chunks: texts, of which there is one at least, and none is empty.
struct Chunks<'py> {
    py: Python<'py>,
}

impl<'de, 'py> DeserializeSeed<'de> for Chunks<'py> {
    type Value = Bound<'py, PyList>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, 'py> Visitor<'de> for Chunks<'py> {
    type Value = Bound<'py, PyList>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut chunks = vec![];
        while let Some(chunk) = list.next_element_seed(Text { py: self.py, may_be_empty: false })? {
            chunks.push(chunk);
        }
        if chunks.is_empty() {
            return Err(not_plain());
        }
        PyList::new(self.py, chunks).map_err(of_interpreter)
    }
}

/// Reads a value of metadata as Python's parser does, but for numbers that are no 64-bit integers.
struct Value<'py> {
    py: Python<'py>,
}

impl<'de, 'py> DeserializeSeed<'de> for Value<'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, 'py> Visitor<'de> for Value<'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(self.py.None().into_bound(self.py))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(value.into_pyobject(self.py).map_err(|error| of_interpreter(error.into()))?.to_owned().into_any())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(number.into_pyobject(self.py).map_err(|error| of_interpreter(error.into()))?.into_any())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(number.into_pyobject(self.py).map_err(|error| of_interpreter(error.into()))?.into_any())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(python_text(self.py, text)?.into_any())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![];
        while let Some(value) = list.next_element_seed(Value { py: self.py })? {
            values.push(value);
        }
        Ok(PyList::new(self.py, values).map_err(of_interpreter)?.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let fields = PyDict::new(self.py);
        while let Some(key) = map.next_key_seed(Key)? {
            let value = map.next_value_seed(Value { py: self.py })?;
            fields.set_item(key.as_ref(), value).map_err(of_interpreter)?;
        }
        Ok(fields.into_any())
    }
}
