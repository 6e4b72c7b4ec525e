//! AVX-512 VBMI: a whole register of 64 characters is looked up at once.
//!
//! After Muła and Lemire, "Base64 encoding and decoding at almost the speed of a memory copy", Software: Practice
//! and Experience 50(2), 2020.
#![expect(unsafe_code, reason = "raw loads and stores; each names the slice length that guards it")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::kernel::{Kernel, Task};
use crate::similarity::prefetch_ahead;

/// Characters and bytes of one block.
const CHARS: usize = 64;
const BYTES: usize = 48;
/// Blocks from the one that is decoded to the one whose memory is asked for: see the AVX2 path.
const AHEAD: usize = 24;

/// Six-bit value of each 7-bit character, or 0x80.
static VALUE: [u8; 128] = {
    let mut table = [0x80; 128];
    let mut value = 0;
    while value < 64 {
        table[LETTER[value] as usize] = value as u8;
        value += 1;
    }
    table
};

static LETTER: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// After the multiply-adds each 32-bit lane holds its three bytes as `z y x 0` (little endian); this gathers them as
/// `x y z` of sixteen lanes in a row, which leaves the last sixteen bytes of the register unused.
static GATHER: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < BYTES {
        table[i] = (i / 3 * 4 + 2 - i % 3) as u8;
        i += 1;
    }
    table
};

/// For encoding: 32-bit lane `i` gets bytes `3i + 1, 3i, 3i + 2, 3i + 1` of the input.
static SPREAD: [u8; 64] = {
    let mut table = [0; 64];
    let mut lane = 0;
    while lane < 16 {
        table[lane * 4] = (lane * 3 + 1) as u8;
        table[lane * 4 + 1] = (lane * 3) as u8;
        table[lane * 4 + 2] = (lane * 3 + 2) as u8;
        table[lane * 4 + 3] = (lane * 3 + 1) as u8;
        lane += 1;
    }
    table
};

struct Tables {
    low: __m512i,
    high: __m512i,
    gather: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load() -> Self {
        // SAFETY: VALUE is 128 bytes and GATHER 64: each load reads 64 bytes inside its table.
        unsafe {
            Self {
                low: _mm512_loadu_epi8(VALUE.as_ptr().cast()),
                high: _mm512_loadu_epi8(VALUE[64..].as_ptr().cast()),
                gather: _mm512_loadu_epi8(GATHER.as_ptr().cast()),
            }
        }
    }

    /// 64 characters to 48 bytes (the last 16 lanes are unused), and a vector whose byte has its top bit set where
    /// the character is outside the alphabet.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn decode(&self, chars: __m512i) -> (__m512i, __m512i) {
        // The index uses the low 7 bits of a character; a character >= 0x80 shows its own top bit in the fault.
        let values = _mm512_permutex2var_epi8(self.low, chars, self.high);
        let fault = _mm512_or_si512(values, chars);
        // a * 64 + b in 16 bits (<= 63 * 64 + 63 = 4095), then ab * 4096 + cd in 32 bits (<= 2^24 - 1).
        let pairs = _mm512_maddubs_epi16(values, _mm512_set1_epi32(0x0140_0140));
        let quads = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_1000));
        (_mm512_permutexvar_epi8(self.gather, quads), fault)
    }
}

/// Proof that the CPU has AVX-512 F, BW, VL and VBMI: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Avx512(());

impl Kernel for Avx512 {
    #[inline(always)]
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
        // SAFETY: a value of this type exists, so the CPU has the features.
        unsafe { decode_well_formed(text, out) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx512(()))
}

/// See [`super::decode_well_formed`]: the whole text, tail and padding included.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
fn decode_well_formed(text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    let padding = match out.len() % 3 {
        0 => 0,
        partial => 3 - partial,
    };
    let Some(letters) = text.len().checked_sub(padding) else { return false };
    let (letters, equals) = text.split_at(letters);
    if !matches!(equals, [] | [b'='] | [b'=', b'=']) {
        return false;
    }
    let tables = Tables::load();
    let mut faults = _mm512_setzero_si512();
    let (blocks, tail) = letters.as_chunks::<CHARS>();
    let mut written = 0;
    for block in blocks {
        if out.len() - written < BYTES {
            return false;
        }
        prefetch_ahead(block, AHEAD * CHARS);
        prefetch_ahead(&out[written], AHEAD * BYTES);
        // SAFETY: `block` is 64 bytes.
        let (bytes, fault) = tables.decode(unsafe { _mm512_loadu_epi8(block.as_ptr().cast()) });
        faults = _mm512_or_si512(faults, fault);
        let target = out[written..].as_mut_ptr().cast();
        if out.len() - written >= 64 {
            // SAFETY: at least 64 bytes of `out` are left, by the line above. The next block or the tail overwrites the
            // last 16.
            unsafe { _mm512_storeu_epi8(target, bytes) };
        } else {
            // SAFETY: the mask stores 48 bytes, and at least 48 are left.
            unsafe { _mm512_mask_storeu_epi8(target, (1 << BYTES) - 1, bytes) };
        }
        written += BYTES;
    }
    let left = out.len() - written;
    // tail < 64 characters, so they make at most 47 bytes; the text's length fixes `left` for well-formed text.
    if left > BYTES || (left * 4).div_ceil(3) != tail.len() {
        return false;
    }
    let present = (1_u64 << tail.len()) - 1;
    // SAFETY: the mask loads `tail.len()` bytes (< 64) of `tail`; the others read as 'A', which is zero.
    let chars = unsafe { _mm512_mask_loadu_epi8(_mm512_set1_epi8(b'A'.cast_signed()), present, tail.as_ptr().cast()) };
    let (bytes, fault) = tables.decode(chars);
    faults = _mm512_or_si512(faults, fault);
    let kept = (1_u64 << left) - 1;
    // SAFETY: the mask stores `left` bytes, all that `out` has left.
    unsafe { _mm512_mask_storeu_epi8(out[written..].as_mut_ptr().cast(), kept, bytes) };
    // Bits past the last byte fill the bytes after it, which must be zero for the spelling to be the canonical one.
    let beyond = _mm512_test_epi8_mask(bytes, bytes) & !kept & ((1 << BYTES) - 1);
    _mm512_movepi8_mask(faults) == 0 && beyond == 0
}

/// Append the encoding of whole blocks of `bytes` and return how many bytes were read.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn encode_prefix(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    // SAFETY: both tables are 64 bytes.
    let (spread, letters) =
        unsafe { (_mm512_loadu_epi8(SPREAD.as_ptr().cast()), _mm512_loadu_epi8(LETTER.as_ptr().cast())) };
    // Bit offsets of the four 6-bit fields in each 32-bit lane `y x z y`: a at 10, b at 4, c at 22, d at 16.
    let shifts = _mm512_set1_epi64(0x3036_242A_1016_040A_i64);
    let blocks = bytes.as_chunks::<BYTES>().0;
    for block in blocks {
        // SAFETY: the mask loads 48 bytes, the block's length.
        let chunk = unsafe { _mm512_maskz_loadu_epi8((1 << BYTES) - 1, block.as_ptr().cast()) };
        let lanes = _mm512_permutexvar_epi8(spread, chunk);
        // The look-up uses the low six bits of each index, so the fields' upper neighbours need no masking.
        let text = _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(shifts, lanes), letters);
        let mut buffer = [0; CHARS];
        // SAFETY: `buffer` is 64 bytes.
        unsafe { _mm512_storeu_epi8(buffer.as_mut_ptr().cast(), text) };
        out.extend_from_slice(&buffer);
    }
    blocks.len() * BYTES
}
