//! Rows as a kernel sees them.

use std::collections::TryReserveError;
use std::ops::Range;

use super::prefetch::{distance, prefetch};

/// Rows that lie `stride` elements apart, of which the first `width` elements each are read.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, E> {
    data: &'a [E],
    width: usize,
    stride: usize,
}

impl<'a, E> Matrix<'a, E> {
    /// The whole rows in `data`; `width` is at least 1 and at most `stride`.
    pub fn new(data: &'a [E], width: usize, stride: usize) -> Self {
        debug_assert!((1..=stride).contains(&width));
        Self { data, width: width.min(stride), stride }
    }

    /// Rows that are read wholly.
    pub fn whole(data: &'a [E], width: usize) -> Self {
        Self::new(data, width, width)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.stride
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a row that are read.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// One row.
    #[inline]
    pub fn row(&self, row: usize) -> &'a [E] {
        &self.data[row * self.stride..][..self.width]
    }

    /// Some rows.
    #[must_use]
    pub fn range(&self, rows: Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.stride..rows.end * self.stride], ..*self }
    }

    /// All elements from the start of a row on, those between rows included.
    #[inline]
    pub fn from(&self, row: usize) -> &'a [E] {
        &self.data[row * self.stride..]
    }

    /// Number of rows, from the first on, of which `width` elements can be read, those of later rows included.
    pub fn readable(&self, width: usize) -> usize {
        self.data.len().checked_sub(width).map_or(0, |last| last / self.stride + 1).min(self.len())
    }

    /// All rows.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [E]> + use<'a, E> {
        let width = self.width;
        self.data.chunks_exact(self.stride).map(move |row| &row[..width])
    }

    /// A copy of the elements that are read, row after row.
    pub fn copied(&self) -> Result<Vec<E>, TryReserveError>
    where
        E: Copy,
    {
        let mut copy = vec![];
        copy.try_reserve_exact(self.len() * self.width)?;
        if self.width == self.stride {
            copy.extend_from_slice(&self.data[..self.len() * self.width]);
        } else {
            self.iter().for_each(|row| copy.extend_from_slice(row));
        }
        Ok(copy)
    }

    /// Bytes from an element to the one to prefetch while it is read: whole strides, where elements between rows are not
    /// read.
    #[inline]
    pub fn ahead(&self) -> usize {
        if self.width == self.stride {
            return distance();
        }
        let row = self.stride * size_of::<E>();
        distance().div_ceil(row) * row
    }

    /// Prefetch some rows, as far as they exist.
    #[inline]
    pub fn prefetch(&self, rows: Range<usize>) {
        for row in rows.start..rows.end.min(self.len()) {
            prefetch(self.row(row));
        }
    }

    /// The rows in groups of `N`, and the last rows, fewer than `N`.
    #[inline]
    pub fn groups<const N: usize>(&self) -> (impl ExactSizeIterator<Item = [&'a [E]; N]> + use<'a, E, N>, Self) {
        let (width, stride) = (self.width, self.stride);
        let whole = self.len() / N * N;
        let groups = self.data[..whole * stride].chunks_exact(N * stride);
        let groups = groups.map(move |group| std::array::from_fn(|row| &group[row * stride..][..width]));
        (groups, self.range(whole..self.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_from_wider_ones() {
        let data: Vec<u8> = (0..23).collect();
        let matrix = Matrix::new(&data, 2, 3);
        assert_eq!((matrix.len(), matrix.width(), matrix.is_empty()), (7, 2, false));
        assert_eq!(matrix.row(2), [6, 7]);
        assert_eq!(matrix.iter().map(|row| row[1]).collect::<Vec<_>>(), [1, 4, 7, 10, 13, 16, 19]);
        assert_eq!(matrix.range(3..5).iter().collect::<Vec<_>>(), [[9, 10], [12, 13]]);
        assert_eq!(matrix.range(3..5).copied().expect("memory"), [9, 10, 12, 13]);
        assert_eq!(matrix.from(6), [18, 19, 20, 21, 22]);
        assert_eq!([2, 3, 5, 6, 23, 24].map(|width| matrix.readable(width)), [7, 7, 7, 6, 1, 0]);
        assert_eq!(Matrix::whole(&data[..4], 2).copied().expect("memory"), [0, 1, 2, 3]);
        let (groups, rest) = matrix.groups::<4>();
        assert_eq!(groups.collect::<Vec<_>>(), [[&[0, 1], &[3, 4], &[6, 7], &[9, 10]]]);
        assert_eq!(rest.iter().collect::<Vec<_>>(), [[12, 13], [15, 16], [18, 19]]);
    }
}
