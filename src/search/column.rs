//! One column of an index: values on the heap, in large pages, or in a file that is mapped.
#![expect(unsafe_code, reason = "values as bytes and bytes as values, for files")]

use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

/// Bytes from which a column is worth huge pages of its own, two at least.
const HUGE: usize = 4 << 20;

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
    /// On the heap, and free to grow.
    Owned(Vec<T>),
    /// In pages of a file, or in pages of their own.
    Mapped(Mapped),
}

/// Pages, from whose start every number is aligned.
#[derive(Debug)]
pub(super) enum Memory {
    /// Of a file.
    File(Mmap),
    /// Of this process alone.
    Own(MmapMut),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Own(map) => map,
        }
    }
}

/// A range of pages that is shared by all who hold it.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Mapped {
    /// `None` where `range` is not in the memory, or is not aligned for `T`.
    pub(super) fn new<T: Plain>(memory: &Arc<Memory>, range: Range<usize>) -> Option<Self> {
        let bytes = memory.get(range.clone())?;
        let fits = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        fits.then(|| Self { memory: Arc::clone(memory), range })
    }
}

impl<T: Plain> Column<T> {
    /// A column of `count` values, whose bytes `fill` writes. A large one is placed in memory that the system may back
    /// with huge pages, which a scan reads up to half again as fast.
    pub(super) fn filled<E>(count: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let length = count * size_of::<T>();
        if length >= HUGE
            && let Ok(mut map) = MmapMut::map_anon(length)
        {
            // Advice that is not taken changes the speed only.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            fill(&mut map)?;
            return Ok(Self::Mapped(Mapped { memory: Arc::new(Memory::Own(map)), range: 0..length }));
        }
        let mut values = vec![T::default(); count];
        fill(bytes_mut(&mut values))?;
        Ok(Self::Owned(values))
    }

    /// A copy of `values`.
    pub(super) fn copied(values: &[T]) -> Self {
        match Self::filled(values.len(), |own| {
            own.copy_from_slice(bytes(values));
            Ok::<(), std::convert::Infallible>(())
        }) {
            Ok(column) => column,
        }
    }

    /// The same values, where a scan reads them best: for a column that will not grow.
    pub(super) fn sealed(&self) -> Self {
        match self {
            Self::Owned(values) => Self::copied(values),
            Self::Mapped(_) => self.clone(),
        }
    }

    /// All values.
    pub(super) fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(Mapped { memory, range }) => {
                let bytes = &memory[range.clone()];
                // SAFETY: `Mapped::new` found the range aligned for `T` and a whole number of them (or `filled` made
                // it so, from the start of a page), any bytes are values of a `Plain` type, and the borrow of `self`
                // keeps the memory. That nobody changes the file
                // meanwhile is what `file::open` asks of its caller.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
            }
        }
    }

    /// Append values; a mapped column is first copied to the heap.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_column_has_pages_of_its_own_and_still_grows() {
        let values: Vec<i64> = (0..(HUGE as i64 / 8)).collect();
        let mut column = Column::copied(&values);
        assert!(matches!(column, Column::Mapped(_)));
        assert_eq!(column.values(), values);
        let before = column.clone();
        column.extend(&[-1]);
        assert_eq!((column.values().len(), column.values()[values.len()]), (values.len() + 1, -1));
        assert_eq!(before.values(), values, "who holds the old column sees no change");
        assert_eq!(column.sealed().values(), column.values());
    }

    #[test]
    fn a_range_that_is_cut_or_crooked_is_no_column() {
        let memory = Arc::new(Memory::Own(MmapMut::map_anon(64).expect("a page")));
        assert!(Mapped::new::<i64>(&memory, 8..24).is_some());
        assert!(Mapped::new::<i64>(&memory, 8..23).is_none());
        assert!(Mapped::new::<i64>(&memory, 4..12).is_none());
        assert!(Mapped::new::<i64>(&memory, 56..72).is_none());
    }
}
