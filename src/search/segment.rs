//! The rows of an index, in segments that are immutable while shared.

use std::collections::TryReserveError;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::column::{Column, ColumnBuilder, as_uninit};
use super::rows::{Ids, Part};
use crate::codec::bits;
use crate::isa::Isa;
use crate::memory::{collected, filled};
use crate::similarity::dot::Dot;
use crate::similarity::{Kernels, Matrix};

/// Most bytes of vectors and bits in one segment. It bounds what a removal copies.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of int8 rows that are copied together, so that their bits and norms are computed from cache.
const STEP_BYTES: usize = 64 << 10;

/// The ids of a segment's rows, owned. See [`Ids`].
#[derive(Clone, Debug)]
pub(super) enum SegmentIds {
    Consecutive(i64),
    Listed(Column<i64>),
}

/// Consecutive rows of an index.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) count: usize,
    /// int8 vectors; empty in a binary index.
    pub(super) rows: Column<i8>,
    /// One bit per dimension: 1 for a value of at least 0, least significant bit first.
    pub(super) bits: Column<u8>,
    /// Squared norms; empty in a binary index.
    pub(super) norms: Column<u32>,
    pub(super) ids: SegmentIds,
    /// Rows sorted by id, built at the first look-up; None: the rows are sorted already.
    order: OnceLock<Option<Box<[u32]>>>,
}

impl Segment {
    pub(super) fn new(count: usize, rows: Column<i8>, bits: Column<u8>, norms: Column<u32>, ids: SegmentIds) -> Self {
        Self { count, rows, bits, norms, ids, order: OnceLock::new() }
    }

    /// A segment of int8 vectors. Their bits and norms are computed from the copy, so that they fit it if `values` changes
    /// meanwhile.
    pub(super) fn int8(values: &[i8], dims: usize, ids: SegmentIds) -> Result<Self, TryReserveError> {
        let (count, width) = (values.len() / dims, dims.div_ceil(8));
        let mut rows = ColumnBuilder::<i8>::new(values.len())?;
        let mut bits = ColumnBuilder::<u8>::new(count * width)?;
        let mut norms = ColumnBuilder::<u32>::new(count)?;
        let step = (STEP_BYTES / dims).max(1);
        let parts = values.chunks(step * dims).zip(rows.values().chunks_mut(step * dims));
        let parts = parts.zip(bits.values().chunks_mut(step * width)).zip(norms.values().chunks_mut(step));
        for (((source, rows), bits), norms) in parts {
            rows.copy_from_slice(source);
            write_step(rows, dims, bits, norms);
        }
        Ok(Self::new(count, rows.finish(), bits.finish(), norms.finish(), ids))
    }

    /// A segment of packed bits.
    pub(super) fn binary(bits: &[u8], width: usize, ids: SegmentIds) -> Result<Self, TryReserveError> {
        let (rows, norms) = (Column::Owned(vec![]), Column::Owned(vec![]));
        Ok(Self::new(bits.len() / width, rows, Column::copied(bits)?, norms, ids))
    }

    /// How many rows of so many bytes fill a segment.
    pub(super) fn max_rows(row_bytes: usize) -> usize {
        (MAX_BYTES / row_bytes).max(1)
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.values().len() + self.bits.values().len()
    }

    /// Whether its rows are in a mapped file.
    pub(super) fn is_in_file(&self) -> bool {
        self.bits.is_in_file()
    }

