//! Several mapped files as one index.

use std::path::PathBuf;
use std::sync::Arc;

use super::{HEADER, load_mapped};
use crate::error::Error;
use crate::search::index::{Calibration, Index, Kind};
use crate::search::segment::{SegmentIds, Snapshot};
use crate::search::threads::InterruptCheck;

/// Map files as one index. Their rows are numbered over all files, and the numbers are the ids. Each file begins with
/// the header beside its path, if there is one, and holds vectors of these `dims` and this `space`, without ids.
///
/// # Safety
/// As for [`super::open_mapped`], for each of the files.
#[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
pub unsafe fn open_segments(
    kind: Kind,
    dims: usize,
    files: &[(PathBuf, Option<[u8; HEADER]>)],
    space: Option<String>,
    calibration: Option<Calibration>,
    check: InterruptCheck<'_>,
) -> Result<Index, Error> {
    let (mut segments, mut count) = (vec![], 0_usize);
    for (path, header) in files {
        let refused = |what: String| Error::IndexFile(format!("{} {what}", path.display()));
        // SAFETY: the caller vouches that the file does not change.
        let file = unsafe { load_mapped(path, header.as_ref(), false, &mut *check) }?;
        if file.kind != kind {
            return Err(refused(format!("holds {}, expected {}", file.kind.describe(), kind.describe())));
        }
        if file.dims != dims {
            return Err(refused(format!("holds vectors of {} dimensions, expected {dims}", file.dims)));
        }
        if file.space != space {
            let [found, expected] = [&file.space, &space].map(|space| match space {
                Some(space) => format!("the space {space:?}"),
                None => "an unknown space".to_owned(),
            });
            return Err(refused(format!("holds vectors of {found}, expected {expected}")));
        }
        if file.snapshot.custom_ids {
            return Err(refused("has a section of ids, expected none: ids are the row numbers".to_owned()));
        }
        let next = count.checked_add(file.snapshot.count).filter(|&next| i64::try_from(next).is_ok());
        let next = next.ok_or_else(|| refused("has too many rows: no row numbers are left".to_owned()))?;
        segments.try_reserve(file.snapshot.segments.len())?;
        for mut segment in file.snapshot.segments {
            // No one else has the segment yet.
            if let Some(segment) = Arc::get_mut(&mut segment)
                && let SegmentIds::Consecutive(first) = &mut segment.ids
            {
                *first += count as i64;
            }
            segments.push(segment);
        }
        count = next;
        check()?;
    }
    let snapshot = Snapshot { segments, count, added: count as u64, custom_ids: false };
    Ok(Index::from_snapshot(kind, dims, snapshot, calibration, space))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::file::save;

    #[test]
    #[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
    fn added_rows_start_a_segment_and_leave_the_mapped_one_shared() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut files = vec![];
        for (number, rows) in [[1_i8; 6], [2; 6]].iter().enumerate() {
            let index = Index::new(Kind::Int8, 2, None);
            index.add_int8(rows, None).expect("unused ids");
            files.push((directory.path().join(number.to_string()), None));
            save(&index, &files[number].0, &mut || Ok(())).expect("space for a small file");
        }
        // SAFETY: the files do not change while the index lives.
        let index = unsafe { open_segments(Kind::Int8, 2, &files, None, None, &mut || Ok(())) }.expect("valid files");
        for id in 6..9 {
            assert_eq!(index.add_int8(&[3; 2], None).expect("unused ids"), [id]);
        }
        let snapshot = index.snapshot();
        assert_eq!(snapshot.segments.iter().map(|segment| segment.count).collect::<Vec<_>>(), [3, 3, 3]);
        assert_eq!([0, 1, 2].map(|number| snapshot.segments[number].is_in_file()), [true, true, false]);
        assert_eq!(snapshot.ids().collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    }
}
