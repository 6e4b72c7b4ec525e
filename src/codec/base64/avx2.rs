//! AVX2: 32 characters to 24 bytes a step, with shuffles as look-up tables.
//!
//! After Muła and Lemire, "Faster Base64 encoding and decoding using AVX2 instructions", ACM Transactions on the Web
//! 12(3), 2018.
#![expect(unsafe_code, reason = "raw loads and stores; each names the slice length that guards it")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::kernel::{Kernel, Task};
use super::scalar;

const CHARS: usize = 32;
const BYTES: usize = 24;

/// Proof that the CPU has AVX2: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Avx2(());

impl Kernel for Avx2 {
    #[inline(always)]
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
        // SAFETY: a value of this type exists, so the CPU has the feature.
        let (read, written) = unsafe { decode_prefix(text, out) };
        scalar::decode_well_formed(&text[read..], &mut out[written..])
    }
}

/// See [`super::run`].
#[target_feature(enable = "avx2")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

/// Decode whole blocks while they are valid: (characters read, bytes written).
#[inline]
#[target_feature(enable = "avx2")]
fn decode_prefix(text: &[u8], out: &mut [MaybeUninit<u8>]) -> (usize, usize) {
    // A character is valid where the two look-ups share no bit. By high nibble: 0x01 for 2, 0x02 for 3, 0x04 for 4
    // and 6, 0x08 for 5 and 7, 0x10 for the others, bytes >= 0x80 among them. By low nibble: the bits of the high
    // nibbles that it makes no valid character with; 0x10 always.
    let by_low = _mm256_setr_epi8(
        0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1A, 0x1B, 0x1B, 0x1B, 0x1A, //
        0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1A, 0x1B, 0x1B, 0x1B, 0x1A,
    );
    let by_high = _mm256_setr_epi8(
        0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, //
        0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
    );
    // What to add to a character of each high nibble; '/' shares its nibble with '+', and uses entry 1.
    let shift = _mm256_setr_epi8(
        0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0, //
        0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0,
    );
    // Each 32-bit lane `z y x 0` to `x y z`, twelve bytes a 128-bit half; then the halves are joined.
    let gather = _mm256_setr_epi8(
        2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1, //
        2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1,
    );
    let join = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
    let nibble = _mm256_set1_epi8(0x0F);

    let mut blocks = 0;
    for block in text.as_chunks::<CHARS>().0 {
        // A store is a whole register; the next block overwrites the last eight bytes of it.
        if out.len() - blocks * BYTES < CHARS {
            break;
        }
        // SAFETY: `block` is 32 bytes.
        let chars = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
        let high = _mm256_and_si256(_mm256_srli_epi32(chars, 4), nibble);
        let low = _mm256_and_si256(chars, nibble);
        let common = _mm256_and_si256(_mm256_shuffle_epi8(by_low, low), _mm256_shuffle_epi8(by_high, high));
        if _mm256_testz_si256(common, common) == 0 {
            break;
        }
        let slash = _mm256_cmpeq_epi8(chars, _mm256_set1_epi8(b'/'.cast_signed()));
        let values = _mm256_add_epi8(chars, _mm256_shuffle_epi8(shift, _mm256_add_epi8(high, slash)));
        // a * 64 + b in 16 bits (<= 4095), then ab * 4096 + cd in 32 bits (<= 2^24 - 1).
        let pairs = _mm256_maddubs_epi16(values, _mm256_set1_epi32(0x0140_0140));
        let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x0001_1000));
        let bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(quads, gather), join);
        // SAFETY: at least 32 bytes of `out` are left, by the check above.
        unsafe { _mm256_storeu_si256(out[blocks * BYTES..].as_mut_ptr().cast(), bytes) };
        blocks += 1;
    }
    (blocks * CHARS, blocks * BYTES)
}

/// Append the encoding of whole blocks of `bytes` and return how many bytes were read.
#[target_feature(enable = "avx2")]
pub(super) fn encode_prefix(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    // 32-bit lane `i` of each half gets bytes `3i + 1, 3i, 3i + 2, 3i + 1` of that half's twelve.
    let spread = _mm256_setr_epi8(
        1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10, //
        1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10,
    );
    // What to add to a value by its class: 0..25, 26..51, ten digits, '+', '/'.
    let shift = _mm256_setr_epi8(
        71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0, //
        71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0,
    );
    let mut blocks = 0;
    out.reserve(bytes.len().div_ceil(3) * 4);
    // The second half's load reaches 4 bytes past the block.
    while bytes.len() >= blocks * BYTES + 28 {
        let block = &bytes[blocks * BYTES..blocks * BYTES + 28];
        // SAFETY: `block` is 28 bytes: the loads read its bytes 0..16 and 12..28.
        let halves = unsafe {
            _mm256_set_m128i(
                _mm_loadu_si128(block[12..].as_ptr().cast()), //
                _mm_loadu_si128(block.as_ptr().cast()),
            )
        };
        let lanes = _mm256_shuffle_epi8(halves, spread);
        // Lane `y x z y` (little endian): fields a and c by a multiply that shifts right, b and d by one that
        // shifts left.
        let ac =
            _mm256_mulhi_epu16(_mm256_and_si256(lanes, _mm256_set1_epi32(0x0FC0_FC00)), _mm256_set1_epi32(0x0400_0040));
        let bd =
            _mm256_mullo_epi16(_mm256_and_si256(lanes, _mm256_set1_epi32(0x003F_03F0)), _mm256_set1_epi32(0x0100_0010));
        let values = _mm256_or_si256(ac, bd);
        // Class: 0 for 26..51, 1..12 for 52..63, 13 for 0..25; table entry 0 serves 26..51.
        let class = _mm256_subs_epu8(values, _mm256_set1_epi8(51));
        let upper = _mm256_and_si256(
            _mm256_cmpgt_epi8(_mm256_set1_epi8(26), values), //
            _mm256_set1_epi8(13),
        );
        let text = _mm256_add_epi8(values, _mm256_shuffle_epi8(shift, _mm256_or_si256(class, upper)));
        let mut buffer = [0_u8; CHARS];
        // SAFETY: `buffer` is 32 bytes.
        unsafe { _mm256_storeu_si256(buffer.as_mut_ptr().cast(), text) };
        out.extend_from_slice(&buffer);
        blocks += 1;
    }
    blocks * BYTES
}
