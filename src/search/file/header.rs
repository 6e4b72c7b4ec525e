//! The header of an index file: the numbers that describe the rest.

use crate::search::index::{Calibration, Kind};

/// Bytes of the header.
pub const HEADER: usize = 256;
/// Sections and the end of the file are at multiples of it.
pub(super) const ALIGN: usize = 64;
/// Most bytes of the name of a space.
pub const MAX_SPACE: usize = 4096;

const MAGIC: &[u8; 8] = b"CTXEMIDX";
/// The version of an index without a calibration and a space.
const PLAIN: u32 = 1;
/// The version of an index with a calibration and without a space.
const CALIBRATED: u32 = 2;
/// The newest version, of an index with a space.
const NEWEST: u32 = 3;
const SECTIONS: usize = 4;
/// The offset of the calibration in the header.
const CALIBRATION: usize = 184;
/// The offset of the space in the header.
const SPACE: usize = 208;

/// An entry of the section table; `length` excludes the padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) tag: u32,
    pub(super) crc: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The first bytes of a file, without the name of the space.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) dims: u64,
    pub(super) rows: u64,
    pub(super) added: u64,
    pub(super) calibration: Option<Calibration>,
    /// Bytes of the name of the space, or 0, and its checksum.
    pub(super) space: (u64, u32),
    pub(super) sections: Vec<Section>,
}

impl Header {
    /// The header of an index, with the offset and length of each section; checksums are filled in later.
    pub(super) fn lay_out(kind: Kind, dims: u64, rows: u64, added: u64, ids: bool, space: u64) -> Option<Self> {
        let (int8, bits) = (kind == Kind::Int8, dims.div_ceil(8));
        let a_row = [(1, dims, int8), (2, bits, true), (3, 4, int8), (4, 8, ids)];
        let (mut sections, mut offset) =
            (vec![], (HEADER as u64).checked_add(space)?.checked_next_multiple_of(ALIGN as u64)?);
        for (tag, bytes, present) in a_row {
            if present {
                let length = rows.checked_mul(bytes)?;
                sections.push(Section { tag, crc: 0, offset, length });
                offset = offset.checked_add(length)?.checked_next_multiple_of(ALIGN as u64)?;
            }
        }
        Some(Self { kind, dims, rows, added, calibration: None, space: (space, 0), sections })
    }

    pub(super) fn file_length(&self) -> u64 {
        self.sections.last().map_or(HEADER as u64, |last| (last.offset + last.length).next_multiple_of(ALIGN as u64))
    }

    fn version(&self) -> u32 {
        match (self.space.0, self.calibration) {
            (0, None) => PLAIN,
            (0, Some(_)) => CALIBRATED,
            _ => NEWEST,
        }
    }

