//! Response bodies to matrices, the bit functions around them, and documents to request bodies.

pub mod base64;
pub mod bits;
pub mod json;
mod multiversion;
pub mod request;
pub mod response;
pub mod vectors;

/// How a response encodes its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `base64_int8`: one signed byte a dimension.
    Int8,
    /// `base64_binary`: one bit a dimension, least significant bit first.
    Binary,
}

impl Encoding {
    /// Bytes of one vector.
    pub fn row_bytes(self, dimensions: usize) -> usize {
        match self {
            Self::Int8 => dimensions,
            Self::Binary => dimensions / 8,
        }
    }

    /// Dimensions of a vector of `bytes`.
    pub fn dimensions(self, bytes: usize) -> usize {
        match self {
            Self::Int8 => bytes,
            Self::Binary => bytes * 8,
        }
    }
}
