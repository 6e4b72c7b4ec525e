//! AMX: a distance as a product. With `s` the query's bits as +1 for 0 and -1 for 1, and `r` the row's bits, the sum of
//! `s * r` counts the bits that only the row has, less those that both have. The query's own bits make it the distance.

use std::collections::TryReserveError;

use crate::similarity::bit_tiles;
use crate::similarity::tiles::Tiles;

/// The lowest bit of each byte.
const LOWEST: u32 = 0x0101_0101;

/// Queries of `width` bytes each.
pub(super) fn pack_queries(queries: &[u8], width: usize) -> Result<Tiles, TryReserveError> {
    let signs = |query: &[u8], word: usize, plane: usize| {
        let bytes = query.get(4 * word..).unwrap_or_default();
        let mut four = [0; 4];
        four.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = byte);
        // 1 becomes 1 ^ 254, which is -1.
        LOWEST ^ ((u32::from_le_bytes(four) >> plane & LOWEST) * 254)
    };
    let bits = |query: &[u8]| query.iter().map(|byte| byte.count_ones().cast_signed()).sum();
    bit_tiles::pack_queries(queries, (width, 1), signs, bits)
}
