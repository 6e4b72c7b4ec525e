//! An index: rows, what is derived from them, and their ids.
//!
//! Rows are kept in segments. A search takes a snapshot, a list of segments that nobody changes while it is held, so
//! that searches and additions never wait for each other's work, and a search sees the index as it was when it began.
//! An addition appends to the last segment while that is small, or starts another.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::column::Column;
use super::scan::{Found, Part, Scan, Watch};
use super::top_k::{Closest, Nearest};
use crate::error::Error;
use crate::similarity::dot::Dot;
use crate::similarity::hamming::Hamming;
use crate::similarity::{Kernels, MAX_BYTES, MAX_DIMS};

/// Bytes up to which a segment takes further rows. It bounds what an addition copies while a search holds the segment.
const SEGMENT_BYTES: usize = 32 << 20;

/// What the rows of an index are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// int8 vectors, with the bits of their signs and their squared norms.
    Int8,
    /// Packed bits alone.
    Binary,
}

impl Kind {
    /// Whether vectors of `dims` dimensions can be kept, or what is wrong with it.
    pub fn check_dims(self, dims: usize) -> Result<(), String> {
        let (most, step) = match self {
            Self::Int8 => (MAX_DIMS, 1),
            Self::Binary => (MAX_BYTES * 8, 8),
        };
        if !(1..=most).contains(&dims) {
            return Err(format!("must be from {step} to {most}, got {dims}"));
        }
        if !dims.is_multiple_of(step) {
            return Err(format!("must be a multiple of {step}, got {dims}"));
        }
        Ok(())
    }
}

/// Rows of an index that were added at about the same time.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) count: usize,
    /// int8 vectors; empty in a binary index.
    pub(super) rows: Column<i8>,
    /// A bit a dimension, 1 where the value is not negative, least significant first.
    pub(super) bits: Column<u8>,
    /// Squared norms; empty in a binary index.
    pub(super) norms: Column<u32>,
    /// None: the rows' numbers.
    pub(super) ids: Option<Column<i64>>,
}

impl Segment {
    fn bytes(&self) -> usize {
        self.rows.values().len() + self.bits.values().len()
    }

    /// The same rows, in memory that is best to read: for a segment that will not grow.
    fn sealed(&self) -> Self {
        Self {
            count: self.count,
            rows: self.rows.sealed(),
            bits: self.bits.sealed(),
            norms: self.norms.sealed(),
            ids: self.ids.as_ref().map(Column::sealed),
        }
    }

    /// Append `other`, whose first row will have the number `number`; `first` is this segment's own first.
    fn append(&mut self, other: &Self, first: usize, number: usize) {
        let numbers = |start: usize, count| (start as i64..).take(count).collect::<Vec<i64>>();
        match (&mut self.ids, &other.ids) {
            (None, None) => {}
            (Some(ids), Some(others)) => ids.extend(others.values()),
            (Some(ids), None) => ids.extend(&numbers(number, other.count)),
            (ids @ None, Some(others)) => {
                let mut own = Column::Owned(numbers(first, self.count));
                own.extend(others.values());
                *ids = Some(own);
            }
        }
        self.rows.extend(other.rows.values());
        self.bits.extend(other.bits.values());
        self.norms.extend(other.norms.values());
        self.count += other.count;
    }
}

/// All rows at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) count: usize,
    /// Rows ever added: where default ids go on.
    pub(super) added: u64,
}

impl Snapshot {
    fn parts<'a, E>(&'a self, rows: impl Fn(&'a Segment) -> &'a [E]) -> Vec<Part<'a, E>> {
        self.segments
            .iter()
            .map(|segment| Part {
                rows: rows(segment),
                norms: Some(segment.norms.values()),
                ids: segment.ids.as_ref().map(Column::values),
            })
            .collect()
    }

    /// All ids, in the order of the rows.
    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        let mut number = 0;
        self.segments.iter().flat_map(move |segment| {
            let first = number;
            number += segment.count as i64;
            (0..segment.count).map(move |row| segment.ids.as_ref().map_or(first + row as i64, |ids| ids.values()[row]))
        })
    }

    fn has_own_ids(&self) -> bool {
        self.segments.iter().any(|segment| segment.ids.is_some())
    }
}

/// What is asked of an index beside the queries.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Rows a query.
    pub k: usize,
    /// One byte a row, in the order they were added: zero hides it.
    pub mask: Option<&'a [u8]>,
    /// Threads; none: as many as pay.
    pub threads: Option<NonZero<usize>>,
}

/// Rows and their ids. Every method takes a shared reference and may run on any thread.
#[derive(Debug)]
pub struct Index {
    kind: Kind,
    dims: usize,
    /// Held for the moment of taking or replacing a snapshot, and while rows are appended to a small segment.
    current: RwLock<Arc<Snapshot>>,
    /// Held by an addition from its checks to its end. The set of all ids, once a caller has given ids.
    writer: Mutex<Option<HashSet<i64>>>,
}

