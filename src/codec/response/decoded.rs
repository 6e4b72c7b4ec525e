//! The result of decoding a response.

/// The `usage` of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// `usage.prompt_tokens`.
    pub prompt_tokens: Option<i64>,
    /// `usage.total_tokens`.
    pub total_tokens: Option<i64>,
    /// `usage.cost.total_cost` as spelled, so that no digit is lost.
    pub total_cost: Option<String>,
    /// `usage.cost.currency`.
    pub currency: Option<String>,
}

/// A decoded response, its rows excepted: those are in the caller's [`Rows`](super::Rows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Document `i` owns rows `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// Bytes of one vector; None where the response has none.
    pub row_bytes: Option<usize>,
    /// `model`.
    pub model: Option<String>,
    /// `usage`, where there is one.
    pub usage: Option<Usage>,
}

impl Decoded {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.last().map_or(0, |&last| last as usize)
    }
}
