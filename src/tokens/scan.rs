//! One pass over the bytes of a text, 64 at a time: it counts the classes and sums the weights of the letter pairs.

use super::byte_masks::{BLOCKS, KINDS, Kind, LANES, Window, kind, present};
use super::class_counts::{ClassCounts, Runs};
use super::letter_pairs::{BY_BYTES, symbol, weight};
use crate::isa::Isa;

/// The pass itself. `$masks` maps the start of a block to the masks of its bytes (those of the kinds beyond ASCII may be
/// missing where the block is ASCII), and to the mask of the bytes that the next byte repeats.
macro_rules! scan {
    ($bytes:expr, $counts:expr, $masks:expr) => {{
        let bytes: &[u8] = $bytes;
        let counts: &mut ClassCounts = $counts;
        let mut window = Window::new();
        let mut runs = Runs::default();
        for start in (0..bytes.len()).step_by(64 * BLOCKS) {
            let blocks = (bytes.len() - start).div_ceil(64).min(BLOCKS);
            for block in 0..blocks {
                let at = start + 64 * block;
                let present = present(bytes.len() - at);
                let (masks, repeated) = $masks(at);
                window.set(block, &masks, present, repeated);
                counts.add_non_ascii(&masks, window.non_ascii[block + 1], &mut runs);
            }
            let groups = blocks.div_ceil(LANES);
            for column in window.columns() {
                column[blocks + 1..=groups * LANES].fill(0);
            }
            for group in 0..groups {
                counts.add_ascii(&window, group * LANES);
            }
            for column in window.columns() {
                column[0] = column[BLOCKS];
            }
        }
    }};
}