impl Index {
    /// An empty index; `dims` must have passed [`Kind::check_dims`].
    pub fn new(kind: Kind, dims: usize) -> Self {
        Self::from_snapshot(kind, dims, Snapshot::default())
    }

    pub(super) fn from_snapshot(kind: Kind, dims: usize, snapshot: Snapshot) -> Self {
        Self { kind, dims, current: RwLock::new(Arc::new(snapshot)), writer: Mutex::new(None) }
    }

    /// What its rows are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Dimensions of its vectors.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.snapshot().count
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        // No panic leaves a snapshot half made: what is behind a poisoned lock is whole.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Add int8 vectors, and give their ids.
    pub fn add_int8(&self, rows: &[i8], ids: Option<&[i64]>) -> Result<Vec<i64>, Error> {
        let count = rows.len() / self.dims;
        let mut norms = vec![0; count];
        Dot::squared_norms(Dot::isa(), rows, self.dims, &mut norms);
        let bits = signs(rows, self.dims);
        self.add(count, ids, |ids| Segment {
            count,
            rows: Column::copied(rows),
            bits: Column::copied(&bits),
            norms: Column::Owned(norms),
            ids,
        })
    }

    /// Add packed bits, and give their ids.
    pub fn add_binary(&self, bits: &[u8], ids: Option<&[i64]>) -> Result<Vec<i64>, Error> {
        let count = bits.len() / self.dims.div_ceil(8);
        self.add(count, ids, |ids| Segment {
            count,
            rows: Column::Owned(vec![]),
            bits: Column::copied(bits),
            norms: Column::Owned(vec![]),
            ids,
        })
    }

    fn add(
        &self,
        count: usize,
        ids: Option<&[i64]>,
        segment: impl FnOnce(Option<Column<i64>>) -> Segment,
    ) -> Result<Vec<i64>, Error> {
        if let Some(ids) = ids.filter(|ids| ids.len() != count) {
            return Err(Error::Value(format!("ids must have one entry a vector: {count} vectors, {} ids", ids.len())));
        }
        let mut known = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, added, has_own_ids) = {
            let snapshot = self.snapshot();
            (snapshot.count, snapshot.added, snapshot.has_own_ids())
        };
        let defaults = i64::try_from(added)
            .ok()
            .and_then(|first| Some(first..first.checked_add(count as i64)?))
            .ok_or_else(|| Error::Value(format!("no ids are left: {added} vectors were added before")))?;
        let numbered = number as u64 == added;
        let assigned = ids.map_or_else(|| defaults.collect(), <[i64]>::to_vec);
        let as_numbered = numbered && assigned.iter().zip(number as i64..).all(|(&id, row)| id == row);
        if !as_numbered || has_own_ids {
            self.claim(&mut known, &assigned, ids.is_some())?;
        }

        let segment = segment((!as_numbered).then(|| Column::Owned(assigned.clone())));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Arc::make_mut(&mut current);
        match snapshot.segments.last_mut() {
            _ if count == 0 => {}
            Some(last) if last.bytes() + segment.bytes() <= SEGMENT_BYTES => {
                let first = number - last.count;
                Arc::make_mut(last).append(&segment, first, number);
            }
            last => {
                if let Some(last) = last {
                    *last = Arc::new(last.sealed());
                }
                snapshot.segments.push(Arc::new(segment));
            }
        }
        snapshot.count += count;
        snapshot.added += count as u64;
        Ok(assigned)
    }

    /// Enter `ids` into the set of all ids, or name the first that is there already.
    fn claim(&self, known: &mut MutexGuard<'_, Option<HashSet<i64>>>, ids: &[i64], own: bool) -> Result<(), Error> {
        let known = known.get_or_insert_with(|| self.snapshot().ids().collect());
        let mut fresh = HashSet::with_capacity(ids.len());
        for (at, &id) in ids.iter().enumerate() {
            if known.contains(&id) {
                return Err(Error::Value(if own {
                    format!("ids[{at}] = {id} is already in the index")
                } else {
                    format!("the default id {id} is already in the index: pass ids for these vectors")
                }));
            }
            if !fresh.insert(id) {
                let first = ids.iter().position(|&other| other == id).unwrap_or(at);
                return Err(Error::Value(format!("ids must be unique: ids[{first}] and ids[{at}] are both {id}")));
            }
        }
        known.extend(fresh);
        Ok(())
    }

    /// The best rows by cosine, every row compared.
    pub fn search_cosine(&self, queries: &[i8], options: Options<'_>, watch: Watch<'_>) -> Result<Found, Error> {
        let snapshot = self.snapshot();
        let parts = snapshot.parts(|segment| segment.rows.values());
        let scan = Scan::<Dot> {
            isa: Dot::isa(),
            width: self.dims,
            queries,
            parts: &parts,
            mask: checked_mask(options.mask, snapshot.count)?,
            threads: options.threads,
        };
        scan.top_k::<Closest>(options.k, watch)
    }

    /// The best rows by Hamming distance of bits, every row compared.
    pub fn search_binary(&self, queries: &[u8], options: Options<'_>, watch: Watch<'_>) -> Result<Found, Error> {
        let snapshot = self.snapshot();
        let parts = snapshot.parts(|segment| segment.bits.values());
        let scan = Scan::<Hamming> {
            isa: Hamming::isa(),
            width: self.dims.div_ceil(8),
            queries,
            parts: &parts,
            mask: checked_mask(options.mask, snapshot.count)?,
            threads: options.threads,
        };
        scan.top_k::<Nearest>(options.k, watch)
    }
}

