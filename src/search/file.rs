//! An index on disk.
//!
//! All numbers are little-endian. A file is a header of 256 bytes and two to four sections, each at the next multiple
//! of 64 bytes, the gaps and the end filled with zeros up to such a multiple:
//!
//! | bytes | header |
//! |---|---|
//! | 0..8 | `CTXEMIDX` |
//! | 8..12 | format version: 2 where the index is calibrated, else 1 |
//! | 12..16 | kind: 1 int8, 2 binary |
//! | 16..24 | dimensions |
//! | 24..32 | rows |
//! | 32..40 | rows ever added, where default ids go on |
//! | 40..48 | length of the file in bytes |
//! | 48..52 | number of sections |
//! | 52..56 | 0 |
//! | 56..184 | for each of four sections: tag (4), CRC-32 (4), offset (8), length (8), 0 (8) |
//! | 184..192 | version 2: the oversample of a calibration, at least 1; else 0 |
//! | 192..200 | version 2: its rows a query, at least 1; else 0 |
//! | 200..208 | version 2: the recall it reached, f64 from 0 to 1; else 0 |
//! | 208..252 | 0 |
//! | 252..256 | CRC-32 of the 252 bytes before |
//!
//! | tag | section | of a row |
//! |---|---|---|
//! | 1 | vectors, int8 (kind 1 only) | dimensions |
//! | 2 | bits, least significant first | dimensions / 8, rounded up |
//! | 3 | squared norms, u32 (kind 1 only) | 4 |
//! | 4 | ids, i64; absent where they are the rows' numbers | 8 |
//!
//! Sections come in the order of their tags. A section's CRC-32 (IEEE 802.3) covers its zeros too, so that every byte
//! of a file is checked.
//!
//! [`save`] writes a temporary file beside the target, flushes it to the disk and renames it: whatever happens, the
//! target is the old file or the new one, and a process that has the old one mapped keeps it. On Linux the temporary
//! file has no name until it is whole, where the file system can do that, so that a process that is killed leaves
//! nothing behind.

use std::collections::TryReserveError;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::column::{self, Column, Mapped, Memory, Plain};
use super::index::{Calibrated, Index, Kind};
use super::scan::{Ids, Watch};
use super::segment::{OwnIds, Segment, Snapshot};
use super::temporary::Temporary;
use crate::error::Error;

const MAGIC: &[u8; 8] = b"CTXEMIDX";
/// The version that says no more than what version 1 could say, and the newest.
const PLAIN: u32 = 1;
const VERSION: u32 = 2;
const HEADER: usize = 256;
const ALIGN: usize = 64;
const SECTIONS: usize = 4;
/// Where the header has what a calibration found.
const CALIBRATED: usize = 184;
/// Bytes that are written or checked between two looks at the watch.
const STEP: usize = 8 << 20;

/// Offset, length without fill-up, and checksum of a section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Section {
    tag: u32,
    crc: u32,
    offset: u64,
    length: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Header {
    kind: Kind,
    dims: u64,
    rows: u64,
    added: u64,
    calibrated: Option<Calibrated>,
    sections: Vec<Section>,
}

impl Header {
    /// A header whose sections lie where a file of this index has them; checksums are still to come.
    fn lay_out(kind: Kind, dims: u64, rows: u64, added: u64, ids: bool) -> Option<Self> {
        let (int8, bits) = (kind == Kind::Int8, dims.div_ceil(8));
        let a_row = [(1, dims, int8), (2, bits, true), (3, 4, int8), (4, 8, ids)];
        let (mut sections, mut offset) = (vec![], HEADER as u64);
        for (tag, bytes, present) in a_row {
            if present {
                let length = rows.checked_mul(bytes)?;
                sections.push(Section { tag, crc: 0, offset, length });
                offset = offset.checked_add(length)?.checked_next_multiple_of(ALIGN as u64)?;
            }
        }
        Some(Self { kind, dims, rows, added, calibrated: None, sections })
    }

    fn file_length(&self) -> u64 {
        self.sections.last().map_or(HEADER as u64, |last| (last.offset + last.length).next_multiple_of(ALIGN as u64))
    }

    fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        let version = if self.calibrated.is_some() { VERSION } else { PLAIN };
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.kind == Kind::Binary).wrapping_add(1).to_le_bytes());
        for number in [self.dims, self.rows, self.added, self.file_length()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.sections.len() as u64).to_le_bytes());
        for section in &self.sections {
            bytes.extend_from_slice(&section.tag.to_le_bytes());
            bytes.extend_from_slice(&section.crc.to_le_bytes());
            bytes.extend_from_slice(&section.offset.to_le_bytes());
            bytes.extend_from_slice(&section.length.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
        }
        if let Some(Calibrated { oversample, k, recall }) = self.calibrated {
            bytes.resize(CALIBRATED, 0);
            for number in [oversample, k, recall.to_bits()] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.resize(HEADER - 4, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().unwrap_or([0; HEADER])
    }

    /// The header of a file of `length` bytes, or what is wrong with it. A header that passes describes sections that
    /// lie in the file and are as long as its numbers say.
    fn parse(bytes: &[u8], length: u64) -> Result<Self, String> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if bytes.is_empty() || !MAGIC.starts_with(magic) {
            return Err(format!("is not an index: it starts with {magic:02x?}, not with \"CTXEMIDX\""));
        }
        let Ok(bytes) = <&[u8; HEADER]>::try_from(bytes) else {
            return Err(format!("is truncated: {length} bytes, and the header alone has {HEADER}"));
        };
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let version = u32_at(8);
        if version > VERSION {
            return Err(format!("was written by a newer version: its format is {version}, known up to {VERSION}"));
        }
        let (found, expected) = (crc32fast::hash(&bytes[..HEADER - 4]), u32_at(HEADER - 4));
        if found != expected {
            return Err(format!("is damaged: the header's checksum is {found:08x}, it should be {expected:08x}"));
        }
        let kind = match (version, u32_at(12)) {
            (PLAIN..=VERSION, 1) => Kind::Int8,
            (PLAIN..=VERSION, 2) => Kind::Binary,
            (version, kind) => return Err(format!("has an unknown format: version {version}, kind {kind}")),
        };
        let (dims, rows, added) = (u64_at(16), u64_at(24), u64_at(32));
        let valid = usize::try_from(dims).map_err(|_| format!("{dims}")).and_then(|dims| kind.check_dims(dims));
        valid.map_err(|what| format!("is damaged: dimensions {what}"))?;
        if added < rows || i64::try_from(added).is_err() {
            return Err(format!("is damaged: {rows} rows of {added} ever added"));
        }
        let expected = |ids| Self::lay_out(kind, dims, rows, added, ids);
        let count = u64_at(48);
        let ids = expected(true).is_some_and(|with_ids| with_ids.sections.len() as u64 == count);
        let mut header = expected(ids).ok_or_else(|| format!("is damaged: {rows} rows of {dims} dimensions"))?;
        if version == VERSION {
            let (oversample, k) = (u64_at(CALIBRATED), u64_at(CALIBRATED + 8));
            let recall = f64::from_bits(u64_at(CALIBRATED + 16));
            if oversample == 0 || k == 0 || !(0.0..=1.0).contains(&recall) {
                return Err(format!("is damaged: oversample {oversample} for k = {k} and recall {recall}"));
            }
            header.calibrated = Some(Calibrated { oversample, k, recall });
        }
        for (at, section) in header.sections.iter_mut().enumerate() {
            section.crc = u32_at(60 + 32 * at);
        }
        // One comparison for everything the header says of its sections, zeros included.
        if header.sections.len() > SECTIONS || header.to_bytes() != *bytes {
            return Err("is damaged: the header's section table does not fit its numbers".to_owned());
        }
        if header.file_length() != length {
            let what = if length < header.file_length() { "is truncated" } else { "has excess bytes" };
            return Err(format!("{what}: {length} bytes, and the header says {}", header.file_length()));
        }
        Ok(header)
    }
}

