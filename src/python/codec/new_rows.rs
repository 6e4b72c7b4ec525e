//! A matrix that is made when the width of its rows is known.

use std::mem::MaybeUninit;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::convert::{allocate, shrink};
use super::super::errors;
use crate::codec::response::Rows;
use crate::error::Error;

/// Rows of a new matrix that is made when their width is known: for bodies small enough to decode while attached.
pub(super) struct NewRows<'py, F> {
    py: Python<'py>,
    signed: bool,
    /// The most rows that there can be, given their width.
    room: F,
    /// The matrix, its memory, its rows and their bytes.
    made: Option<(Bound<'py, PyAny>, *mut MaybeUninit<u8>, usize, usize)>,
    failed: Option<PyErr>,
}

impl<'py, F: Fn(usize) -> usize> NewRows<'py, F> {
    /// Nothing yet; `room` gives the most rows for a width.
    pub(super) fn new(py: Python<'py>, signed: bool, room: F) -> Self {
        Self { py, signed, room, made: None, failed: None }
    }

    /// The matrix, cut to `rows` rows of `width` bytes; or what Python raised meanwhile.
    ///
    /// # Safety
    /// All bytes of the first `rows` rows were written.
    #[expect(unsafe_code, reason = "the caller vouches for the contents")]
    pub(super) unsafe fn finish(mut self, rows: usize, width: usize) -> PyResult<Bound<'py, PyAny>> {
        if self.made.is_none() {
            self.begin(width).map_err(|error| self.error(error))?;
        }
        match self.made {
            Some((array, _, room, _)) => {
                if rows < room {
                    shrink(&array, &[rows, width])?;
                }
                Ok(array)
            }
            None => Err(PyValueError::new_err("no matrix was made")), // not reached: begin made one or failed
        }
    }

    /// The Python exception for what ended the decoding.
    pub(super) fn error(&mut self, error: Error) -> PyErr {
        self.failed.take().unwrap_or_else(|| errors::to_py(self.py, error))
    }
}

impl<F: Fn(usize) -> usize> Rows for NewRows<'_, F> {
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
        let room = (self.room)(row_bytes);
        let shape = [room, row_bytes];
        let made = if self.signed {
            allocate::<i8>(self.py, &shape).map(|(array, data)| (array, data.cast()))
        } else {
            allocate::<u8>(self.py, &shape).map(|(array, data)| (array, data.cast()))
        };
        match made {
            Ok((array, data)) => self.made = Some((array, data, room, row_bytes)),
            Err(error) => {
                self.failed = Some(error);
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "fresh, unshared memory as MaybeUninit")]
    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]> {
        let &(_, data, room, row_bytes) = self.made.as_ref()?;
        // SAFETY: `index < room`, so the row lies within the `room * row_bytes` bytes of the array, which is held here
        // and which nobody else knows of; the borrow of `self` keeps a second slice from being made.
        (index < room).then(|| unsafe { std::slice::from_raw_parts_mut(data.add(index * row_bytes), row_bytes) })
    }

    #[expect(unsafe_code, reason = "fresh, unshared memory as MaybeUninit")]
    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        match self.made {
            // SAFETY: as above, for the first rows of the array.
            Some((_, data, room, row_bytes)) => unsafe {
                std::slice::from_raw_parts_mut(data, count.min(room) * row_bytes)
            },
            None => &mut [],
        }
    }
}
