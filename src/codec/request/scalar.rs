//! The portable path. The compiler vectorises loops without a branch.

use super::kernel::{BLOCK, Found, Kernel};

/// A word of eight bytes with 1 in each, and with all bits but the high one in each.
const ONES: u64 = 0x0101_0101_0101_0101;
const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;

/// The path that every CPU has.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn find(self, block: &[u8; BLOCK]) -> Found {
        Found {
            // Few blocks have any.
            escapes: if any(block, needs_escape) { escapes(block) } else { 0 },
            less_than: any(block, |byte| byte == b'<'),
            non_ascii: any(block, |byte| byte >= 0x80),
        }
    }
}

#[inline(always)]
fn any(block: &[u8; BLOCK], test: impl Fn(u8) -> bool) -> bool {
    block.iter().fold(0, |found, &byte| found | u8::from(test(byte))) != 0
}

#[inline(always)]
#[expect(clippy::needless_bitwise_bool, reason = "the compiler vectorises it without a branch")]
fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn escapes(block: &[u8; BLOCK]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    words.iter().rev().fold(0, |bits, &word| bits << 8 | escapes_in(u64::from_le_bytes(word)))
}

/// A bit for each byte of a word, in memory order, that needs an escape.
fn escapes_in(word: u64) -> u64 {
    // The high bit of each byte that is zero. Nothing is carried from byte to byte: 0x7F + 0x7F is below 0x100.
    let zeros = |word: u64| !(((word & LOW) + LOW) | word | LOW);
    // A quote is 0x22, a backslash 0x5C; below 0x20 the three high bits are zero.
    let found = zeros(word ^ (ONES * 0x22)) | zeros(word ^ (ONES * 0x5C)) | zeros(word & (ONES * 0xE0));
    // The bit of byte i, at 8i after the shift, is moved to 56 + i by one term of the product; no two terms meet.
    ((found >> 7).wrapping_mul(0x0102_0408_1020_4080)) >> 56
}
