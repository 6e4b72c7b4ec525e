//! Errors as data: the kind, the place, and what was expected.

use std::fmt;

/// The kind of fault in a response body or a base64 string.
///
/// The names are stable: Python sees them as `DecodeError.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeKind {
    /// The body is not JSON (RFC 8259), or not UTF-8.
    Json,
    /// The body ends before the value does.
    Truncated,
    /// Bytes other than white space follow the value.
    TrailingBytes,
    /// Arrays or objects are nested deeper than the limit.
    TooDeep,
    /// Valid JSON, but not the response's structure: a wrong type, a missing or repeated key.
    Structure,
    /// An `index` that is negative, fractional, repeated, missing or beyond the request.
    Index,
    /// The number of documents or chunks is not the request's.
    Shape,
    /// A vector with another number of bytes than `dimensions` and the encoding require.
    Length,
    /// A byte outside the base64 alphabet (RFC 4648, section 4).
    Base64Byte,
    /// Missing, misplaced or excess padding.
    Base64Padding,
    /// Bits after the last byte that are not zero: a second spelling of the same value.
    Base64TrailingBits,
}

impl DecodeKind {
    /// The stable name, as Python sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing_bytes",
            Self::TooDeep => "too_deep",
            Self::Structure => "structure",
            Self::Index => "index",
            Self::Shape => "shape",
            Self::Length => "length",
            Self::Base64Byte => "base64_byte",
            Self::Base64Padding => "base64_padding",
            Self::Base64TrailingBits => "base64_trailing_bits",
        }
    }
}

/// A fault in a body or string, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Its kind.
    pub kind: DecodeKind,
    /// Bytes into the body (or into the string, for a lone base64 string).
    pub offset: usize,
    /// Index of the document, where known.
    pub document: Option<usize>,
    /// Index of the chunk within the document, or of the string in a list, where known.
    pub chunk: Option<usize>,
    /// What was found, and what was expected.
    pub message: String,
}

impl DecodeError {
    /// An error at `offset`, without a document or chunk.
    pub fn new(kind: DecodeKind, offset: usize, message: impl Into<String>) -> Self {
        Self { kind, offset, document: None, chunk: None, message: message.into() }
    }

    /// The same error with a document and chunk, where it has none.
    #[must_use]
    pub fn at(mut self, document: Option<usize>, chunk: Option<usize>) -> Self {
        self.document = self.document.or(document);
        self.chunk = self.chunk.or(chunk);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {}", self.message, self.offset)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(chunk) = self.chunk {
            write!(f, ", chunk {chunk}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for DecodeError {}

/// Any error of the core.
#[derive(Debug)]
pub enum Error {
    /// A body or string that cannot be decoded.
    Decode(DecodeError),
    /// An argument out of its range; the message names it, its value and what was expected.
    Value(String),
    /// A file that is not an index, is damaged, or was written by a newer version.
    IndexFile(String),
    /// An error of the operating system; the message names the path.
    Io(std::io::Error, String),
    /// An allocation that failed; the message says of how much, or for what.
    Memory(String),
    /// The caller's check for interrupts (Ctrl-C) ended the work.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::Value(message) | Self::IndexFile(message) | Self::Memory(message) => f.write_str(message),
            Self::Io(error, context) => write!(f, "{context}: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<std::collections::TryReserveError> for Error {
    fn from(error: std::collections::TryReserveError) -> Self {
        Self::Memory(error.to_string())
    }
}
