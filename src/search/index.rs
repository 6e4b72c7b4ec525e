//! An index: rows, the values derived from them, and their ids.
//!
//! Rows are stored in segments. A search takes a snapshot, a list of segments that are immutable while it is held:
//! searches and changes never wait for each other's work, and a search sees the index as it was when it began. An
//! addition appends to the last segment while that is small, or starts new ones; a removal copies the segments it
//! touches. Searches are in module `query`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::column::{Column, bytes};
use super::segment::{RowsById, Segment, SegmentIds, Snapshot};
use crate::error::Error;
use crate::memory::collected;
use crate::similarity::{MAX_BYTES, MAX_DIMS};

/// Bytes up to which rows are added to a segment. It bounds what an addition copies while a search holds the segment.
/// Nothing is added to a segment in a mapped file, which would be copied too.
const GROWING_BYTES: usize = 32 << 20;

/// The type of an index's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// int8 vectors, with their sign bits and squared norms.
    Int8,
    /// Packed bits.
    Binary,
}

impl Kind {
    /// The rows in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Int8 => "int8 vectors",
            Self::Binary => "packed binary vectors",
        }
    }

    /// Check that vectors of `dims` dimensions can be stored; the error completes "dims ...", without the value.
    pub fn check_dims(self, dims: usize) -> Result<(), String> {
        let (most, step) = match self {
            Self::Int8 => (MAX_DIMS, 1),
            Self::Binary => (MAX_BYTES * 8, 8),
        };
        if !(1..=most).contains(&dims) {
            return Err(format!("must be from {step} to {most}"));
        }
        if !dims.is_multiple_of(step) {
            return Err(format!("must be a multiple of {step}"));
        }
        Ok(())
    }
}

/// The result of a calibration, stored with the index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// First-stage candidates per requested row.
    pub oversample: u64,
    /// Rows requested per query.
    pub k: u64,
    /// The recall that was reached.
    pub recall: f64,
}

/// Rows and their ids. Every method takes a shared reference and may run on any thread.
#[derive(Debug)]
pub struct Index {
    kind: Kind,
    dims: usize,
    /// Locked while a snapshot is taken or replaced, and while rows are appended to a small segment.
    current: RwLock<Arc<Snapshot>>,
    /// Locked for the whole of a change. The set of all ids, once ids can collide.
    writer: Mutex<Option<HashSet<i64>>>,
    calibration: Mutex<Option<Calibration>>,
    /// The name of the vectors' space, if it is known.
    space: Mutex<Option<String>>,
}

impl Index {
    /// An empty index; `dims` must have passed [`Kind::check_dims`].
    pub fn new(kind: Kind, dims: usize, space: Option<String>) -> Self {
        Self::from_snapshot(kind, dims, Snapshot::default(), None, space)
    }

    pub(super) fn from_snapshot(
        kind: Kind,
        dims: usize,
        snapshot: Snapshot,
        calibration: Option<Calibration>,
        space: Option<String>,
    ) -> Self {
        let current = RwLock::new(Arc::new(snapshot));
        let (calibration, space) = (Mutex::new(calibration), Mutex::new(space));
        Self { kind, dims, current, writer: Mutex::new(None), calibration, space }
    }

    /// The type of its rows.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Dimensions of its vectors.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Bytes of a row's bits.
    pub(super) fn bit_bytes(&self) -> usize {
        self.dims.div_ceil(8)
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.snapshot().count
    }

