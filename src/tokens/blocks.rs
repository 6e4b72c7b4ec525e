//! A text 64 bytes at a time: what its bytes are, as bit masks, and what its pairs of letters weigh. Nothing else looks
//! at every byte.

use super::bounds::is_inert;
use super::classes::{Counts, Runs, count, count_wide};
use super::pairs::{OF_BYTES, ROWS, symbol, weight};
use crate::isa::Isa;

/// What a byte is. Of ASCII, as the splitting pattern sees it; beyond, which characters such a first byte of UTF-8
/// stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Lower,
    Upper,
    Digit,
    Space,
    Line,
    Mark,
    /// Not the first byte of its character: behind [`Kind::Cjk`], that of a mark.
    Inner,
    /// Not the first byte of its character: behind [`Kind::Cjk`], that of kana.
    InnerKana,
    /// U+0080 to U+00BF.
    Sign,
    Latin,
    /// Combining marks too.
    Greek,
    Cyrillic,
    Armenian,
    /// Hebrew, Syriac, Thaana and N'Ko too.
    Arabic,
    /// Thai, Lao and Tibetan too.
    Indic,
    /// U+1000 to U+1FFF: Ethiopic, Khmer, letters of Vietnamese and much else too.
    Georgian,
    Symbol,
    /// Marks of Chinese and Japanese, kana.
    Cjk,
    Han,
    /// Yi and some smaller scripts too.
    Hangul,
    Other,
    Astral,
}

/// Number of kinds.
pub(super) const KINDS: usize = Kind::Astral as usize + 1;

/// The kind of a byte.
const fn kind(byte: u8) -> Kind {
    match byte {
        b'a'..=b'z' => Kind::Lower,
        b'A'..=b'Z' => Kind::Upper,
        b'0'..=b'9' => Kind::Digit,
        b'\r' | b'\n' => Kind::Line,
        b' ' | b'\t' | 0x0B | 0x0C => Kind::Space,
        ..0x80 => Kind::Mark,
        0x81..=0x83 => Kind::InnerKana,
        0x80..=0xBF => Kind::Inner,
        0xC0..=0xC2 => Kind::Sign,
        0xC3..=0xCB => Kind::Latin,
        0xCC..=0xCF => Kind::Greek,
        0xD0..=0xD3 => Kind::Cyrillic,
        0xD4..=0xD6 => Kind::Armenian,
        0xD7..=0xDF => Kind::Arabic,
        0xE0 => Kind::Indic,
        0xE1 => Kind::Georgian,
        0xE2 => Kind::Symbol,
        0xE3 => Kind::Cjk,
        0xE4..=0xE9 => Kind::Han,
        0xEA..=0xED => Kind::Hangul,
        0xEE..=0xEF => Kind::Other,
        0xF0.. => Kind::Astral,
    }
}

/// One bit a byte: whether it is of the kind.
pub(super) type Masks = [u64; KINDS];

/// Blocks that are counted at once, one a lane.
pub(super) const LANES: usize = 8;
/// Blocks of a window: a few groups of lanes, so that what is stored is not read back at once. A usual chunk fits.
const BLOCKS: usize = 3 * LANES;

/// The masks of one kind, with that of the block before the window in front.
pub(super) type Column = [u64; BLOCKS + 1];

/// Masks of the blocks of a part of a text.
pub(super) struct Window {
    pub(super) letter: Column,
    pub(super) upper: Column,
    pub(super) digit: Column,
    pub(super) space: Column,
    pub(super) line: Column,
    pub(super) mark: Column,
    pub(super) wide: Column,
    /// The next byte is the same.
    pub(super) repeated: Column,
}

impl Window {
    fn new() -> Self {
        let mut window = Self {
            letter: [0; BLOCKS + 1],
            upper: [0; BLOCKS + 1],
            digit: [0; BLOCKS + 1],
            space: [0; BLOCKS + 1],
            line: [0; BLOCKS + 1],
            mark: [0; BLOCKS + 1],
            wide: [0; BLOCKS + 1],
            repeated: [0; BLOCKS + 1],
        };
        window.line[0] = 1 << 63; // a text starts as a line does
        window
    }