    /// The ids in the form a scan takes.
    pub(super) fn ids(&self) -> Ids<'_> {
        match &self.ids {
            SegmentIds::Consecutive(first) => Ids::Consecutive(*first),
            SegmentIds::Listed(ids) => Ids::Listed(ids.values()),
        }
    }

    /// The same rows in the memory that a scan reads fastest, for a segment that will not grow.
    pub(super) fn sealed(&self) -> Result<Self, TryReserveError> {
        let ids = match &self.ids {
            SegmentIds::Consecutive(first) => SegmentIds::Consecutive(*first),
            SegmentIds::Listed(ids) => SegmentIds::Listed(ids.sealed()?),
        };
        Ok(Self::new(self.count, self.rows.sealed()?, self.bits.sealed()?, self.norms.sealed()?, ids))
    }

    /// Make room for the rows of `other`. If it fails, no row has changed.
    pub(super) fn reserve(&mut self, other: &Self) -> Result<(), TryReserveError> {
        self.rows.reserve(other.rows.values().len())?;
        self.bits.reserve(other.bits.values().len())?;
        self.norms.reserve(other.norms.values().len())?;
        if let (SegmentIds::Consecutive(first), SegmentIds::Consecutive(next)) = (&self.ids, &other.ids)
            && first + self.count as i64 == *next
        {
            return Ok(());
        }
        if let SegmentIds::Consecutive(first) = self.ids {
            let mut own = vec![];
            own.try_reserve_exact(self.count + other.count)?;
            own.extend((first..).take(self.count));
            self.ids = SegmentIds::Listed(Column::Owned(own));
        }
        match &mut self.ids {
            SegmentIds::Listed(ids) => ids.reserve(other.count),
            SegmentIds::Consecutive(_) => Ok(()),
        }
    }

    /// A copy with room for the rows of `other`.
    pub(super) fn with_room(&self, other: &Self) -> Result<Self, TryReserveError> {
        let ids = match &self.ids {
            SegmentIds::Consecutive(first) => SegmentIds::Consecutive(*first),
            SegmentIds::Listed(ids) => SegmentIds::Listed(ids.with_room(other.count)?),
        };
        let rows = self.rows.with_room(other.rows.values().len())?;
        let bits = self.bits.with_room(other.bits.values().len())?;
        let norms = self.norms.with_room(other.norms.values().len())?;
        let mut copy = Self::new(self.count, rows, bits, norms, ids);
        copy.reserve(other)?;
        Ok(copy)
    }

    /// Append `other`, for which room was reserved.
    pub(super) fn append(&mut self, other: &Self) {
        self.rows.extend(other.rows.values());
        self.bits.extend(other.bits.values());
        self.norms.extend(other.norms.values());
        if let SegmentIds::Listed(ids) = &mut self.ids {
            match other.ids() {
                Ids::Listed(others) => ids.extend(others),
                Ids::Consecutive(first) => (first..).take(other.count).for_each(|id| ids.extend(&[id])),
            }
        }
        self.count += other.count;
        self.order = OnceLock::new();
    }

    /// A range of the rows. Memory pages are shared, not copied.
    pub(super) fn slice(&self, range: Range<usize>) -> Result<Self, TryReserveError> {
        let cut = |width: usize| range.start * width..range.end * width;
        let ids = match &self.ids {
            SegmentIds::Consecutive(first) => SegmentIds::Consecutive(first + range.start as i64),
            SegmentIds::Listed(ids) => SegmentIds::Listed(ids.slice(range.clone())?),
        };
        Ok(Self::new(
            range.len(),
            self.rows.slice(cut(self.rows.values().len() / self.count))?,
            self.bits.slice(cut(self.bits.values().len() / self.count))?,
            self.norms.slice(cut(self.norms.values().len() / self.count))?,
            ids,
        ))
    }

    /// A copy without the `removed` rows, which are in ascending order; None if no row is left.
    pub(super) fn without(&self, removed: &[usize]) -> Result<Option<Self>, TryReserveError> {
        if removed.len() == self.count {
            return Ok(None);
        }
        let left = self.count - removed.len();
        let remaining = Remaining { removed, count: self.count, left };
        let mut ids = ColumnBuilder::new(left)?;
        let own: Vec<i64>;
        remaining.copy(
            match self.ids() {
                Ids::Listed(ids) => ids,
                Ids::Consecutive(first) => {
                    let mut numbers = vec![];
                    numbers.try_reserve_exact(self.count)?;
                    numbers.extend((first..).take(self.count));
                    own = numbers;
                    &own
                }
            },
            ids.values(),
        );
        let ids = SegmentIds::Listed(ids.finish());
        Ok(Some(Self::new(
            left,
            remaining.column(&self.rows)?,
            remaining.column(&self.bits)?,
            remaining.column(&self.norms)?,
            ids,
        )))
    }

    /// The rows by their ids. The first call may need memory.
    fn id_map(&self) -> Result<IdMap<'_>, TryReserveError> {
        let ids = self.ids();
        let order = if let Ids::Listed(ids) = ids { self.order(ids)? } else { None };
        Ok(IdMap { ids, order, count: self.count })
    }

    fn order(&self, ids: &[i64]) -> Result<Option<&[u32]>, TryReserveError> {
        if self.order.get().is_none() {
            let order = if ids.is_sorted() {
                None
            } else {
                // Fits: a segment has at most 2^26 rows, of one byte each.
                let mut order: Vec<u32> = collected(ids.iter().enumerate().map(|(row, _)| row as u32))?;
                order.sort_unstable_by_key(|&row| ids[row as usize]);
                Some(order.into_boxed_slice())
            };
            // Another thread may have set the same order meanwhile.
            let _ = self.order.set(order);
        }
        Ok(self.order.get().and_then(Option::as_deref))
    }
}