/// Add the classes of `bytes` to `counts`, and return the sum of the weights of the letter pairs.
pub(super) fn scan(isa: Isa, bytes: &[u8], counts: &mut ClassCounts) -> u64 {
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` and `Isa::hamming` name this path only where the CPU has AVX-512 F, BW, VL, VBMI and
        // VPOPCNTDQ.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 if Isa::hamming() == Isa::Avx512 => unsafe { avx512::scan(bytes, counts) },
        // SAFETY: a path above the portable one is named only where the CPU has AVX2 and POPCNT.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 | Isa::Amx | Isa::Avx512 => unsafe { avx2::scan(bytes, counts) },
        // SAFETY: a path above the portable one is named only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::scan(bytes, counts) },
        Isa::Scalar => scalar(bytes, counts),
    }
}

fn scalar(bytes: &[u8], counts: &mut ClassCounts) -> u64 {
    const TABLE: [Kind; 256] = {
        let mut table = [Kind::Punctuation; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = kind(byte as u8);
            byte += 1;
        }
        table
    };
    scan!(bytes, counts, |at: usize| {
        let mut masks = [0; KINDS];
        let mut repeated = 0;
        for (i, &byte) in bytes[at..].iter().take(64).enumerate() {
            masks[TABLE[usize::from(byte)] as usize] |= 1 << i;
            repeated |= u64::from(bytes.get(at + i + 1) == Some(&byte)) << i;
        }
        (masks, repeated)
    });
    weigh(bytes)
}

/// The sum of the weights of all letter pairs; the start and the end of the text count as no letter.
#[inline(always)]
fn weigh(bytes: &[u8]) -> u64 {
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return weight(0, 0).into() };
    let of = |pair: &[u8]| u64::from(BY_BYTES[usize::from(u16::from_le_bytes([pair[0], pair[1]]))]);
    // Four independent sums hide the latency of the loads.
    let mut sums = [0; 4];
    for five in bytes.windows(5).step_by(4) {
        for (sum, pair) in sums.iter_mut().zip(five.windows(2)) {
            *sum += of(pair);
        }
    }
    let rest: u64 = bytes[(bytes.len() - 1) / 4 * 4..].windows(2).map(of).sum();
    let ends = u64::from(weight(0, symbol(first))) + u64::from(weight(symbol(last), 0));
    sums.iter().sum::<u64>() + rest + ends
}

/// The masks of a block of bytes, by the `within` and `equal` in scope.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! masks {
    ($chars:expr, $present:expr, $non_ascii:expr) => {{
        let chars = $chars;
        let mut masks = [0; KINDS];
        let mut set = |kind: Kind, mask: u64| masks[kind as usize] = mask;
        let (lower, upper) = (within(chars, b'a', b'z'), within(chars, b'A', b'Z'));
        let digit = within(chars, b'0', b'9');
        let newline = equal(chars, b'\n') | equal(chars, b'\r');
        let space = equal(chars, b' ') | within(chars, b'\t', 0x0C) & !newline;
        let non_ascii: u64 = $non_ascii;
        set(Kind::Lower, lower);
        set(Kind::Upper, upper);
        set(Kind::Digit, digit);
        set(Kind::Space, space);
        set(Kind::Newline, newline);
        set(Kind::Punctuation, $present & !(lower | upper | digit | space | newline | non_ascii));
        if non_ascii != 0 {
            let kana = within(chars, 0x81, 0x83);
            set(Kind::KanaContinuation, kana);
            set(Kind::Continuation, within(chars, 0x80, 0xBF) & !kana);
            set(Kind::Sign, within(chars, 0xC0, 0xC2));
            set(Kind::Latin, within(chars, 0xC3, 0xCB));
            set(Kind::Greek, within(chars, 0xCC, 0xCF));
            set(Kind::Cyrillic, within(chars, 0xD0, 0xD3));
            set(Kind::Armenian, within(chars, 0xD4, 0xD6));
            set(Kind::Arabic, within(chars, 0xD7, 0xDF));
            set(Kind::Indic, equal(chars, 0xE0));
            set(Kind::Georgian, equal(chars, 0xE1));
            set(Kind::Symbol, equal(chars, 0xE2));
            set(Kind::Cjk, equal(chars, 0xE3));
            set(Kind::Han, within(chars, 0xE4, 0xE9));
            set(Kind::Hangul, within(chars, 0xEA, 0xED));
            set(Kind::Other, within(chars, 0xEE, 0xEF));
            set(Kind::Astral, within(chars, 0xF0, 0xFF));
        }
        masks
    }};
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::letter_pairs::{ROWS, WEIGHTS};
    use super::super::simd::avx512::{equal, load, splat, within};
    use super::*;

    /// See [`symbol`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn symbols(bytes: __m512i) -> __m512i {
        let letters = within(_mm512_or_si512(bytes, splat(0x20)), b'a', b'z');
        _mm512_maskz_mov_epi8(letters, _mm512_and_si512(bytes, splat(31)))
    }

    /// See [`super::scan`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vpopcntdq,popcnt")]
    pub(super) fn scan(bytes: &[u8], counts: &mut ClassCounts) -> u64 {
        // Each pair of registers holds the rows of four symbols, 32 weights a row.
        let mut table = [[_mm512_setzero_si512(); 2]; ROWS / 4];
        for (registers, rows) in table.iter_mut().zip(WEIGHTS.chunks_exact(128)) {
            *registers = [load(rows), load(&rows[64..])];
        }
        let first = bytes.first().map_or(0, |&byte| symbol(byte));
        let mut sums = _mm512_setzero_si512();
        scan!(bytes, counts, |at: usize| {
            let (here, next) = (load(&bytes[at..]), load(&bytes[at + 1..]));
            let (a, b) = (symbols(here), symbols(next));
            // The index into the 128 bytes of four rows: the low two bits of a, then five bits of b.
            let high = _mm512_and_si512(_mm512_slli_epi16::<5>(a), splat(0x60));
            let index = _mm512_or_si512(high, b);
            let group = _mm512_and_si512(a, splat(0x1C));
            let mut weights = _mm512_permutex2var_epi8(table[0][0], index, table[0][1]);
            for (i, [low, high]) in table.iter().enumerate().skip(1) {
                let in_group = _mm512_cmpeq_epi8_mask(group, splat(4 * i as u8));
                let found = _mm512_permutex2var_epi8(*low, index, *high);
                weights = _mm512_mask_mov_epi8(weights, in_group, found);
            }
            let present = present(bytes.len() - at);
            let weights = _mm512_maskz_mov_epi8(present, weights);
            sums = _mm512_add_epi64(sums, _mm512_sad_epu8(weights, _mm512_setzero_si512()));
            let masks = masks!(here, present, _mm512_movepi8_mask(here));
            let followed = present & super::present(bytes.len() - at - 1);
            (masks, _mm512_cmpeq_epi8_mask(here, next) & followed)
        });
        _mm512_reduce_add_epi64(sums).cast_unsigned() + u64::from(weight(0, first))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::super::simd::avx2::{equal, high_bits, load, same, within};
    use super::*;

    /// See [`super::scan`].
    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn scan(bytes: &[u8], counts: &mut ClassCounts) -> u64 {
        scan!(bytes, counts, |at: usize| {
            let (here, next) = (load(&bytes[at..]), load(&bytes[at + 1..]));
            let masks = masks!(here, present(bytes.len() - at), high_bits(here));
            (masks, same(here, next) & present(bytes.len() - at - 1))
        });
        weigh(bytes)
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::super::simd::neon::{equal, high_bits, load, same, within};
    use super::*;

    /// See [`super::scan`].
    #[target_feature(enable = "neon")]
    pub(super) fn scan(bytes: &[u8], counts: &mut ClassCounts) -> u64 {
        scan!(bytes, counts, |at: usize| {
            let (here, next) = (load(&bytes[at..]), load(&bytes[at + 1..]));
            let masks = masks!(here, present(bytes.len() - at), high_bits(here));
            (masks, same(here, next) & present(bytes.len() - at - 1))
        });
        weigh(bytes)
    }
}