    fn columns(&mut self) -> [&mut Column; 8] {
        let Self { letter, upper, digit, space, line, mark, wide, repeated } = self;
        [letter, upper, digit, space, line, mark, wide, repeated]
    }

    /// Set the masks of a block; what is beyond ASCII is told by the others.
    #[inline(always)]
    fn set(&mut self, block: usize, masks: &Masks, present: u64, repeated: u64) {
        let of = |kind: Kind| masks[kind as usize];
        let ascii = of(Kind::Lower) | of(Kind::Upper) | of(Kind::Digit) | of(Kind::Space) | of(Kind::Line);
        self.letter[block + 1] = of(Kind::Lower) | of(Kind::Upper);
        self.upper[block + 1] = of(Kind::Upper);
        self.digit[block + 1] = of(Kind::Digit);
        self.space[block + 1] = of(Kind::Space);
        self.line[block + 1] = of(Kind::Line);
        self.mark[block + 1] = of(Kind::Mark);
        self.wide[block + 1] = present & !ascii & !of(Kind::Mark);
        self.repeated[block + 1] = repeated;
    }
}

/// Go through a text: masks, counts of them, weights of pairs. `$masks` makes of a place in the bytes the masks of the
/// block there (those beyond ASCII at least where there are such bytes) and which bytes are followed by the same one.
macro_rules! sweep {
    ($bytes:expr, $counts:expr, $masks:expr) => {{
        let bytes: &[u8] = $bytes;
        let counts: &mut Counts = $counts;
        let mut window = Window::new();
        let mut runs = Runs::default();
        for start in (0..bytes.len()).step_by(64 * BLOCKS) {
            let blocks = (bytes.len() - start).div_ceil(64).min(BLOCKS);
            for block in 0..blocks {
                let at = start + 64 * block;
                let present = present(bytes.len() - at);
                let (masks, repeated) = $masks(at);
                window.set(block, &masks, present, repeated);
                count_wide(&masks, window.wide[block + 1], &mut runs, counts);
            }
            let groups = blocks.div_ceil(LANES);
            for column in window.columns() {
                column[blocks + 1..=groups * LANES].fill(0);
            }
            for group in 0..groups {
                count(&window, group * LANES, counts);
            }
            for column in window.columns() {
                column[0] = column[BLOCKS];
            }
        }
    }};
}

/// Which bytes of a block there are, of so many that are left.
#[inline(always)]
fn present(left: usize) -> u64 {
    if left >= 64 { !0 } else { (1 << left) - 1 }
}