/// The rows of a segment by their ids.
struct IdMap<'a> {
    ids: Ids<'a>,
    /// Rows sorted by id; None: the rows are sorted already.
    order: Option<&'a [u32]>,
    count: usize,
}

impl IdMap<'_> {
    fn find(&self, id: i64) -> Option<usize> {
        match (self.ids, self.order) {
            (Ids::Consecutive(first), _) => {
                let row = usize::try_from(id.checked_sub(first)?).ok()?;
                (row < self.count).then_some(row)
            }
            (Ids::Listed(ids), None) => ids.binary_search(&id).ok(),
            (Ids::Listed(ids), Some(order)) => {
                let place = order.binary_search_by_key(&id, |&row| ids[row as usize]).ok()?;
                Some(order[place] as usize)
            }
        }
    }
}

/// The rows that remain after a removal.
struct Remaining<'a> {
    removed: &'a [usize],
    count: usize,
    left: usize,
}

impl Remaining<'_> {
    /// Copy the remaining rows of `from`, whose length gives the values per row.
    fn copy<T: Copy>(&self, from: &[T], to: &mut [T]) {
        let width = from.len() / self.count;
        let (mut start, mut at) = (0, 0);
        for end in self.removed.iter().copied().chain([self.count]) {
            let run = &from[start * width..end * width];
            to[at..at + run.len()].copy_from_slice(run);
            (start, at) = (end + 1, at + run.len());
        }
    }

    fn column<T: super::column::Plain>(&self, column: &Column<T>) -> Result<Column<T>, TryReserveError> {
        let values = column.values();
        let mut remaining = ColumnBuilder::new(values.len() / self.count * self.left)?;
        self.copy(values, remaining.values());
        Ok(remaining.finish())
    }
}

/// All rows of an index at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) count: usize,
    /// Rows ever added, and so the next default id.
    pub(super) added: u64,
    /// Whether a caller gave ids that are not the default ones, so that ids can collide.
    pub(super) custom_ids: bool,
}

impl Snapshot {
    /// The segments in the form a scan takes; with `norms`, the stored norms, which are those of whole rows.
    pub(super) fn parts<'a, E>(&'a self, rows: impl Fn(&'a Segment) -> &'a [E], norms: bool) -> Vec<Part<'a, E>> {
        let part = |segment: &'a Arc<Segment>| Part {
            rows: rows(segment),
            norms: norms.then_some(segment.norms.values()),
            ids: segment.ids(),
        };
        self.segments.iter().map(part).collect()
    }

    /// All ids, in the order of the rows.
    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.segments.iter().flat_map(|segment| (0..segment.count).map(|row| segment.ids().of(row)))
    }

    /// The rows by their ids. It may need memory, where ids are not in order.
    pub(super) fn rows_by_id(&self) -> Result<RowsById<'_>, TryReserveError> {
        let mut maps = vec![];
        maps.try_reserve_exact(self.segments.len())?;
        for segment in &self.segments {
            maps.push(segment.id_map()?);
        }
        let ascending = maps.iter().all(|map| map.order.is_none())
            && maps.windows(2).all(|pair| pair[0].ids.of(pair[0].count - 1) < pair[1].ids.of(0));
        Ok(RowsById { maps, ascending })
    }

    /// The rows that have one of these ids, as numbers over all segments, in no order. A repeated id repeats its row.
    pub(super) fn rows_of(&self, ids: &[i64]) -> Result<Vec<usize>, TryReserveError> {
        let by_id = self.rows_by_id()?;
        let (mut rows, mut first) = (vec![], 0);
        rows.try_reserve_exact(ids.len())?;
        if by_id.ascending {
            let starts = self.starts();
            let number = |(segment, row)| starts[segment] + row;
            rows.extend(ids.iter().filter_map(|&id| by_id.find(id).map(number)));
            return Ok(rows);
        }
        // One segment after the other, so that its ids stay in cache.
        for map in &by_id.maps {
            rows.extend(ids.iter().filter_map(|&id| Some(first + map.find(id)?)));
            first += map.count;
        }
        Ok(rows)
    }

    /// The number of each segment's first row.
    pub(super) fn starts(&self) -> Vec<usize> {
        let ends = self.segments.iter().scan(0, |end, segment| {
            *end += segment.count;
            Some(*end)
        });
        std::iter::once(0).chain(ends).take(self.segments.len()).collect()
    }
}