    /// The name of the vectors' space, if it is known.
    pub fn space(&self) -> Option<String> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Take over the space of the first vectors, and return whether that was done. It is not where there are vectors
    /// of an unknown space. The error is the space of the index, if it is another one.
    pub fn adopt_space(&self, space: &str) -> Result<bool, String> {
        let mut current = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(own) if own != space => Err(own.clone()),
            None if self.count() == 0 => {
                *current = Some(space.to_owned());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Undo [`Index::adopt_space`] where the vectors were not added, if there are none.
    pub fn forget_space(&self) {
        let mut current = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count() == 0 {
            *current = None;
        }
    }

    /// The result of the last calibration.
    pub fn calibration(&self) -> Option<Calibration> {
        *self.calibration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Store the result of a calibration.
    pub fn set_calibration(&self, found: Calibration) {
        *self.calibration.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        // A poisoned lock is safe to use: a snapshot is replaced as a whole.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Add int8 vectors and return their ids.
    pub fn add_int8(&self, rows: &[i8], ids: Option<&[i64]>) -> Result<Vec<i64>, Error> {
        self.add(rows, self.dims, self.dims + self.bit_bytes(), ids, |rows, ids| Segment::int8(rows, self.dims, ids))
    }

    /// Add packed bits and return their ids.
    pub fn add_binary(&self, bits: &[u8], ids: Option<&[i64]>) -> Result<Vec<i64>, Error> {
        let width = self.bit_bytes();
        self.add(bits, width, width, ids, |bits, ids| Segment::binary(bits, width, ids))
    }

    /// Add rows of `width` elements, each of `bytes` bytes in a segment.
    fn add<E>(
        &self,
        rows: &[E],
        width: usize,
        bytes: usize,
        ids: Option<&[i64]>,
        segment: impl Fn(&[E], SegmentIds) -> Result<Segment, std::collections::TryReserveError>,
    ) -> Result<Vec<i64>, Error> {
        let count = rows.len() / width;
        if let Some(ids) = ids.filter(|ids| ids.len() != count) {
            return Err(Error::Value(format!(
                "ids must have one entry per vector: {count} vectors, {} ids",
                ids.len()
            )));
        }
        let mut known = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.snapshot();
        let added = snapshot.added;
        let defaults = i64::try_from(added)
            .ok()
            .and_then(|first| Some(first..first.checked_add(count as i64)?))
            .ok_or_else(|| Error::Value(format!("no ids are left: {added} vectors were added before")))?;
        let mut assigned = vec![];
        assigned.try_reserve_exact(count)?;
        match ids {
            None => assigned.extend(defaults.clone()),
            Some(ids) => assigned.extend_from_slice(ids),
        }
        let custom = !defaults.clone().eq(assigned.iter().copied());

        // Everything that can fail happens before the first change.
        let claimed = if custom || snapshot.custom_ids {
            Some(claim(&mut known, &snapshot, &assigned, ids.is_some())?)
        } else {
            None
        };
        drop(snapshot);
        let (mut segments, step) = (vec![], Segment::max_rows(bytes));
        for (at, rows) in rows.chunks(step * width).enumerate() {
            let start = at * step;
            let ids = if custom {
                SegmentIds::Listed(Column::copied(&assigned[start..start + rows.len() / width])?)
            } else {
                SegmentIds::Consecutive(defaults.start + start as i64)
            };
            segments.push(segment(rows, ids)?);
        }
        self.append(segments, count, custom)?;
        if let (Some(known), Some(claimed)) = (known.as_mut(), claimed) {
            known.extend(claimed);
        }
        Ok(assigned)
    }

    /// Append segments, merging into the last segment while that is small.
    fn append(&self, segments: Vec<Segment>, count: usize, custom_ids: bool) -> Result<(), Error> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Arc::make_mut(&mut current);
        for segment in segments {
            match snapshot.segments.last_mut() {
                Some(last) if !last.is_in_file() && last.bytes() + segment.bytes() <= GROWING_BYTES => {
                    if let Some(last) = Arc::get_mut(last) {
                        last.reserve(&segment)?;
                        last.append(&segment);
                    } else {
                        let mut copy = last.with_room(&segment)?;
                        copy.append(&segment);
                        *last = Arc::new(copy);
                    }
                }
                last => {
                    // Without memory for the copy, the last segment stays unsealed.
                    if let Some(last) = last
                        && let Ok(sealed) = last.sealed()
                    {
                        *last = Arc::new(sealed);
                    }
                    snapshot.segments.push(Arc::new(segment));
                }
            }
        }
        snapshot.count += count;
        snapshot.added += count as u64;
        snapshot.custom_ids |= custom_ids;
        Ok(())
    }

    /// Remove the rows of these ids. On an error none is removed.
    pub fn remove(&self, ids: &[i64]) -> Result<(), Error> {
        let mut known = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.snapshot();
        let mut rows = vec![];
        rows.try_reserve_exact(ids.len())?;
        let by_id = snapshot.rows_by_id()?;
        for location in locate(&by_id, ids) {
            rows.push(location?);
        }
        rows.sort_unstable();
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] == pair[1]) {
            let (segment, row) = pair[0];
            let id = snapshot.segments[segment].ids().of(row);
            let mut positions = ids.iter().enumerate().filter(|&(_, &other)| other == id).map(|(at, _)| at);
            let (first, second) = (positions.next().unwrap_or_default(), positions.next().unwrap_or_default());
            return Err(Error::Value(format!("ids must be unique: ids[{first}] and ids[{second}] are both {id}")));
        }
        let mut changed = Snapshot { segments: vec![], count: snapshot.count - rows.len(), ..(*snapshot).clone() };
        let mut remaining = &rows[..];
        for (number, segment) in snapshot.segments.iter().enumerate() {
            let (here, after) = remaining.split_at(remaining.partition_point(|&(segment, _)| segment == number));
            remaining = after;
            if here.is_empty() {
                changed.segments.push(Arc::clone(segment));
                continue;
            }
            let removed = collected(here.iter().map(|&(_, row)| row))?;
            changed.segments.extend(segment.without(&removed)?.map(Arc::new));
        }
        if let Some(known) = known.as_mut() {
            for id in ids {
                known.remove(id);
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(changed);
        Ok(())
    }

    /// The ids of all rows, in row order.
    pub fn ids(&self) -> Result<Vec<i64>, Error> {
        let (snapshot, mut ids) = (self.snapshot(), vec![]);
        ids.try_reserve_exact(snapshot.count)?;
        ids.extend(snapshot.ids());
        Ok(ids)
    }

    /// Visit the int8 vector of each id in turn.
    pub fn int8_vectors(&self, ids: &[i64], mut visit: impl FnMut(&[i8])) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let by_id = snapshot.rows_by_id()?;
        for location in locate(&by_id, ids) {
            let (segment, row) = location?;
            visit(&snapshot.segments[segment].rows.values()[row * self.dims..][..self.dims]);
        }
        Ok(())
    }

    /// Visit the packed bits of each id in turn.
    pub fn binary_vectors(&self, ids: &[i64], mut visit: impl FnMut(&[u8])) -> Result<(), Error> {
        let (snapshot, width) = (self.snapshot(), self.bit_bytes());
        let by_id = snapshot.rows_by_id()?;
        for location in locate(&by_id, ids) {
            let (segment, row) = location?;
            visit(&snapshot.segments[segment].bits.values()[row * width..][..width]);
        }
        Ok(())
    }

    /// The CRC-32 of the rows of each range: its first id, and the number of its ids, which follow each other.
    pub fn checksums(&self, ranges: &[(i64, i64)]) -> Result<Vec<u32>, Error> {
        let (snapshot, bits) = (self.snapshot(), self.bit_bytes());
        let by_id = snapshot.rows_by_id()?;
        let checksum = |&(first, count): &(i64, i64)| {
            let mut checksum = crc32fast::Hasher::new();
            for id in (first..=i64::MAX).take(usize::try_from(count).unwrap_or(0)) {
                let unknown = || Error::Value(format!("the id {id} is not in the index"));
                let (segment, row) = by_id.find(id).ok_or_else(unknown)?;
                let segment = &snapshot.segments[segment];
                checksum.update(match self.kind {
                    Kind::Int8 => bytes(&segment.rows.values()[row * self.dims..][..self.dims]),
                    Kind::Binary => &segment.bits.values()[row * bits..][..bits],
                });
            }
            Ok(checksum.finalize())
        };
        ranges.iter().map(checksum).collect()
    }
}

/// The segment and row of each id, or an error that names the first unknown id.
fn locate(by_id: &RowsById<'_>, ids: &[i64]) -> impl Iterator<Item = Result<(usize, usize), Error>> {
    ids.iter()
        .enumerate()
        .map(|(at, &id)| by_id.find(id).ok_or_else(|| Error::Value(format!("ids[{at}] = {id} is not in the index"))))
}

/// The ids as a set, or an error that names the first that is already in the index or repeated.
fn claim(
    known: &mut MutexGuard<'_, Option<HashSet<i64>>>,
    snapshot: &Snapshot,
    ids: &[i64],
    given: bool,
) -> Result<HashSet<i64>, Error> {
    if known.is_none() {
        let mut all = HashSet::new();
        all.try_reserve(snapshot.count)?;
        all.extend(snapshot.ids());
        **known = Some(all);
    }
    let known = known.get_or_insert_default();
    known.try_reserve(ids.len())?;
    let mut claimed = HashSet::new();
    claimed.try_reserve(ids.len())?;
    for (at, &id) in ids.iter().enumerate() {
        if known.contains(&id) {
            return Err(Error::Value(if given {
                format!("ids[{at}] = {id} is already in the index")
            } else {
                format!("the default id {id} is already in the index: pass ids for these vectors")
            }));
        }
        if !claimed.insert(id) {
            let first = ids.iter().position(|&other| other == id).unwrap_or(at);
            return Err(Error::Value(format!("ids must be unique: ids[{first}] and ids[{at}] are both {id}")));
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted_ids(index: &Index) -> Vec<i64> {
        let mut ids: Vec<i64> = index.snapshot().ids().collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn given_ids_and_default_ids_mix_until_they_collide() {
        let index = Index::new(Kind::Int8, 2, None);
        assert_eq!(index.add_int8(&[1; 4], None).expect("unused ids"), [0, 1]);
        assert_eq!(index.add_int8(&[1; 4], Some(&[-5, 5])).expect("unused ids"), [-5, 5]);
        assert_eq!(index.add_int8(&[1; 2], None).expect("unused ids"), [4]);
        let refused = index.add_int8(&[1; 4], None).expect_err("the default id 5 was given before");
        assert!(refused.to_string().contains("default id 5"), "{refused}");
        let refused = index.add_int8(&[1; 4], Some(&[9, 1])).expect_err("1 is a default id");
        assert!(refused.to_string().contains("ids[1] = 1 "), "{refused}");
        let refused = index.add_int8(&[1; 6], Some(&[9, 8, 9])).expect_err("repeated");
        assert!(refused.to_string().contains("ids[0] and ids[2] are both 9"), "{refused}");
        assert_eq!(index.count(), 5, "a refused addition adds nothing");
        assert_eq!(index.add_int8(&[1; 4], Some(&[9, 8])).expect("unused ids"), [9, 8]);
        assert_eq!(sorted_ids(&index), [-5, 0, 1, 4, 5, 8, 9]);
    }

    #[test]
    fn removed_ids_can_be_given_again_and_default_ids_continue() {
        let index = Index::new(Kind::Int8, 2, None);
        index.add_int8(&[1; 8], None).expect("unused ids");
        let refused = index.remove(&[1, 4]).expect_err("there is no 4");
        assert!(refused.to_string().contains("ids[1] = 4 is not"), "{refused}");
        let refused = index.remove(&[3, 1, 3]).expect_err("repeated");
        assert!(refused.to_string().contains("ids[0] and ids[2] are both 3"), "{refused}");
        index.remove(&[3, 1]).expect("known ids");
        assert_eq!(sorted_ids(&index), [0, 2]);
        assert_eq!(index.add_int8(&[1; 2], None).expect("unused ids"), [4]);
        assert_eq!(index.add_int8(&[1; 2], Some(&[1])).expect("unused ids"), [1]);
        assert_eq!(sorted_ids(&index), [0, 1, 2, 4]);
        index.remove(&[0, 1, 2, 4]).expect("known ids");
        assert_eq!((index.count(), sorted_ids(&index)), (0, vec![]));
        assert_eq!(index.add_int8(&[1; 4], Some(&[2, 9])).expect("unused ids"), [2, 9]);
    }

    #[test]
    fn a_snapshot_does_not_see_later_changes() {
        let index = Index::new(Kind::Int8, 2, None);
        index.add_int8(&[1; 4], None).expect("unused ids");
        let before = index.snapshot();
        index.add_int8(&[1; 4], None).expect("unused ids");
        assert_eq!((before.count, before.segments[0].count), (2, 2));
        assert_eq!(index.count(), 4);
        assert_eq!(index.snapshot().segments.len(), 1, "a small addition joins the last segment");
        let before = index.snapshot();
        index.remove(&[0]).expect("a known id");
        assert_eq!((before.count, before.segments[0].count, index.count()), (4, 4, 3));
    }
}