/// Count what the bytes are into `counts`, and return what the pairs of letters weigh.
pub(super) fn sweep(isa: Isa, bytes: &[u8], counts: &mut Counts) -> u64 {
    #[cfg(target_arch = "x86_64")]
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` and `Isa::hamming` name this path only where the CPU has AVX-512 F, BW, VL, VBMI and
        // VPOPCNTDQ.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 if Isa::hamming() == Isa::Avx512 => return unsafe { avx512::sweep(bytes, counts) },
        // SAFETY: a path above the portable one is named only where the CPU has AVX2 and POPCNT.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 | Isa::Amx | Isa::Avx512 => return unsafe { avx2::sweep(bytes, counts) },
        Isa::Scalar => {}
    }
    let _ = isa;
    scalar(bytes, counts)
}

fn scalar(bytes: &[u8], counts: &mut Counts) -> u64 {
    const TABLE: [Kind; 256] = {
        let mut table = [Kind::Mark; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = kind(byte as u8);
            byte += 1;
        }
        table
    };
    sweep!(bytes, counts, |at: usize| {
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

/// Whether all characters are [`is_inert`]. Only those that [`is_suspect`] are looked at one by one.
macro_rules! all_inert {
    ($text:expr, $suspects:expr) => {{
        let text: &str = $text;
        (0..text.len()).step_by(64).all(|at| {
            let mut rest: u64 = $suspects(at);
            while rest != 0 {
                let first = at + rest.trailing_zeros() as usize;
                if !text[first..].starts_with(is_inert) {
                    return false;
                }
                rest &= rest - 1;
            }
            true
        })
    }};
}

/// Whether the first byte of a character leaves it open whether the character is [`is_inert`].
const fn is_suspect(byte: u8) -> bool {
    byte > 0xCB && !matches!(byte, 0xE4..=0xE9 | 0xEB..=0xEC)
}

/// Whether NFC leaves all characters alone, by what is known of single ones.
pub(super) fn all_inert(isa: Isa, text: &str) -> bool {
    let bytes = text.as_bytes();
    #[cfg(target_arch = "x86_64")]
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F, BW, VL and VBMI.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => return unsafe { avx512::all_inert(text) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => return unsafe { avx2::all_inert(text) },
        Isa::Scalar => {}
    }
    let _ = isa;
    text.is_ascii()
        || all_inert!(text, |at: usize| {
            let block = bytes[at..].iter().take(64).enumerate();
            block.fold(0, |mask, (i, &byte)| mask | u64::from(is_suspect(byte)) << i)
        })
}

/// What the pairs of letters weigh, the text's start and end included.
#[inline(always)]
fn weigh(bytes: &[u8]) -> u64 {
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return weight(0, 0).into() };
    let of = |pair: &[u8]| u64::from(OF_BYTES[usize::from(u16::from_le_bytes([pair[0], pair[1]]))]);
    // Four sums, so that none waits for the one before.
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

/// The masks of a block from `within!(low, high)` and `equal!(byte)`, which compare all its bytes.
#[cfg(target_arch = "x86_64")]
macro_rules! masks {
    ($chars:expr, $present:expr, $wide:expr) => {{
        let chars = $chars;
        let mut masks = [0; KINDS];
        let mut set = |kind: Kind, mask: u64| masks[kind as usize] = mask;
        let (lower, upper) = (within(chars, b'a', b'z'), within(chars, b'A', b'Z'));
        let digit = within(chars, b'0', b'9');
        let line = equal(chars, b'\n') | equal(chars, b'\r');
        let space = equal(chars, b' ') | within(chars, b'\t', 0x0C) & !line;
        let wide: u64 = $wide;
        set(Kind::Lower, lower);
        set(Kind::Upper, upper);
        set(Kind::Digit, digit);
        set(Kind::Space, space);
        set(Kind::Line, line);
        set(Kind::Mark, $present & !(lower | upper | digit | space | line | wide));
        if wide != 0 {
            let kana = within(chars, 0x81, 0x83);
            set(Kind::InnerKana, kana);
            set(Kind::Inner, within(chars, 0x80, 0xBF) & !kana);
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
    #![expect(unsafe_code, reason = "raw loads; each names the slice length that guards it")]

    use std::arch::x86_64::*;

    use super::*;
    use crate::tokens::pairs::WEIGHTS;

    /// `bytes`, at most 64 of them; the others are zero.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(bytes: &[u8]) -> __m512i {
        // SAFETY: the mask loads the bytes of the slice, and of them the first 64.
        unsafe { _mm512_maskz_loadu_epi8(present(bytes.len()), bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn splat(byte: u8) -> __m512i {
        _mm512_set1_epi8(byte.cast_signed())
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn within(bytes: __m512i, low: u8, high: u8) -> u64 {
        _mm512_cmple_epu8_mask(_mm512_sub_epi8(bytes, splat(low)), splat(high - low))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn equal(bytes: __m512i, byte: u8) -> u64 {
        _mm512_cmpeq_epi8_mask(bytes, splat(byte))
    }

    /// See [`symbol`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn symbols(bytes: __m512i) -> __m512i {
        let letters = within(_mm512_or_si512(bytes, splat(0x20)), b'a', b'z');
        _mm512_maskz_mov_epi8(letters, _mm512_and_si512(bytes, splat(31)))
    }

    /// See [`super::all_inert`].
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn all_inert(text: &str) -> bool {
        let bytes = text.as_bytes();
        all_inert!(text, |at: usize| {
            let block = load(&bytes[at..]);
            // As `is_suspect`.
            within(block, 0xCC, 0xFF) & !(within(block, 0xE4, 0xE9) | within(block, 0xEB, 0xEC))
        })
    }

    /// See [`super::sweep`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vpopcntdq,popcnt")]
    pub(super) fn sweep(bytes: &[u8], counts: &mut Counts) -> u64 {
        // Each pair of registers has the rows of four symbols, 32 weights a row.
        let mut table = [[_mm512_setzero_si512(); 2]; ROWS / 4];
        for (registers, rows) in table.iter_mut().zip(WEIGHTS.chunks_exact(128)) {
            *registers = [load(rows), load(&rows[64..])];
        }
        let first = bytes.first().map_or(0, |&byte| symbol(byte));
        let mut sums = _mm512_setzero_si512();
        sweep!(bytes, counts, |at: usize| {
            let (here, next) = (load(&bytes[at..]), load(&bytes[at + 1..]));
            let (a, b) = (symbols(here), symbols(next));
            // The place among the 128 bytes of four rows: 5 bits of b below the low two of a.
            let high = _mm512_and_si512(_mm512_slli_epi16::<5>(a), splat(0x60));
            let place = _mm512_or_si512(high, b);
            let group = _mm512_and_si512(a, splat(0x1C));
            let mut weights = _mm512_permutex2var_epi8(table[0][0], place, table[0][1]);
            for (i, [low, high]) in table.iter().enumerate().skip(1) {
                let of_group = _mm512_cmpeq_epi8_mask(group, splat(4 * i as u8));
                let found = _mm512_permutex2var_epi8(*low, place, *high);
                weights = _mm512_mask_mov_epi8(weights, of_group, found);
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
    #![expect(unsafe_code, reason = "raw loads; each names the array that guards it")]

    use std::arch::x86_64::*;

    use super::*;

    type Block = [__m256i; 2];

    /// `bytes`, at most 64 of them; the others are zero.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8]) -> Block {
        let mut padded = [0; 64];
        let block = bytes.first_chunk().unwrap_or_else(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        });
        let block: &[u8; 64] = block;
        let (low, high) = block.split_at(32);
        // SAFETY: both halves have 32 bytes.
        unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask([low, high]: Block) -> u64 {
        let bits = |half| u64::from(_mm256_movemask_epi8(half).cast_unsigned());
        bits(high) << 32 | bits(low)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn same(a: Block, b: Block) -> Block {
        [_mm256_cmpeq_epi8(a[0], b[0]), _mm256_cmpeq_epi8(a[1], b[1])]
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn within(bytes: Block, low: u8, high: u8) -> u64 {
        let (low, span) = (_mm256_set1_epi8(low.cast_signed()), _mm256_set1_epi8((high - low).cast_signed()));
        let from_low = [_mm256_sub_epi8(bytes[0], low), _mm256_sub_epi8(bytes[1], low)];
        let least = [_mm256_min_epu8(from_low[0], span), _mm256_min_epu8(from_low[1], span)];
        mask(same(from_low, least))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn equal(bytes: Block, byte: u8) -> u64 {
        let byte = _mm256_set1_epi8(byte.cast_signed());
        mask(same(bytes, [byte, byte]))
    }

    /// See [`super::all_inert`].
    #[target_feature(enable = "avx2")]
    pub(super) fn all_inert(text: &str) -> bool {
        let bytes = text.as_bytes();
        all_inert!(text, |at: usize| {
            let block = load(&bytes[at..]);
            // As `is_suspect`.
            within(block, 0xCC, 0xFF) & !(within(block, 0xE4, 0xE9) | within(block, 0xEB, 0xEC))
        })
    }

    /// See [`super::sweep`].
    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn sweep(bytes: &[u8], counts: &mut Counts) -> u64 {
        sweep!(bytes, counts, |at: usize| {
            let (here, next) = (load(&bytes[at..]), load(&bytes[at + 1..]));
            let masks = masks!(here, super::present(bytes.len() - at), mask(here));
            (masks, mask(same(here, next)) & super::present(bytes.len() - at - 1))
        });
        weigh(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_that_no_first_byte_makes_suspect_are_inert() {
        for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let first = c.to_string().as_bytes()[0];
            assert!(is_suspect(first) || is_inert(c), "U+{:04X}", u32::from(c));
        }
    }

    proptest! {
        #[test]
        fn texts_are_inert_on_every_path_where_all_characters_are(text in "([ -~]{0,9}|[à-ž가-힣一-十“”。か]{0,9}|\\PC{0,1}){0,30}") {
            let expected = text.chars().all(is_inert);
            for isa in Isa::ALL {
                prop_assert_eq!(all_inert(isa, &text), expected, "{:?}", isa);
            }
        }
    }
}
