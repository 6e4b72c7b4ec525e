//! Writing index files. Rows in memory and rows in a file give the same bytes.

use std::collections::TryReserveError;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::header::{ALIGN, HEADER, Header};
use super::{STEP, describe, open_regular};
use crate::error::Error;
use crate::memory::filled;
use crate::search::column;
use crate::search::index::{Calibration, Index, Kind};
use crate::search::rows::Ids;
use crate::search::segment::write_bits_and_norms;
use crate::search::temporary::TemporaryFile;
use crate::search::threads::InterruptCheck;

/// Symbolic links that are followed, as many as Linux does.
const MAX_LINKS: usize = 40;
/// Bytes of rows that [`seal`] reads at a time: few enough to stay in the second cache until they are copied.
const SEAL_STEP: usize = 256 << 10;
/// Writes end at multiples of this place in the file. Linux keeps what one write covers in pages as large, if the file
/// system can, and maps pages of this size as one: a scan of a mapped file then waits for fewer translations of addresses.
const PAGE: usize = 2 << 20;

/// Write an index to `path`, replacing an existing file.
pub fn save(index: &Index, path: &Path, check: InterruptCheck<'_>) -> Result<(), Error> {
    let snapshot = index.snapshot();
    let mut next = 0;
    let numbered = snapshot.segments.iter().all(|segment| {
        let first = next;
        next += segment.count as i64;
        matches!(segment.ids(), Ids::Consecutive(id) if id == first)
    });
    let contents = Contents {
        kind: index.kind(),
        dims: index.dims() as u64,
        rows: snapshot.count as u64,
        added: snapshot.added,
        ids: !numbered,
        calibration: index.calibration(),
        space: index.space(),
    };
    replace(path, |file| {
        write(file, contents, check, |tag, section| {
            for segment in &snapshot.segments {
                match (tag, segment.ids()) {
                    (1, _) => section.write(column::bytes(segment.rows.values()))?,
                    (2, _) => section.write(segment.bits.values())?,
                    (3, _) => section.write(column::bytes(segment.norms.values()))?,
                    (_, Ids::Listed(ids)) => section.write(column::bytes(ids))?,
                    (_, Ids::Consecutive(first)) => {
                        let mut numbers = vec![];
                        numbers.try_reserve_exact(segment.count)?;
                        numbers.extend((first..).take(segment.count));
                        section.write(column::bytes(&numbers))?;
                    }
                }
            }
            Ok(())
        })
    })?;
    Ok(())
}

/// Write the first `rows` rows of the file `source` to `target` as an index file, and return its header.
///
/// The file is the one that [`save`] writes for an index to which these rows were added. The rows are read in steps, so
/// that memory holds only their bits and norms. Excess bytes of `source` are ignored. `dims` must have passed
/// [`Kind::check_dims`].
pub fn seal(
    kind: Kind,
    dims: usize,
    space: Option<String>,
    source: &Path,
    rows: usize,
    target: &Path,
    check: InterruptCheck<'_>,
) -> Result<[u8; HEADER], Error> {
    let bit_bytes = dims.div_ceil(8);
    let width = if kind == Kind::Int8 { dims } else { bit_bytes };
    let mut reader = RowsReader::open(source, (rows as u64).saturating_mul(width as u64))?;
    let (step, derived) = ((SEAL_STEP / width).max(1), if kind == Kind::Int8 { rows } else { 0 });
    let (mut bits, mut norms) = (filled(0_u8, derived * bit_bytes)?, filled(0_u32, derived)?);
    let mut buffer = filled(0_i8, step.min(rows) * width)?;
    let (dims_stored, count) = (dims as u64, rows as u64);
    let contents =
        Contents { kind, dims: dims_stored, rows: count, added: count, ids: false, calibration: None, space };
    replace(target, |file| {
        write(file, contents, check, |tag, section| match (tag, kind) {
            (1, _) | (2, Kind::Binary) => {
                for start in (0..rows).step_by(step) {
                    let count = step.min(rows - start);
                    let rows = &mut buffer[..count * width];
                    reader.read(column::bytes_mut(rows))?;
                    if kind == Kind::Int8 {
                        let bits = &mut bits[start * bit_bytes..][..count * bit_bytes];
                        write_bits_and_norms(rows, dims, bits, &mut norms[start..][..count]);
                    }
                    section.write(column::bytes(rows))?;
                }
                Ok(())
            }
            (2, Kind::Int8) => section.write(&bits),
            _ => section.write(column::bytes(&norms)),
        })
    })
}

/// The rows of a file, read in order.
struct RowsReader<'a> {
    file: File,
    path: &'a Path,
    /// Bytes of all rows, and of those that were read.
    expected: u64,
    read: u64,
}

impl<'a> RowsReader<'a> {
    fn open(path: &'a Path, expected: u64) -> Result<Self, Error> {
        let failed = |error| Error::Io(error, format!("cannot read the rows in {}", path.display()));
        let (file, metadata) = open_regular(path, failed)?;
        let reader = Self { file, path, expected, read: 0 };
        if metadata.len() < expected { Err(reader.too_short(metadata.len())) } else { Ok(reader) }
    }

    /// Fill `bytes` with the next ones.
    fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.file.read(bytes) {
                Ok(0) => return Err(self.too_short(self.read)),
                Ok(count) => {
                    self.read += count as u64;
                    bytes = &mut bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Io(error, format!("cannot read the rows in {}", self.path.display()))),
            }
        }
        Ok(())
    }

    fn too_short(&self, found: u64) -> Error {
        let (path, expected) = (self.path.display(), self.expected);
        Error::IndexFile(format!("{path} is too short: its rows should have {expected} bytes, and it has {found}"))
    }
}