/// The rows of a snapshot by their ids.
pub(super) struct RowsById<'a> {
    maps: Vec<IdMap<'a>>,
    /// Whether ids rise from each row to the next over all segments, so that only one segment can have an id.
    ascending: bool,
}

impl RowsById<'_> {
    /// The segment of an id, and the row in it.
    pub(super) fn find(&self, id: i64) -> Option<(usize, usize)> {
        if self.ascending {
            let segment = self.maps.partition_point(|map| map.ids.of(0) <= id).checked_sub(1)?;
            return Some((segment, self.maps[segment].find(id)?));
        }
        self.maps.iter().enumerate().find_map(|(segment, map)| Some((segment, map.find(id)?)))
    }
}

/// The sign bits of int8 vectors: 1 for a value of at least 0, least significant bit first. Each vector is padded with
/// zero bits to whole bytes.
pub fn sign_bits(rows: &[i8], dims: usize) -> Result<Vec<u8>, TryReserveError> {
    let mut bits = filled(0, rows.len() / dims * dims.div_ceil(8))?;
    write_sign_bits(rows, dims, &mut bits);
    Ok(bits)
}

/// Write the sign bits and the squared norms of int8 vectors.
pub(super) fn write_bits_and_norms(rows: &[i8], dims: usize, bits: &mut [u8], norms: &mut [u32]) {
    let step = (STEP_BYTES / dims).max(1);
    let parts = rows.chunks(step * dims).zip(bits.chunks_mut(step * dims.div_ceil(8))).zip(norms.chunks_mut(step));
    for ((rows, bits), norms) in parts {
        write_step(rows, dims, bits, norms);
    }
}

/// As [`write_bits_and_norms`], for rows that are in cache.
fn write_step(rows: &[i8], dims: usize, bits: &mut [u8], norms: &mut [u32]) {
    write_sign_bits(rows, dims, bits);
    Dot::squared_norms(Dot::isa(), Matrix::whole(rows, dims), norms);
}