/// Write an index, replacing what is at `path`.
pub fn save(index: &Index, path: &Path, watch: Watch<'_>) -> Result<(), Error> {
    let failed = |error| Error::Io(error, format!("cannot save the index to {}", path.display()));
    let snapshot = index.snapshot();
    // A link stays a link: what it points to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let existing = fs::metadata(&target).ok();
    // A directory the system refuses to replace itself, and with its own error.
    if let Some(other) = existing.as_ref().map(fs::Metadata::file_type).filter(|kind| !kind.is_file() && !kind.is_dir())
    {
        return Err(failed(io::Error::other(format!("it is {}, which would be replaced", kind_named(other)))));
    }
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    let mut temporary = Temporary::create(directory).map_err(failed)?;
    if let Some(existing) = existing {
        temporary.file().set_permissions(existing.permissions()).map_err(failed)?;
    }
    write(index, &snapshot, temporary.file(), watch).map_err(|stopped| match stopped {
        Stopped::Io(error) => failed(error),
        Stopped::Watch(error) => error,
    })?;
    temporary.file().sync_all().map_err(failed)?;
    temporary.rename(directory, &target).map_err(failed)?;
    // The rename itself reaches the disk with its directory.
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(())
}

#[cfg(unix)]
fn kind_named(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn kind_named(_kind: fs::FileType) -> &'static str {
    "no regular file"
}

