//! One column of an index: values on the heap, in large pages, or in a file that is mapped.
#![expect(unsafe_code, reason = "values as bytes and bytes as values, for files")]

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

/// Bytes from which a column gets pages of its own: two huge pages.
const HUGE: usize = 4 << 20;

// Files are little-endian and are read without conversion.
const _: () = assert!(cfg!(target_endian = "little"), "index files need a little-endian machine");

/// Numbers for which every bit pattern is a value and that have no padding.
pub(super) trait Plain: Copy + Default + sealed::Sealed {}

mod sealed {
    pub(crate) trait Sealed {}
}

macro_rules! plain {
    ($($number:ty),*) => { $(impl sealed::Sealed for $number {} impl Plain for $number {})* };
}
plain!(i8, u8, u32, i64);

/// Values of one type, one or more per row.
#[derive(Clone, Debug)]
pub(super) enum Column<T> {
    /// On the heap; can grow.
    Owned(Vec<T>),
    /// In memory pages: those of a file, or anonymous ones.
    Mapped(Mapped<T>),
}

/// Memory pages; their start is aligned for every number type.
#[derive(Debug)]
pub(super) enum Memory {
    /// A mapped file.
    File(Mmap),
    /// Anonymous pages of this process.
    Anonymous(MmapMut),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Anonymous(map) => map,
        }
    }
}

/// A range of shared pages, aligned for `T` and a whole number of values long.
#[derive(Clone, Debug)]
pub(super) struct Mapped<T> {
    memory: Arc<Memory>,
    range: Range<usize>,
    values: PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    /// None if `range` is outside the memory, or does not hold a whole number of aligned `T`s.
    pub(super) fn new(memory: &Arc<Memory>, range: Range<usize>) -> Option<Self> {
        let bytes = memory.get(range.clone())?;
        let fits = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        fits.then(|| Self { memory: Arc::clone(memory), range, values: PhantomData })
    }
}

/// A column being written; it starts as zeros.
pub(super) enum ColumnBuilder<T> {
    /// On the heap.
    Heap(Vec<T>),
    /// Pages that the system may back with huge pages, from which a scan reads up to 1.5 times as fast.
    Pages(MmapMut),
}

impl<T: Plain> ColumnBuilder<T> {
    /// A builder of `count` zeros.
    pub(super) fn new(count: usize) -> Result<Self, TryReserveError> {
        if let Some(length) = count.checked_mul(size_of::<T>()).filter(|&length| length >= HUGE)
            && let Ok(map) = MmapMut::map_anon(length)
        {
            // Refused advice affects speed only.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Ok(Self::Pages(map));
        }
        let mut values = vec![];
        values.try_reserve_exact(count)?;
        values.resize(count, T::default());
        Ok(Self::Heap(values))
    }

    /// The values, for writing.
    pub(super) fn values(&mut self) -> &mut [T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(map) => {
                // SAFETY: `new` made the map a whole number of values long, pages are aligned for all of them, every
                // bit pattern is a value of a `Plain` type, and `self`, borrowed here, is the only owner.
                unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<T>()) }
            }
        }
    }

    /// Turn the values into a column.
    pub(super) fn finish(self) -> Column<T> {
        match self {
            Self::Heap(values) => Column::Owned(values),
            Self::Pages(map) => {
                let range = 0..map.len();
                Column::Mapped(Mapped { memory: Arc::new(Memory::Anonymous(map)), range, values: PhantomData })
            }
        }
    }
}

impl<T: Plain> Column<T> {
    /// A column of `count` values whose bytes `fill` writes.
    pub(super) fn filled<E: From<TryReserveError>>(
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut fresh = ColumnBuilder::new(count)?;
        fill(bytes_mut(fresh.values()))?;
        Ok(fresh.finish())
    }

    /// A copy of `values`.
    pub(super) fn copied(values: &[T]) -> Result<Self, TryReserveError> {
        Self::filled(values.len(), |copy| {
            copy.copy_from_slice(bytes(values));
            Ok(())
        })
    }

    /// The same values in the memory that a scan reads fastest, for a column that will not grow.
    pub(super) fn sealed(&self) -> Result<Self, TryReserveError> {
        match self {
            Self::Owned(values) => Self::copied(values),
            Self::Mapped(_) => Ok(self.clone()),
        }
    }

