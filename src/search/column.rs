//! One column of an index: values in memory, or in a file that is mapped.
#![expect(unsafe_code, reason = "values as bytes and bytes as values, for files")]

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

// Files are little-endian and are read as they are.
const _: () = assert!(cfg!(target_endian = "little"), "index files need a little-endian machine");

/// Numbers that any bytes are a value of, and that have no padding.
pub(super) trait Plain: Copy + Default + sealed::Sealed {}

mod sealed {
    pub(crate) trait Sealed {}
}

macro_rules! plain {
    ($($number:ty),*) => { $(impl sealed::Sealed for $number {} impl Plain for $number {})* };
}
plain!(i8, u8, u32, i64);

/// Values of one kind, one or more a row.
#[derive(Clone, Debug)]
pub(super) enum Column<T> {
    /// In memory, and free to grow.
    Owned(Vec<T>),
    /// In a file.
    Mapped(Mapped),
}

/// Bytes of a mapped file.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Mapped {
    /// `None` where `range` is not in the map, or is not aligned for `T`.
    pub(super) fn new<T: Plain>(map: &Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        let bytes = map.get(range.clone())?;
        let fits = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        fits.then(|| Self { map: Arc::clone(map), range })
    }
}

impl<T: Plain> Column<T> {
    /// All values.
    pub(super) fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(Mapped { map, range }) => {
                let bytes = &map[range.clone()];
                // SAFETY: `Mapped::new` found the range aligned for `T` and a whole number of them, any bytes are
                // values of a `Plain` type, and the borrow of `self` keeps the map. That nobody changes the file
                // meanwhile is what `file::open` asks of its caller.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
            }
        }
    }

    /// Append values; a mapped column is first copied to memory.
    pub(super) fn extend(&mut self, values: &[T]) {
        if let Self::Mapped(_) = self {
            *self = Self::Owned(self.values().to_vec());
        }
        if let Self::Owned(own) = self {
            own.extend_from_slice(values);
        }
    }
}

/// The bytes of `values`, as a file holds them.
pub(super) fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a `Plain` type has no padding, so all its bytes are initialised, and bytes ask for no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to be filled from a file.
pub(super) fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`, and any bytes that are written are values of a `Plain` type.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