/// Write a file that replaces `path` once it is complete.
fn replace<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T, SaveError>) -> Result<T, Error> {
    let failed = |error| Error::Io(error, format!("cannot save the index to {}", path.display()));
    let (target, existing) = target_of(path).map_err(failed)?;
    // The system itself refuses to replace a directory.
    if let Some(other) = existing.as_ref().map(fs::Metadata::file_type).filter(|kind| !kind.is_file() && !kind.is_dir())
    {
        return Err(failed(io::Error::other(format!("it is {}, which would be replaced", describe(other)))));
    }
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    let mut temporary = TemporaryFile::create(directory).map_err(failed)?;
    if let Some(existing) = existing {
        temporary.file().set_permissions(existing.permissions()).map_err(failed)?;
    }
    let written = write(temporary.file()).map_err(|error| match error {
        SaveError::Io(error) => failed(error),
        SaveError::Other(error) => error,
    })?;
    temporary.file().sync_all().map_err(failed)?;
    temporary.rename(directory, &target).map_err(failed)?;
    // The rename is on disk once its directory is.
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(written)
}

/// The file that `path` names, and its metadata if it exists. A symbolic link is kept: it names the file that it leads
/// to, which need not exist yet.
fn target_of(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    let mut target = path.to_owned();
    match fs::metadata(path) {
        Ok(existing) => return Ok((fs::canonicalize(path)?, Some(existing))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The system has followed the links to a missing end, so they form no loop unless one was changed since.
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&target) else { return Ok((target, None)) };
        // Relative to the directory of the link. An absolute path replaces it.
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    Err(io::Error::other("it leads through too many symbolic links"))
}

enum SaveError {
    Io(io::Error),
    Other(Error),
}

impl From<TryReserveError> for SaveError {
    fn from(error: TryReserveError) -> Self {
        Self::Other(error.into())
    }
}

impl From<Error> for SaveError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<io::Error> for SaveError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a file holds beside the bytes of its sections.
struct Contents {
    kind: Kind,
    dims: u64,
    rows: u64,
    added: u64,
    /// Whether there is a section of ids.
    ids: bool,
    calibration: Option<Calibration>,
    space: Option<String>,
}

/// Write a whole index file and return its header. `fill` is called with the tag of each section in turn, and writes
/// its bytes without the zeros after them.
fn write(
    file: &mut File,
    contents: Contents,
    check: InterruptCheck<'_>,
    mut fill: impl FnMut(u32, &mut SectionWriter<'_, '_>) -> Result<(), SaveError>,
) -> Result<[u8; HEADER], SaveError> {
    let Contents { kind, dims, rows, added, ids, calibration, space } = contents;
    let space = space.unwrap_or_default();
    let header = Header::lay_out(kind, dims, rows, added, ids, space.len() as u64);
    let mut header = header.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    header.calibration = calibration;
    let mut pages = PageWriter::new(&mut *file)?;
    pages.write(&[0; HEADER])?;
    if !space.is_empty() {
        let mut name = space.into_bytes();
        name.resize(name.len().next_multiple_of(ALIGN), 0);
        header.space.1 = crc32fast::hash(&name);
        pages.write(&name)?;
    }
    for section in &mut header.sections {
        let mut writer = SectionWriter { pages: &mut pages, crc: crc32fast::Hasher::new(), check: &mut *check };
        fill(section.tag, &mut writer)?;
        writer.write(&[0; ALIGN][..(section.length.next_multiple_of(ALIGN as u64) - section.length) as usize])?;
        section.crc = writer.crc.finalize();
    }
    pages.finish()?;
    let header = header.to_bytes();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    Ok(header)
}

/// Writes a file from its start, whole pages at once.
struct PageWriter<'a> {
    file: &'a mut File,
    /// The beginning of a page.
    pending: Vec<u8>,
}

impl<'a> PageWriter<'a> {
    fn new(file: &'a mut File) -> Result<Self, TryReserveError> {
        let mut pending = vec![];
        pending.try_reserve_exact(PAGE)?;
        Ok(Self { file, pending })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.pending.is_empty() {
            let (start, rest) = bytes.split_at(bytes.len().min(PAGE - self.pending.len()));
            self.pending.extend_from_slice(start);
            bytes = rest;
            if self.pending.len() < PAGE {
                return Ok(());
            }
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        let (whole, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
        self.file.write_all(whole)?;
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        self.file.write_all(&self.pending)
    }
}

/// Writes the bytes of one section and computes their checksum.
struct SectionWriter<'a, 'b> {
    pages: &'a mut PageWriter<'b>,
    crc: crc32fast::Hasher,
    check: InterruptCheck<'a>,
}

impl SectionWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        for step in bytes.chunks(STEP) {
            self.crc.update(step);
            self.pages.write(step)?;
            (self.check)()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_was_written_in_any_pieces() {
        let path = std::env::temp_dir().join(format!("ctxembed-pages-{}", std::process::id()));
        let all: Vec<u8> = (0..3 * PAGE + 12_345).map(|i| ((i * 167) >> 4) as u8).collect();
        let mut file = File::create(&path).expect("a file");
        let mut pages = PageWriter::new(&mut file).expect("memory");
        let mut rest = &all[..];
        for size in [0, 1, PAGE - 1, 4096, PAGE + 7, 0, 100].into_iter().chain(std::iter::repeat(64 << 10)) {
            let (start, after) = rest.split_at(size.min(rest.len()));
            pages.write(start).expect("room on the disk");
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        pages.finish().expect("room on the disk");
        assert!(fs::read(&path).expect("the file") == all);
        fs::remove_file(&path).expect("the file");
    }
}