enum Stopped {
    Io(io::Error),
    Watch(Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn write(index: &Index, snapshot: &Snapshot, file: &mut File, watch: Watch<'_>) -> Result<(), Stopped> {
    let mut next = 0;
    let numbered = snapshot.segments.iter().all(|segment| {
        let first = next;
        next += segment.count as i64;
        matches!(segment.ids(), Ids::From(id) if id == first)
    });
    let header = Header::lay_out(index.kind(), index.dims() as u64, snapshot.count as u64, snapshot.added, !numbered);
    let mut header = header.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    header.calibrated = index.calibrated();
    file.write_all(&[0; HEADER])?;
    for section in &mut header.sections {
        let mut crc = crc32fast::Hasher::new();
        for segment in &snapshot.segments {
            let numbers: Vec<i64>;
            let bytes = match (section.tag, segment.ids()) {
                (1, _) => column::bytes(segment.rows.values()),
                (2, _) => segment.bits.values(),
                (3, _) => column::bytes(segment.norms.values()),
                (_, Ids::Own(ids)) => column::bytes(ids),
                (_, Ids::From(first)) => {
                    numbers = (first..).take(segment.count).collect();
                    column::bytes(&numbers)
                }
            };
            for step in bytes.chunks(STEP) {
                crc.update(step);
                file.write_all(step)?;
                watch().map_err(Stopped::Watch)?;
            }
        }
        let zeros = &[0; ALIGN][..(section.length.next_multiple_of(ALIGN as u64) - section.length) as usize];
        crc.update(zeros);
        file.write_all(zeros)?;
        section.crc = crc.finalize();
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header.to_bytes())?;
    Ok(())
}

/// Read an index.
///
/// `verify` compares all checksums, which reads the whole file. The header, and that the file is exactly as long as
/// it says, are always checked, so that no file can make a search read outside it; damage in an unverified section
/// changes results only.
pub fn open(path: &Path, verify: bool, watch: Watch<'_>) -> Result<Index, Error> {
    load(path, verify, watch, |file| Ok(Source::File(file)))
}

/// As [`open`], but map the file, whose pages are then read as searches need them.
///
/// # Safety
/// The file is not changed in place while the index lives. One that is made shorter ends the process (SIGBUS) when its
/// lost part is read; one that is overwritten gives results of mixed contents. Replacing the file by a rename, as
/// [`save`] does, is safe.
#[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
pub unsafe fn open_mapped(path: &Path, verify: bool, watch: Watch<'_>) -> Result<Index, Error> {
    load(path, verify, watch, |file| {
        // SAFETY: the map is private to this process and only read; its bytes are numbers for which every pattern is a
        // value, and no length or offset is read from it after the header, which was read with `read`. That the file
        // does not change underneath cannot be checked, and the caller vouches for it.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Source::Map(Arc::new(Memory::File(map))))
    })
}

fn load(
    path: &Path,
    verify: bool,
    watch: Watch<'_>,
    source: impl FnOnce(File) -> io::Result<Source>,
) -> Result<Index, Error> {
    let failed = |error| Error::Io(error, format!("cannot open the index {}", path.display()));
    let refused = |what: String| Error::IndexFile(format!("{} {what}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused("is not a regular file".to_owned()));
    }
    let mut start = Vec::with_capacity(HEADER);
    (&mut file).take(HEADER as u64).read_to_end(&mut start).map_err(failed)?;
    let header = Header::parse(&start, metadata.len()).map_err(refused)?;

    let mut source = source(file).map_err(failed)?;
    let section = |tag: u32| header.sections.iter().find(|section| section.tag == tag).copied();
    let mut load = Load { source: &mut source, verify, watch };
    let snapshot = (|| {
        let count = header.rows as usize;
        let (rows, bits, norms) = (load.column(section(1))?, load.column(section(2))?, load.column(section(3))?);
        let ids = match section(4) {
            Some(ids) => OwnIds::Own(load.column(Some(ids))?),
            None => OwnIds::From(0),
        };
        let own_ids = matches!(ids, OwnIds::Own(_));
        let whole = Segment::new(count, rows, bits, norms, ids);
        let mut segments = vec![];
        let step = Segment::rows_at_most(whole.bytes().checked_div(count).unwrap_or(1));
        if (1..=step).contains(&count) {
            segments.push(Arc::new(whole));
        } else {
            for start in (0..count).step_by(step) {
                segments.push(Arc::new(whole.slice(start..count.min(start + step))?));
            }
        }
        Ok(Snapshot { segments, count, added: header.added, own_ids })
    })()
    .map_err(|stopped| match stopped {
        Refused::Damaged(what) => refused(what),
        Refused::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            refused("is truncated: it became shorter while it was read".to_owned())
        }
        Refused::Io(error) => failed(error),
        Refused::Watch(error) => error,
    })?;
    Ok(Index::from_snapshot(header.kind, header.dims as usize, snapshot, header.calibrated))
}

enum Source {
    Map(Arc<Memory>),
    File(File),
}

enum Refused {
    Damaged(String),
    Io(io::Error),
    Watch(Error),
}

impl From<TryReserveError> for Refused {
    fn from(error: TryReserveError) -> Self {
        Self::Watch(error.into())
    }
}

struct Load<'a, 'b> {
    source: &'a mut Source,
    verify: bool,
    watch: Watch<'b>,
}

impl Load<'_, '_> {
    /// The column of a section, empty where there is none.
    fn column<T: Plain>(&mut self, section: Option<Section>) -> Result<Column<T>, Refused> {
        let Some(section) = section else {
            return Ok(Column::Owned(vec![]));
        };
        let out_of_reach = || Refused::Damaged(format!("is too large for this machine: section {}", section.tag));
        let start = usize::try_from(section.offset).map_err(|_| out_of_reach())?;
        let length = usize::try_from(section.length).map_err(|_| out_of_reach())?;
        let filled = length.next_multiple_of(ALIGN);
        let mut crc = crc32fast::Hasher::new();
        let column = match self.source {
            Source::Map(map) => {
                let bytes =
                    map.get(start..start + filled).ok_or_else(|| Refused::Io(io::ErrorKind::UnexpectedEof.into()))?;
                if self.verify {
                    for step in bytes.chunks(STEP) {
                        crc.update(step);
                        (self.watch)().map_err(Refused::Watch)?;
                    }
                }
                Column::Mapped(Mapped::new(map, Range { start, end: start + length }).ok_or_else(out_of_reach)?)
            }
            Source::File(file) => {
                file.seek(SeekFrom::Start(section.offset)).map_err(Refused::Io)?;
                let mut read = |step: &mut [u8]| {
                    file.read_exact(step).map_err(Refused::Io)?;
                    if self.verify {
                        crc.update(step);
                    }
                    (self.watch)().map_err(Refused::Watch)
                };
                let column =
                    Column::filled(length / size_of::<T>(), |bytes| bytes.chunks_mut(STEP).try_for_each(&mut read))?;
                read(&mut [0; ALIGN][..filled - length])?;
                column
            }
        };
        let found = crc.finalize();
        if self.verify && found != section.crc {
            return Err(Refused::Damaged(format!(
                "is damaged: the checksum of section {} is {found:08x}, it should be {:08x}",
                section.tag, section.crc
            )));
        }
        Ok(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    fn sample(kind: Kind, ids: bool) -> Index {
        let mut random = Random(51);
        let index = Index::new(kind, 24);
        let own = [7, -3, 1 << 40];
        match kind {
            Kind::Int8 => index.add_int8(&random.int8(72), ids.then_some(&own)),
            Kind::Binary => index.add_binary(&random.bytes(9), ids.then_some(&own)),
        }
        .expect("free ids");
        index
    }

    fn parse(bytes: &[u8]) -> Result<Header, String> {
        Header::parse(&bytes[..bytes.len().min(HEADER)], bytes.len() as u64)
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        for kind in [Kind::Int8, Kind::Binary] {
            for ids in [false, true] {
                let header = Header::lay_out(kind, 24, 1000, 1001, ids).expect("small");
                let mut file = header.to_bytes().to_vec();
                file.resize(header.file_length() as usize, 0);
                assert_eq!(parse(&file), Ok(header));
            }
        }
    }

    #[test]
    fn a_calibration_makes_a_header_of_version_2() {
        let mut header = Header::lay_out(Kind::Int8, 24, 1000, 1001, true).expect("small");
        assert_eq!(header.to_bytes()[8], 1);
        header.calibrated = Some(Calibrated { oversample: 12, k: 10, recall: 0.995 });
        let mut file = header.to_bytes().to_vec();
        assert_eq!(file[8], 2);
        file.resize(header.file_length() as usize, 0);
        assert_eq!(parse(&file), Ok(header.clone()));
        for (oversample, k, recall) in [(0, 10, 0.5), (1, 0, 0.5), (1, 1, -0.5), (1, 1, 1.5), (1, 1, f64::NAN)] {
            header.calibrated = Some(Calibrated { oversample, k, recall });
            file[..HEADER].copy_from_slice(&header.to_bytes());
            let refused = parse(&file).expect_err("no calibration gives this");
            assert!(refused.starts_with("is damaged: oversample"), "{refused}");
        }
    }

    #[test]
    fn a_header_that_lies_with_a_right_checksum_is_refused() {
        let header = Header::lay_out(Kind::Int8, 24, 1000, 1000, true).expect("small");
        let mut file = header.to_bytes().to_vec();
        file.resize(header.file_length() as usize, 0);
        for at in 8..HEADER - 4 {
            for change in [1, 0x80] {
                // The checksums of sections are theirs to check.
                if (56..184).contains(&at) && (4..8).contains(&((at - 56) % 32)) {
                    continue;
                }
                let mut file = file.clone();
                file[at] ^= change;
                let crc = crc32fast::hash(&file[..HEADER - 4]);
                file[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
                // More rows ever added than there are rows is what a removal leaves behind.
                let added = u64::from_le_bytes(*file[32..].first_chunk().expect("a header"));
                let allowed = (32..40).contains(&at) && (1000..1 << 63).contains(&added);
                assert_eq!(parse(&file).is_ok(), allowed, "byte {at} changed by {change}");
            }
        }
    }

    #[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
    fn read(path: &Path, mmap: bool, verify: bool) -> Result<Index, Error> {
        if mmap {
            // SAFETY: the index that is returned is dropped before the test writes to the file again.
            unsafe { open_mapped(path, verify, &mut || Ok(())) }
        } else {
            open(path, verify, &mut || Ok(()))
        }
    }

    #[test]
    fn every_changed_byte_is_found_and_every_cut() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("index");
        for (kind, calibrated) in [(Kind::Int8, false), (Kind::Int8, true), (Kind::Binary, false), (Kind::Binary, true)]
        {
            let index = sample(kind, true);
            if calibrated {
                index.set_calibrated(Calibrated { oversample: 12, k: 10, recall: 0.995 });
            }
            save(&index, &path, &mut || Ok(())).expect("space for a small file");
            let whole = fs::read(&path).expect("just written");
            for mmap in [false, true] {
                drop(read(&path, mmap, true).expect("whole"));
                for at in 0..whole.len() {
                    let mut bytes = whole.clone();
                    bytes[at] ^= 0x10;
                    fs::write(&path, &bytes).expect("space");
                    let result = read(&path, mmap, true);
                    assert!(matches!(result, Err(Error::IndexFile(_))), "byte {at}: {result:?}");
                    fs::write(&path, &whole[..at]).expect("space");
                    let result = read(&path, mmap, false);
                    assert!(matches!(result, Err(Error::IndexFile(_))), "cut at {at}: {result:?}");
                }
                fs::write(&path, &whole).expect("space");
            }
        }
    }
}