#[expect(unsafe_code, reason = "initialised memory for a function that also takes memory that is not")]
fn write_sign_bits(rows: &[i8], dims: usize, out: &mut [u8]) {
    if dims.is_multiple_of(8) {
        // SAFETY: `pack` writes initialised bytes.
        return bits::pack(Isa::codec(), rows, unsafe { as_uninit(out) }); // the rows are one long row
    }
    for (row, out) in rows.chunks_exact(dims).zip(out.chunks_exact_mut(dims.div_ceil(8))) {
        let (whole, tail) = row.split_at(dims / 8 * 8);
        let (out, last) = out.split_at_mut(dims / 8);
        // SAFETY: as above.
        bits::pack(Isa::codec(), whole, unsafe { as_uninit(out) });
        last[0] = tail.iter().enumerate().fold(0, |byte, (bit, &value)| byte | u8::from(value >= 0) << bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    fn find(segment: &Segment, id: i64) -> Option<usize> {
        segment.id_map().expect("memory").find(id)
    }

    #[test]
    fn a_sign_bit_is_one_for_values_of_at_least_zero() {
        let mut random = Random(41);
        for dims in 1..=70 {
            let rows = random.int8(3 * dims);
            let bits = sign_bits(&rows, dims).expect("memory");
            for (row, bits) in rows.chunks_exact(dims).zip(bits.chunks_exact(dims.div_ceil(8))) {
                for (at, &value) in row.iter().enumerate() {
                    assert_eq!(bits[at / 8] >> (at % 8) & 1 == 1, value >= 0);
                }
            }
        }
        let bits = sign_bits(&[0, -1, 127, -128, 0, -1, -1, -1, -1], 9).expect("memory");
        assert_eq!(bits, [0b0001_0101, 0]);
    }

    fn sample(ids: SegmentIds) -> Segment {
        Segment::int8(&Random(42).int8(10 * 9), 9, ids).expect("memory")
    }

    #[test]
    fn unsorted_ids_are_found() {
        let own = [5, -3, 9, 100, 7, 6, 0, 1 << 40, -8, 2];
        let mut segment = sample(SegmentIds::Listed(Column::Owned(own.to_vec())));
        for (row, id) in own.into_iter().enumerate() {
            assert_eq!(find(&segment, id), Some(row));
        }
        assert_eq!([3, i64::MIN].map(|id| find(&segment, id)), [None, None]);
        let more = sample(SegmentIds::Consecutive(20));
        segment.reserve(&more).expect("memory");
        segment.append(&more);
        let found = [9, 20, 29, 30].map(|id| find(&segment, id));
        assert_eq!(found, [Some(2), Some(10), Some(19), None]);
        let plain = sample(SegmentIds::Consecutive(20));
        let found = [19, 20, 29, 30, i64::MIN, i64::MAX].map(|id| find(&plain, id));
        assert_eq!(found, [None, Some(0), Some(9), None, None, None]);
    }

    #[test]
    fn ids_are_found_in_segments_in_and_out_of_order() {
        let ids = [
            SegmentIds::Consecutive(-5),
            SegmentIds::Consecutive(5),
            SegmentIds::Listed(Column::Owned((0..10).map(|row| 20 + 2 * row).collect())),
            SegmentIds::Listed(Column::Owned((0..10).map(|row| 70 - row).collect())),
        ];
        let segments: Vec<Arc<Segment>> = ids.into_iter().map(|ids| Arc::new(sample(ids))).collect();
        for order in [&[0, 1][..], &[0, 1, 2], &[2, 0], &[0, 1, 3], &[3], &[]] {
            let segments: Vec<_> = order.iter().map(|&number| Arc::clone(&segments[number])).collect();
            let snapshot = Snapshot { count: 10 * segments.len(), segments, ..Snapshot::default() };
            let by_id = snapshot.rows_by_id().expect("memory");
            let ids: Vec<i64> = snapshot.ids().collect();
            assert_eq!(by_id.ascending, ids.is_sorted(), "{order:?}");
            for id in -10..80 {
                let row = ids.iter().position(|&other| other == id);
                assert_eq!(by_id.find(id), row.map(|row| (row / 10, row % 10)), "{id} in {order:?}");
            }
            let mut rows = snapshot.rows_of(&(-10..80).collect::<Vec<_>>()).expect("memory");
            rows.sort_unstable();
            assert_eq!(rows, (0..ids.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn remaining_rows_keep_their_values_after_a_removal() {
        let segment = sample(SegmentIds::Consecutive(20));
        for removed in [&[0][..], &[9], &[0, 1, 9], &[3, 4, 5], &[0, 1, 2, 3, 4, 5, 6, 7, 8]] {
            let left = segment.without(removed).expect("memory").expect("rows are left");
            let kept: Vec<usize> = (0..10).filter(|row| !removed.contains(row)).collect();
            assert_eq!(left.count, kept.len());
            for (at, &row) in kept.iter().enumerate() {
                let slice = segment.slice(row..row + 1).expect("memory");
                assert_eq!(left.ids().of(at), 20 + row as i64);
                assert_eq!(left.rows.values()[at * 9..][..9], *slice.rows.values());
                assert_eq!(left.bits.values()[at * 2..][..2], *slice.bits.values());
                assert_eq!(left.norms.values()[at..=at], *slice.norms.values());
            }
        }
        assert!(segment.without(&(0..10).collect::<Vec<_>>()).expect("memory").is_none());
    }
}