/// The mask, if it has one entry a row of the snapshot at hand.
fn checked_mask(mask: Option<&[u8]>, count: usize) -> Result<Option<&[u8]>, Error> {
    match mask {
        Some(mask) if mask.len() != count => {
            Err(Error::Value(format!("mask must have one entry a row: shape ({count},), got ({},)", mask.len())))
        }
        mask => Ok(mask),
    }
}

/// The bits of int8 vectors: 1 where the value is not negative, least significant first, each vector filled up with
/// zero bits to whole bytes.
pub fn signs(rows: &[i8], dims: usize) -> Vec<u8> {
    let mut bits = Vec::with_capacity(rows.len() / dims * dims.div_ceil(8));
    for row in rows.chunks_exact(dims) {
        let (eights, tail) = row.as_chunks::<8>();
        bits.extend(eights.iter().map(|eight| {
            let negative = u64::from_le_bytes(eight.map(i8::cast_unsigned));
            // The sign of byte i, bit 8 i + 7, is shifted by 49 - 7 i to bit 56 + i, and no two meet on the way.
            ((!negative & 0x8080_8080_8080_8080).wrapping_mul(0x0002_0408_1020_4081) >> 56) as u8
        }));
        if !tail.is_empty() {
            bits.push(tail.iter().enumerate().fold(0, |byte, (bit, &value)| byte | u8::from(value >= 0) << bit));
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    const ALL: Options<'static> = Options { k: 1000, mask: None, threads: None };

    fn ids(index: &Index, query: &[i8]) -> Vec<i64> {
        let found = index.search_cosine(query, ALL, &mut || Ok(())).expect("nothing stops it");
        let mut ids: Vec<i64> = found.candidates.iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_bit_is_one_where_the_value_is_not_negative() {
        let mut random = Random(41);
        for dims in 1..=70 {
            let rows = random.int8(3 * dims);
            let bits = signs(&rows, dims);
            for (row, bits) in rows.chunks_exact(dims).zip(bits.chunks_exact(dims.div_ceil(8))) {
                for (at, &value) in row.iter().enumerate() {
                    assert_eq!(bits[at / 8] >> (at % 8) & 1 == 1, value >= 0);
                }
            }
        }
        assert_eq!(signs(&[0, -1, 127, -128, 0, -1, -1, -1, -1], 9), [0b0001_0101, 0]);
    }

    #[test]
    fn own_ids_and_default_ids_mix_until_they_meet() {
        let index = Index::new(Kind::Int8, 2);
        assert_eq!(index.add_int8(&[1; 4], None).expect("free"), [0, 1]);
        assert_eq!(index.add_int8(&[1; 4], Some(&[-5, 5])).expect("free"), [-5, 5]);
        assert_eq!(index.add_int8(&[1; 2], None).expect("free"), [4]);
        let refused = index.add_int8(&[1; 4], None).expect_err("the default id 5 was given before");
        assert!(refused.to_string().contains("default id 5"), "{refused}");
        let refused = index.add_int8(&[1; 4], Some(&[9, 1])).expect_err("1 is a default id");
        assert!(refused.to_string().contains("ids[1] = 1 "), "{refused}");
        let refused = index.add_int8(&[1; 6], Some(&[9, 8, 9])).expect_err("twice");
        assert!(refused.to_string().contains("ids[0] and ids[2] are both 9"), "{refused}");
        assert_eq!(index.count(), 5, "a refused addition leaves nothing behind");
        assert_eq!(index.add_int8(&[1; 4], Some(&[9, 8])).expect("free"), [9, 8]);
        assert_eq!(ids(&index, &[1, 1]), [-5, 0, 1, 4, 5, 8, 9]);
    }

    #[test]
    fn a_snapshot_does_not_see_later_additions() {
        let index = Index::new(Kind::Int8, 2);
        index.add_int8(&[1; 4], None).expect("free");
        let before = index.snapshot();
        index.add_int8(&[1; 4], None).expect("free");
        assert_eq!((before.count, before.segments[0].count), (2, 2));
        assert_eq!(index.count(), 4);
        assert_eq!(index.snapshot().segments.len(), 1, "a small addition joins the last segment");
    }
}
