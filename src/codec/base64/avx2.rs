//! AVX2: 32 characters to 24 bytes a step, with shuffles as look-up tables.
//!
//! After Muła and Lemire, "Faster Base64 encoding and decoding using AVX2 instructions", ACM Transactions on the Web
//! 12(3), 2018; values and faults by the hashes that aqrit found, as in simdutf.
#![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

use std::arch::x86_64::*;
use std::array::from_fn;
use std::mem::MaybeUninit;

use super::kernel::{Kernel, Task};
use super::scalar;
use crate::similarity::prefetch_ahead;

const CHARS: usize = 32;
const BYTES: usize = 24;

/// Proof that the CPU has AVX2: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Avx2(());

impl Kernel for Avx2 {
    #[inline(always)]
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
        // SAFETY: a value of this type exists, so the CPU has the feature.
        unsafe { decode_well_formed(text, out) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "avx2")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

/// The same table for both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(table: [u8; 16]) -> __m256i {
    // SAFETY: the table is 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Decode each 32 characters to 24 bytes, the first twelve of each half, and a register with the high bit of each byte set
/// where a character is not in the alphabet.
///
/// Each step is done for all registers before the next. A CPU chooses the unit for an instruction before it knows what
/// follows, and chooses better where equal ones stand together (AMD Zen 4).
#[inline]
#[target_feature(enable = "avx2")]
fn decode<const N: usize>(chars: [__m256i; N]) -> ([__m256i; N], __m256i) {
    // A character's hash is the mean, rounded up, of a number by its low nibble and of its bits from 3 up. The hash gives
    // what to add to the character for its value, another one what makes the sum negative where it has none. The bits of
    // the next character that the shift brings change the high nibble of a hash only, and that is not looked up. A
    // character from 0x80 on finds zero by its low nibble, and a hash of which no entry makes the saturated sum positive.
    let value_hash = twice([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 15, 0, 15]);
    let value = twice([0, 0, 0, 19, 4, 191, 191, 185, 185, 0, 16, 195, 191, 191, 185, 185]);
    let fault_hash = twice([13, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 7, 11, 11, 11, 14]);
    let fault = twice([128, 128, 128, 128, 207, 191, 213, 166, 181, 134, 209, 128, 177, 128, 145, 128]);
    // Each 32-bit lane `z y x 0` to `x y z`, twelve bytes a 128-bit half.
    let gather = twice([2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, 255, 255, 255, 255]);

    let high = chars.map(|chars| _mm256_srli_epi32(chars, 3));
    let values = chars.map(|chars| _mm256_shuffle_epi8(value_hash, chars));
    let faults = chars.map(|chars| _mm256_shuffle_epi8(fault_hash, chars));
    let values: [_; N] = from_fn(|i| _mm256_avg_epu8(values[i], high[i]));
    let faults: [_; N] = from_fn(|i| _mm256_avg_epu8(faults[i], high[i]));
    let values = values.map(|hash| _mm256_shuffle_epi8(value, hash));
    let faults = faults.map(|hash| _mm256_shuffle_epi8(fault, hash));
    let faults: [_; N] = from_fn(|i| _mm256_adds_epi8(chars[i], faults[i]));
    let values: [_; N] = from_fn(|i| _mm256_add_epi8(chars[i], values[i]));
    // a * 64 + b in 16 bits (<= 4095), then ab * 4096 + cd in 32 bits (<= 2^24 - 1).
    let pairs = values.map(|values| _mm256_maddubs_epi16(values, _mm256_set1_epi32(0x0140_0140)));
    let quads = pairs.map(|pairs| _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x0001_1000)));
    let faults = faults.into_iter().fold(_mm256_setzero_si256(), |any, fault| _mm256_or_si256(any, fault));
    (quads.map(|quads| _mm256_shuffle_epi8(quads, gather)), faults)
}

