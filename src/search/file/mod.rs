//! An index on disk.
//!
//! All numbers are little-endian. A file is a header of 256 bytes, the name of the vector space if it is known, and two
//! to four sections. Each section starts at a multiple of 64 bytes; it, the name and the end of the file are padded with
//! zeros to such a multiple.
//!
//! | bytes | header |
//! |---|---|
//! | 0..8 | `CTXEMIDX` |
//! | 8..12 | format version: 3 with a space, else 2 with a calibration, else 1 |
//! | 12..16 | kind: 1 int8, 2 binary |
//! | 16..24 | dimensions |
//! | 24..32 | rows |
//! | 32..40 | rows ever added, which is the next default id |
//! | 40..48 | length of the file in bytes |
//! | 48..52 | number of sections |
//! | 52..56 | 0 |
//! | 56..184 | for each of four sections: tag (4), CRC-32 (4), offset (8), length (8), 0 (8) |
//! | 184..192 | from version 2, with a calibration: the oversample of a calibration, at least 1; else 0 |
//! | 192..200 | from version 2, with a calibration: its rows per query, at least 1; else 0 |
//! | 200..208 | from version 2, with a calibration: the recall it reached, f64 from 0 to 1; else 0 |
//! | 208..216 | version 3: bytes of the space's name, UTF-8, 1 to 4096, which stands behind the header; else 0 |
//! | 216..220 | version 3: CRC-32 of that name and the zeros after it; else 0 |
//! | 220..252 | 0 |
//! | 252..256 | CRC-32 of the 252 bytes before |
//!
//! | tag | section | bytes per row |
//! |---|---|---|
//! | 1 | vectors, int8 (kind 1 only) | dimensions |
//! | 2 | bits, least significant first | dimensions / 8, rounded up |
//! | 3 | squared norms, u32 (kind 1 only) | 4 |
//! | 4 | ids, i64; absent if they are the row numbers | 8 |
//!
//! Sections are in the order of their tags. A section's CRC-32 (IEEE 802.3) covers its padding too, so every byte of a
//! file is checked.
//!
//! [`save`] writes a temporary file beside the target, flushes it to the disk and renames it. The target is always the
//! old file or the new one, and a process that has the old one mapped keeps it. On Linux the temporary file has no name
//! until it is complete, if the file system supports that, so a killed process leaves nothing behind.

mod header;
mod segments;
mod write;

use std::collections::TryReserveError;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use self::header::{ALIGN, Header, Section};
use super::column::{Column, Mapped, Memory, Plain};
use super::index::{Calibration, Index, Kind};
use super::segment::{Segment, SegmentIds, Snapshot};
use super::threads::InterruptCheck;
use crate::error::Error;

pub use self::header::{HEADER, MAX_SPACE};
pub use self::segments::open_segments;
pub use self::write::{save, seal};

/// Bytes that are written or verified between two interrupt checks.
const STEP: usize = 8 << 20;

/// Read an index.
///
/// `verify` compares all checksums, which reads the whole file. The header and the file's length are always checked, so
/// no file can make a search read outside it. Damage in an unverified section changes results only.
pub fn open(path: &Path, verify: bool, check: InterruptCheck<'_>) -> Result<Index, Error> {
    Ok(load(path, None, verify, check, |file| Ok(Source::File(file)))?.into_index())
}

/// As [`open`], but map the file. Searches then read its pages as they need them.
///
/// # Safety
/// The file is not changed in place while the index lives. If it is truncated, reading the lost part ends the process
/// (SIGBUS); if it is overwritten, results mix both contents. Replacing the file by a rename, as [`save`] does, is safe.
#[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
pub unsafe fn open_mapped(path: &Path, verify: bool, check: InterruptCheck<'_>) -> Result<Index, Error> {
    // SAFETY: the caller vouches that the file does not change.
    Ok(unsafe { load_mapped(path, None, verify, check) }?.into_index())
}

/// The contents of an index file. Ids that are the row numbers begin with 0.
struct Loaded {
    kind: Kind,
    dims: usize,
    snapshot: Snapshot,
    calibration: Option<Calibration>,
    space: Option<String>,
}

impl Loaded {
    fn into_index(self) -> Index {
        Index::from_snapshot(self.kind, self.dims, self.snapshot, self.calibration, self.space)
    }
}

