//! Where a decoder writes its rows.

use std::mem::MaybeUninit;

use crate::error::Error;

/// Memory for the rows of a response.
pub trait Rows {
    /// Rows have `row_bytes` bytes. Called once, before the first row.
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error>;
    /// Memory of row `index`, the one after the last, or None where there is no room for it.
    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]>;
    /// Memory of the first `count` rows, all of which were written.
    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>];
    /// Why [`Rows::row`] has no memory for row `index`.
    fn no_room(&self, index: usize) -> Error {
        Error::Value(format!("out has {index} rows, the response has more"))
    }
}

/// Rows in memory that the caller provides.
pub struct SliceRows<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    row_bytes: usize,
}

impl<'a> SliceRows<'a> {
    /// Rows one after the other in `memory`.
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { memory, row_bytes: 0 }
    }
}

impl Rows for SliceRows<'_> {
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
        self.row_bytes = row_bytes;
        Ok(())
    }

    #[inline]
    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]> {
        let start = index.checked_mul(self.row_bytes)?;
        self.memory.get_mut(start..start.checked_add(self.row_bytes)?)
    }

    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        &mut self.memory[..count * self.row_bytes]
    }
}

/// Bytes that are reserved at once where so many rows are expected: to grow there would be to copy.
const AT_ONCE: usize = 1 << 20;

/// Rows in memory that grows with them: beyond [`AT_ONCE`] bytes never more than twice what has arrived.
#[derive(Debug, Default)]
pub struct GrowingRows {
    memory: Vec<MaybeUninit<u8>>,
    row_bytes: usize,
    /// Rows that are expected, beyond which nothing is reserved.
    most: Option<usize>,
}

impl GrowingRows {
    /// No rows yet; `most` are expected, where that is known.
    pub fn up_to(most: Option<usize>) -> Self {
        Self { most, ..Self::default() }
    }

    /// The bytes of the first `count` rows. They are initialised: rows begin as zeros.
    pub fn into_memory(mut self, count: usize) -> Vec<MaybeUninit<u8>> {
        self.memory.truncate(count * self.row_bytes);
        self.memory.shrink_to_fit();
        self.memory
    }
}

impl Rows for GrowingRows {
    fn begin(&mut self, row_bytes: usize) -> Result<(), Error> {
        self.row_bytes = row_bytes;
        Ok(())
    }

    fn row(&mut self, index: usize) -> Option<&mut [MaybeUninit<u8>]> {
        let start = index.checked_mul(self.row_bytes)?;
        let end = start.checked_add(self.row_bytes)?;
        if end > self.memory.capacity() {
            let most = self.most.map(|most| most.saturating_mul(self.row_bytes));
            let doubled = (2 * self.memory.capacity()).min(most.unwrap_or(usize::MAX));
            let wanted = doubled.max(end).max(most.unwrap_or(0).min(AT_ONCE));
            self.memory.try_reserve_exact(wanted - self.memory.len()).ok()?;
        }
        if end > self.memory.len() {
            self.memory.resize(end, MaybeUninit::new(0));
        }
        self.memory.get_mut(start..end)
    }

    fn no_room(&self, index: usize) -> Error {
        Error::Memory(format!("no memory for row {index} of {} bytes", self.row_bytes))
    }

    fn rows(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        &mut self.memory[..count * self.row_bytes]
    }
}