    /// Whether the values are in a mapped file.
    pub(super) fn is_in_file(&self) -> bool {
        matches!(self, Self::Mapped(Mapped { memory, .. }) if matches!(**memory, Memory::File(_)))
    }

    /// All values.
    pub(super) fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(Mapped { memory, range, .. }) => {
                let bytes = &memory[range.clone()];
                // SAFETY: the range holds a whole number of aligned `T`s: `Mapped::new` checked it, `ColumnBuilder`
                // starts at a page, and `slice` cuts between values. Every bit pattern is a value of a `Plain` type,
                // and the borrow of `self` keeps the memory alive. The caller of `file::open_mapped` vouches that the
                // file does not change.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
            }
        }
    }

    /// A range of the values. Pages are shared, not copied.
    pub(super) fn slice(&self, values: Range<usize>) -> Result<Self, TryReserveError> {
        match self {
            Self::Owned(own) => Self::copied(&own[values]),
            Self::Mapped(Mapped { memory, range, values: kind }) => {
                let (start, end) = (values.start * size_of::<T>(), values.end * size_of::<T>());
                let cut = range.start + start..range.start + end;
                debug_assert!(start <= end && cut.end <= range.end);
                let range = cut.start..cut.end.min(range.end);
                Ok(Self::Mapped(Mapped { memory: Arc::clone(memory), range, values: *kind }))
            }
        }
    }

    /// A copy on the heap with room for `more` values.
    pub(super) fn with_room(&self, more: usize) -> Result<Self, TryReserveError> {
        let (values, mut own) = (self.values(), vec![]);
        // Grown by at least half: a column that grew once grows again.
        own.try_reserve_exact(values.len() + more.max(values.len() / 2))?;
        own.extend_from_slice(values);
        Ok(Self::Owned(own))
    }

    /// Make room for `more` values. A mapped column is copied to the heap.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        match self {
            Self::Owned(own) => own.try_reserve(more),
            Self::Mapped(_) => {
                *self = self.with_room(more)?;
                Ok(())
            }
        }
    }

    /// Append values that room was reserved for.
    pub(super) fn extend(&mut self, values: &[T]) {
        debug_assert!(matches!(self, Self::Owned(_)), "reserve comes first");
        if let Self::Owned(own) = self {
            own.extend_from_slice(values);
        }
    }
}

/// The bytes of `values`, as they are stored in a file.
pub(super) fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a `Plain` type has no padding, so all its bytes are initialised, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to be filled from a file.
pub(super) fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`, and any bytes written are values of a `Plain` type.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Initialised bytes as memory for a function that also accepts uninitialised memory.
///
/// # Safety
/// Only initialised bytes are written to the result.
pub(super) unsafe fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the two types have the same layout, and the caller keeps all bytes initialised.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_column_uses_its_own_pages_and_can_grow() {
        let values: Vec<i64> = (0..(HUGE as i64 / 8)).collect();
        let mut column = Column::copied(&values).expect("memory");
        assert!(matches!(column, Column::Mapped(_)));
        assert_eq!(column.values(), values);
        assert_eq!(column.slice(7..9).expect("no allocation").values(), [7, 8]);
        let before = column.clone();
        column.reserve(1).expect("memory");
        column.extend(&[-1]);
        assert_eq!((column.values().len(), column.values()[values.len()]), (values.len() + 1, -1));
        assert_eq!(before.values(), values, "a clone does not change");
        assert_eq!(column.sealed().expect("memory").values(), column.values());
        assert_eq!(column.slice(3..5).expect("memory").values(), [3, 4]);
    }

    #[test]
    fn a_failed_allocation_is_an_error() {
        assert!(ColumnBuilder::<i64>::new(usize::MAX / 16).is_err());
        assert!(ColumnBuilder::<i64>::new(usize::MAX).is_err());
    }

    #[test]
    fn a_misaligned_or_partial_range_is_refused() {
        let memory = Arc::new(Memory::Anonymous(MmapMut::map_anon(64).expect("a page")));
        assert!(Mapped::<i64>::new(&memory, 8..24).is_some());
        assert!(Mapped::<i64>::new(&memory, 8..23).is_none());
        assert!(Mapped::<i64>::new(&memory, 4..12).is_none());
        assert!(Mapped::<i64>::new(&memory, 56..72).is_none());
    }
}