/// Map a file.
///
/// # Safety
/// As for [`open_mapped`], while a segment of the snapshot lives.
#[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
unsafe fn load_mapped(
    path: &Path,
    expected: Option<&[u8; HEADER]>,
    verify: bool,
    check: InterruptCheck<'_>,
) -> Result<Loaded, Error> {
    load(path, expected, verify, check, |file| {
        // SAFETY: the map is private to this process and only read. Its bytes are numbers for which every pattern is a
        // value, and no length or offset comes from it: the header was read with `read`. That the file does not change
        // cannot be checked; the caller vouches for it.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Source::Map(Arc::new(Memory::File(map))))
    })
}

/// Read or map a file, which must begin with the bytes `expected`, if they are given.
fn load(
    path: &Path,
    expected: Option<&[u8; HEADER]>,
    verify: bool,
    check: InterruptCheck<'_>,
    source: impl FnOnce(File) -> io::Result<Source>,
) -> Result<Loaded, Error> {
    let failed = |error| Error::Io(error, format!("cannot open the index {}", path.display()));
    let refused = |what: String| Error::IndexFile(format!("{} {what}", path.display()));
    let (mut file, metadata) = open_regular(path, failed)?;
    let mut start = Vec::with_capacity(HEADER);
    (&mut file).take(HEADER as u64).read_to_end(&mut start).map_err(failed)?;
    // A file that ends within its header is reported as truncated.
    if expected.is_some_and(|expected| !expected.starts_with(&start)) {
        return Err(refused("is not the file that was expected: its header is another one".to_owned()));
    }
    let header = Header::parse(&start, metadata.len()).map_err(refused)?;
    let space = read_space(&mut file, &header).map_err(failed)?.map_err(refused)?;

    let mut source = source(file).map_err(failed)?;
    let section = |tag: u32| header.sections.iter().find(|section| section.tag == tag).copied();
    let mut loader = Loader { source: &mut source, verify, check };
    let snapshot = (|| {
        let count = header.rows as usize;
        let (rows, bits, norms) = (loader.column(section(1))?, loader.column(section(2))?, loader.column(section(3))?);
        let ids = match section(4) {
            Some(ids) => SegmentIds::Listed(loader.column(Some(ids))?),
            None => SegmentIds::Consecutive(0),
        };
        let custom_ids = matches!(ids, SegmentIds::Listed(_));
        let whole = Segment::new(count, rows, bits, norms, ids);
        let mut segments = vec![];
        let step = Segment::max_rows(whole.bytes().checked_div(count).unwrap_or(1));
        if (1..=step).contains(&count) {
            segments.push(Arc::new(whole));
        } else {
            for start in (0..count).step_by(step) {
                segments.push(Arc::new(whole.slice(start..count.min(start + step))?));
            }
        }
        Ok(Snapshot { segments, count, added: header.added, custom_ids })
    })()
    .map_err(|error| match error {
        OpenError::Damaged(what) => refused(what),
        OpenError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            refused("is truncated: it became shorter while it was read".to_owned())
        }
        OpenError::Io(error) => failed(error),
        OpenError::Other(error) => error,
    })?;
    Ok(Loaded { kind: header.kind, dims: header.dims as usize, snapshot, calibration: header.calibration, space })
}

/// The name of the space, which stands behind the header. It is always checked.
fn read_space(file: &mut File, header: &Header) -> io::Result<Result<Option<String>, String>> {
    let (length, crc) = (header.space.0 as usize, header.space.1);
    if length == 0 {
        return Ok(Ok(None));
    }
    let mut name = vec![0; length.next_multiple_of(ALIGN)];
    file.read_exact(&mut name)?;
    let found = crc32fast::hash(&name);
    if found != crc {
        let what = format!("is damaged: the checksum of its space is {found:08x}, it should be {crc:08x}");
        return Ok(Err(what));
    }
    if name[length - 1] == 0 || name[length..].iter().any(|&byte| byte != 0) {
        return Ok(Err(format!("is damaged: the name of its space has not {length} bytes")));
    }
    name.truncate(length);
    Ok(String::from_utf8(name).map(Some).map_err(|_| "is damaged: the name of its space is no text".to_owned()))
}

#[cfg(unix)]
fn describe(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn describe(kind: fs::FileType) -> &'static str {
    if kind.is_dir() { "a directory" } else { "a device" }
}