    pub(super) fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version().to_le_bytes());
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
        if let Some(Calibration { oversample, k, recall }) = self.calibration {
            bytes.resize(CALIBRATION, 0);
            for number in [oversample, k, recall.to_bits()] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.resize(SPACE, 0);
        bytes.extend_from_slice(&self.space.0.to_le_bytes());
        bytes.extend_from_slice(&self.space.1.to_le_bytes());
        bytes.resize(HEADER - 4, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().unwrap_or([0; HEADER])
    }

    /// Parse the header of a file of `length` bytes; the error completes "PATH ...". The sections of a valid header
    /// lie in the file and have the lengths that its dimensions and rows imply.
    pub(super) fn parse(bytes: &[u8], length: u64) -> Result<Self, String> {
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
        if version > NEWEST {
            return Err(format!("was written by a newer version: its format is {version}, known up to {NEWEST}"));
        }
        let (found, expected) = (crc32fast::hash(&bytes[..HEADER - 4]), u32_at(HEADER - 4));
        if found != expected {
            return Err(format!("is damaged: the header's checksum is {found:08x}, it should be {expected:08x}"));
        }
        let kind = match (version, u32_at(12)) {
            (PLAIN..=NEWEST, 1) => Kind::Int8,
            (PLAIN..=NEWEST, 2) => Kind::Binary,
            (version, kind) => return Err(format!("has an unknown format: version {version}, kind {kind}")),
        };
        let (dims, rows, added) = (u64_at(16), u64_at(24), u64_at(32));
        let valid = usize::try_from(dims).map_err(|_| "are too many".to_owned()).and_then(|dims| kind.check_dims(dims));
        valid.map_err(|what| format!("is damaged: dimensions {what}, got {dims}"))?;
        if added < rows || i64::try_from(added).is_err() {
            return Err(format!("is damaged: {rows} rows of {added} ever added"));
        }
        let space = u64_at(SPACE);
        if space > MAX_SPACE as u64 || (space == 0) == (version == NEWEST) {
            return Err(format!("is damaged: the name of its space has {space} bytes"));
        }
        let expected = |ids| Self::lay_out(kind, dims, rows, added, ids, space);
        let count = u64_at(48);
        let ids = expected(true).is_some_and(|with_ids| with_ids.sections.len() as u64 == count);
        let mut header = expected(ids).ok_or_else(|| format!("is damaged: {rows} rows of {dims} dimensions"))?;
        header.space.1 = if space == 0 { 0 } else { u32_at(SPACE + 8) };
        let is_calibrated = version == NEWEST && bytes[CALIBRATION..SPACE].iter().any(|&byte| byte != 0);
        if version == CALIBRATED || is_calibrated {
            let (oversample, k) = (u64_at(CALIBRATION), u64_at(CALIBRATION + 8));
            let recall = f64::from_bits(u64_at(CALIBRATION + 16));
            if oversample == 0 || k == 0 || !(0.0..=1.0).contains(&recall) {
                return Err(format!("is damaged: oversample {oversample} for k = {k} and recall {recall}"));
            }
            header.calibration = Some(Calibration { oversample, k, recall });
        }
        for (at, section) in header.sections.iter_mut().enumerate() {
            section.crc = u32_at(60 + 32 * at);
        }
        // One comparison covers the whole section table, its zeros included.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Header, String> {
        Header::parse(&bytes[..bytes.len().min(HEADER)], bytes.len() as u64)
    }

    #[test]
    fn a_header_survives_a_round_trip() {
        for kind in [Kind::Int8, Kind::Binary] {
            for (ids, space) in [(false, 0), (true, 0), (false, 1), (true, 130)] {
                let header = Header::lay_out(kind, 24, 1000, 1001, ids, space).expect("small");
                let mut file = header.to_bytes().to_vec();
                file.resize(header.file_length() as usize, 0);
                assert_eq!(parse(&file), Ok(header));
            }
        }
    }

    #[test]
    fn a_calibration_makes_a_header_of_version_2() {
        let mut header = Header::lay_out(Kind::Int8, 24, 1000, 1001, true, 0).expect("small");
        assert_eq!(header.to_bytes()[8], 1);
        header.calibration = Some(Calibration { oversample: 12, k: 10, recall: 0.995 });
        let mut file = header.to_bytes().to_vec();
        assert_eq!(file[8], 2);
        file.resize(header.file_length() as usize, 0);
        assert_eq!(parse(&file), Ok(header.clone()));
        for (oversample, k, recall) in [(0, 10, 0.5), (1, 0, 0.5), (1, 1, -0.5), (1, 1, 1.5), (1, 1, f64::NAN)] {
            header.calibration = Some(Calibration { oversample, k, recall });
            file[..HEADER].copy_from_slice(&header.to_bytes());
            let refused = parse(&file).expect_err("an invalid calibration");
            assert!(refused.starts_with("is damaged: oversample"), "{refused}");
        }
    }

    #[test]
    fn a_space_makes_a_header_of_version_3_calibrated_or_not() {
        for calibration in [None, Some(Calibration { oversample: 12, k: 10, recall: 0.995 })] {
            let mut header = Header::lay_out(Kind::Binary, 24, 1000, 1001, true, 17).expect("small");
            header.calibration = calibration;
            header.space.1 = 0x1234_5678;
            let mut file = header.to_bytes().to_vec();
            assert_eq!((file[8], header.sections[0].offset), (3, 320));
            file.resize(header.file_length() as usize, 0);
            assert_eq!(parse(&file), Ok(header));
        }
    }

    #[test]
    fn an_inconsistent_header_with_a_valid_checksum_is_refused() {
        for (space, at) in [0, 17].into_iter().flat_map(|space| (8..HEADER - 4).map(move |at| (space, at))) {
            let header = Header::lay_out(Kind::Int8, 24, 1000, 1000, true, space).expect("small");
            let mut file = header.to_bytes().to_vec();
            file.resize(header.file_length() as usize, 0);
            for change in [1, 0x80] {
                // Section checksums are checked with their sections, and the name of the space with its own.
                let of_space = space > 0 && (at == SPACE && change == 1 || (SPACE + 8..SPACE + 12).contains(&at));
                if of_space || (56..184).contains(&at) && (4..8).contains(&((at - 56) % 32)) {
                    continue;
                }
                let mut file = file.clone();
                file[at] ^= change;
                let crc = crc32fast::hash(&file[..HEADER - 4]);
                file[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
                // After removals, more rows were added than there are.
                let added = u64::from_le_bytes(*file[32..].first_chunk().expect("a header"));
                let allowed = (32..40).contains(&at) && (1000..1 << 63).contains(&added);
                assert_eq!(parse(&file).is_ok(), allowed, "byte {at} changed by {change}");
            }
        }
    }
}
