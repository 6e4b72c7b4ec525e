//! One column of an index: values on the heap, in large pages, or in a file that is mapped.
#![expect(unsafe_code, reason = "values as bytes and bytes as values, for files")]

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
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
    Mapped(Mapped<T>),
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

/// A range of pages that is shared by all who hold it, aligned for `T` and a whole number of values long.
#[derive(Clone, Debug)]
pub(super) struct Mapped<T> {
    memory: Arc<Memory>,
    range: Range<usize>,
    values: PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    /// `None` where `range` is not in the memory, or is not aligned for `T`.
    pub(super) fn new(memory: &Arc<Memory>, range: Range<usize>) -> Option<Self> {
        let bytes = memory.get(range.clone())?;
        let fits = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        fits.then(|| Self { memory: Arc::clone(memory), range, values: PhantomData })
    }
}

/// A column while it is written: zeros at first.
pub(super) enum Fresh<T> {
    /// On the heap.
    Heap(Vec<T>),
    /// In memory that the system may back with huge pages, which a scan reads up to half again as fast.
    Pages(MmapMut),
}

impl<T: Plain> Fresh<T> {
    /// Room for `count` values.
    pub(super) fn new(count: usize) -> Result<Self, TryReserveError> {
        if let Some(length) = count.checked_mul(size_of::<T>()).filter(|&length| length >= HUGE)
            && let Ok(map) = MmapMut::map_anon(length)
        {
            // Advice that is not taken changes the speed only.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Ok(Self::Pages(map));
        }
        let mut values = vec![];
        values.try_reserve_exact(count)?;
        values.resize(count, T::default());
        Ok(Self::Heap(values))
    }

    /// The values.
    pub(super) fn values(&mut self) -> &mut [T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(map) => {
                // SAFETY: `new` made the map a whole number of values long, pages are aligned for all of them, any
                // bytes are values of a `Plain` type, and the borrow of `self` is the only way to them.
                unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<T>()) }
            }
        }
    }

    /// The column.
    pub(super) fn done(self) -> Column<T> {
        match self {
            Self::Heap(values) => Column::Owned(values),
            Self::Pages(map) => {
                let range = 0..map.len();
                Column::Mapped(Mapped { memory: Arc::new(Memory::Own(map)), range, values: PhantomData })
            }
        }
    }
}

impl<T: Plain> Column<T> {
    /// A column of `count` values, whose bytes `fill` writes.
    pub(super) fn filled<E: From<TryReserveError>>(
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut fresh = Fresh::new(count)?;
        fill(bytes_mut(fresh.values()))?;
        Ok(fresh.done())
    }

    /// A copy of `values`.
    pub(super) fn copied(values: &[T]) -> Result<Self, TryReserveError> {
        Self::filled(values.len(), |own| {
            own.copy_from_slice(bytes(values));
            Ok(())
        })
    }

    /// The same values, where a scan reads them best: for a column that will not grow.
    pub(super) fn sealed(&self) -> Result<Self, TryReserveError> {
        match self {
            Self::Owned(values) => Self::copied(values),
            Self::Mapped(_) => Ok(self.clone()),
        }
    }

    /// All values.
    pub(super) fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(Mapped { memory, range, .. }) => {
                let bytes = &memory[range.clone()];
                // SAFETY: `Mapped::new` found the range aligned for `T` and a whole number of them (or `Fresh` made it
                // so, from the start of a page, and `slice` cuts between values), any bytes are values of a `Plain`
                // type, and the borrow of `self` keeps the memory. That nobody changes a mapped file meanwhile is what
                // `file::open_mapped` asks of its caller.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
            }
        }
    }

    /// Some of the values; those in pages are shared, not copied.
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

    /// The same values on the heap, with room for `more`.
    pub(super) fn with_room(&self, more: usize) -> Result<Self, TryReserveError> {
        let (values, mut own) = (self.values(), vec![]);
        // A column that grows once will grow again.
        own.try_reserve_exact(values.len() + more.max(values.len() / 2))?;
        own.extend_from_slice(values);
        Ok(Self::Owned(own))
    }

    /// Make room for `more` values; a mapped column is first copied to the heap.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        match self {
            Self::Owned(own) => own.try_reserve(more),
            Self::Mapped(_) => {
                *self = self.with_room(more)?;
                Ok(())
            }
        }
    }

    /// Append values for which there is room.
    pub(super) fn extend(&mut self, values: &[T]) {
        debug_assert!(matches!(self, Self::Owned(_)), "room is made first");
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

/// Initialised bytes, for a function that also takes memory that is not.
///
/// # Safety
/// Only initialised bytes are written to the result.
pub(super) unsafe fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the two types have one layout, and the caller keeps all bytes initialised.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_column_has_pages_of_its_own_and_still_grows() {
        let values: Vec<i64> = (0..(HUGE as i64 / 8)).collect();
        let mut column = Column::copied(&values).expect("memory");
        assert!(matches!(column, Column::Mapped(_)));
        assert_eq!(column.values(), values);
        assert_eq!(column.slice(7..9).expect("no memory is needed").values(), [7, 8]);
        let before = column.clone();
        column.reserve(1).expect("memory");
        column.extend(&[-1]);
        assert_eq!((column.values().len(), column.values()[values.len()]), (values.len() + 1, -1));
        assert_eq!(before.values(), values, "who holds the old column sees no change");
        assert_eq!(column.sealed().expect("memory").values(), column.values());
        assert_eq!(column.slice(3..5).expect("memory").values(), [3, 4]);
    }

    #[test]
    fn more_than_there_is_memory_for_is_an_error() {
        assert!(Fresh::<i64>::new(usize::MAX / 16).is_err());
        assert!(Fresh::<i64>::new(usize::MAX).is_err());
    }

    #[test]
    fn a_range_that_is_cut_or_crooked_is_no_column() {
        let memory = Arc::new(Memory::Own(MmapMut::map_anon(64).expect("a page")));
        assert!(Mapped::<i64>::new(&memory, 8..24).is_some());
        assert!(Mapped::<i64>::new(&memory, 8..23).is_none());
        assert!(Mapped::<i64>::new(&memory, 4..12).is_none());
        assert!(Mapped::<i64>::new(&memory, 56..72).is_none());
    }
}