/// Open a regular file for reading, and return its metadata too.
fn open_regular(path: &Path, failed: impl Fn(io::Error) -> Error) -> Result<(File, Metadata), Error> {
    let regular = |metadata: Metadata| match metadata.file_type() {
        kind if kind.is_file() => Ok(metadata),
        kind => Err(Error::IndexFile(format!("{} is not a regular file: it is {}", path.display(), describe(kind)))),
    };
    // Checked before too: to open a device can have effects, and a socket cannot be opened.
    regular(fs::metadata(path).map_err(&failed)?)?;
    let file = open_without_waiting(path).map_err(&failed)?;
    let metadata = regular(file.metadata().map_err(&failed)?)?;
    Ok((file, metadata))
}

/// Open for reading. A named pipe is opened without a writer, for which the system would wait.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    options.open(path)
}

enum Source {
    Map(Arc<Memory>),
    File(File),
}

enum OpenError {
    Damaged(String),
    Io(io::Error),
    Other(Error),
}

impl From<TryReserveError> for OpenError {
    fn from(error: TryReserveError) -> Self {
        Self::Other(error.into())
    }
}

struct Loader<'a, 'b> {
    source: &'a mut Source,
    verify: bool,
    check: InterruptCheck<'b>,
}

impl Loader<'_, '_> {
    /// The column of a section, empty if the section is absent.
    fn column<T: Plain>(&mut self, section: Option<Section>) -> Result<Column<T>, OpenError> {
        let Some(section) = section else {
            return Ok(Column::Owned(vec![]));
        };
        let too_large = || OpenError::Damaged(format!("is too large for this machine: section {}", section.tag));
        let start = usize::try_from(section.offset).map_err(|_| too_large())?;
        let length = usize::try_from(section.length).map_err(|_| too_large())?;
        let padded = length.next_multiple_of(ALIGN);
        let mut crc = crc32fast::Hasher::new();
        let column = match self.source {
            Source::Map(map) => {
                let bytes =
                    map.get(start..start + padded).ok_or_else(|| OpenError::Io(io::ErrorKind::UnexpectedEof.into()))?;
                if self.verify {
                    for step in bytes.chunks(STEP) {
                        crc.update(step);
                        (self.check)().map_err(OpenError::Other)?;
                    }
                }
                Column::Mapped(Mapped::new(map, Range { start, end: start + length }).ok_or_else(too_large)?)
            }
            Source::File(file) => {
                file.seek(SeekFrom::Start(section.offset)).map_err(OpenError::Io)?;
                let mut read = |step: &mut [u8]| {
                    file.read_exact(step).map_err(OpenError::Io)?;
                    if self.verify {
                        crc.update(step);
                    }
                    (self.check)().map_err(OpenError::Other)
                };
                let column =
                    Column::filled(length / size_of::<T>(), |bytes| bytes.chunks_mut(STEP).try_for_each(&mut read))?;
                read(&mut [0; ALIGN][..padded - length])?;
                column
            }
        };
        let found = crc.finalize();
        if self.verify && found != section.crc {
            return Err(OpenError::Damaged(format!(
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
    use crate::search::index::{Calibration, Kind};
    use crate::similarity::testing::Random;

    fn sample(kind: Kind, ids: bool) -> Index {
        let mut random = Random(51);
        let index = Index::new(kind, 24, ids.then(|| "a space".to_owned()));
        let own = [7, -3, 1 << 40];
        match kind {
            Kind::Int8 => index.add_int8(&random.int8(72), ids.then_some(&own)),
            Kind::Binary => index.add_binary(&random.bytes(9), ids.then_some(&own)),
        }
        .expect("unused ids");
        index
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
    fn every_changed_byte_and_every_truncation_is_detected() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("index");
        for (kind, calibrated) in [(Kind::Int8, false), (Kind::Int8, true), (Kind::Binary, false), (Kind::Binary, true)]
        {
            let index = sample(kind, true);
            if calibrated {
                index.set_calibration(Calibration { oversample: 12, k: 10, recall: 0.995 });
            }
            save(&index, &path, &mut || Ok(())).expect("space for a small file");
            let whole = fs::read(&path).expect("just written");
            for mmap in [false, true] {
                drop(read(&path, mmap, true).expect("undamaged"));
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