/// Decode two blocks with two stores of 16 bytes each, so that `out` has four bytes more than are decoded. To join the
/// halves and store them once would be one more shuffle, and those are what limits a CPU here.
#[inline]
#[target_feature(enable = "avx2")]
fn decode_two(text: &[u8; 2 * CHARS], out: &mut [MaybeUninit<u8>; 2 * BYTES + 4]) -> __m256i {
    let (first, second) = text.split_at(CHARS);
    // SAFETY: `first` and `second` are 32 bytes each.
    let chars = unsafe { [first, second].map(|block| _mm256_loadu_si256(block.as_ptr().cast())) };
    let (bytes, faults) = decode(chars);
    for (i, bytes) in bytes.into_iter().enumerate() {
        let (low, high) = (i * BYTES, i * BYTES + BYTES / 2);
        let low = out[low..low + 16].as_mut_ptr();
        // SAFETY: the slice that `low` is the start of is 16 bytes.
        unsafe { _mm_storeu_si128(low.cast(), _mm256_castsi256_si128(bytes)) };
        let high = out[high..high + 16].as_mut_ptr();
        // SAFETY: the slice that `high` is the start of is 16 bytes.
        unsafe { _mm_storeu_si128(high.cast(), _mm256_extracti128_si256::<1>(bytes)) };
    }
    faults
}

/// Decode a block and store no more than its bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn decode_exact(text: &[u8; CHARS], out: &mut [MaybeUninit<u8>; BYTES]) -> __m256i {
    // SAFETY: `text` is 32 bytes.
    let ([bytes], faults) = decode([unsafe { _mm256_loadu_si256(text.as_ptr().cast()) }]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
    let (start, end) = out.split_at_mut(16);
    // SAFETY: `start` is 16 bytes and `end` 8.
    unsafe {
        _mm_storeu_si128(start.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes));
        _mm_storel_epi64(end.as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(bytes));
    }
    faults
}

/// See [`super::decode_well_formed`]: all whole quads in blocks, and a partial one by the portable path.
///
/// It is called, since inside of other work its tables would not stay in registers.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn decode_well_formed(text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    /// Blocks that are decoded between checks of the bounds: pairs.
    const GROUP: usize = 4;
    /// Blocks from the one that is decoded to the one whose memory is asked for. CPUs do so by themselves, but stop at the
    /// end of a page and lose their way where a row ends.
    const AHEAD: usize = 48;
    const TRIPLES: usize = BYTES / 3;
    let triples = out.len() / 3;
    // A shorter text would leave bytes of `out` unwritten.
    let Some((quads, last)) = text.split_at_checked(triples * 4) else { return false };
    if triples < TRIPLES {
        return scalar::decode_well_formed(text, out);
    }
    let (whole, rest) = out.split_at_mut(triples * 3);
    if !scalar::decode_last(last, rest) {
        return false;
    }
    let mut faults = _mm256_setzero_si256();
    let mut add = |other| faults = _mm256_or_si256(faults, other);
    // The last store reaches four bytes too far: what follows overwrites them.
    let groups = (whole.len() - 4) / (GROUP * BYTES);
    let mut left = &mut *whole;
    for group in &quads.as_chunks::<{ GROUP * CHARS }>().0[..groups] {
        let Some(target) = left.first_chunk_mut::<{ GROUP * BYTES + 4 }>() else { return false };
        // Two lines of text and two of output, asked for in time.
        for line in [0, 64] {
            prefetch_ahead(group, AHEAD * CHARS + line);
            prefetch_ahead(target, AHEAD * BYTES + line);
        }
        for (i, pair) in group.as_chunks().0.iter().enumerate() {
            let Some(target) = target[i * 2 * BYTES..].first_chunk_mut() else { return false };
            add(decode_two(pair, target));
        }
        left = &mut left[GROUP * BYTES..];
    }
    let mut done = groups * GROUP * TRIPLES;
    while done < triples {
        // The last block ends where the text does, so that some of it may be decoded again.
        let at = done.min(triples - TRIPLES);
        let (Some(block), Some(target)) = (quads[at * 4..].first_chunk(), whole[at * 3..].first_chunk_mut()) else {
            return false;
        };
        add(decode_exact(block, target));
        done = at + TRIPLES;
    }
    _mm256_movemask_epi8(faults) == 0
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
