//! Where runs of one kind of byte end, and pairs of letters: what the classes need of every byte, found many at a time.

use crate::isa::Isa;

/// What a byte of ASCII is to the splitting pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lower,
    Upper,
    Digit,
    Space,
    Line,
    Mark,
    Wide,
}

/// The kind of each byte.
pub(super) const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Mark; 256];
    let mut i = 0;
    while i < 256 {
        kinds[i] = match i as u8 {
            b'a'..=b'z' => Kind::Lower,
            b'A'..=b'Z' => Kind::Upper,
            b'0'..=b'9' => Kind::Digit,
            b'\r' | b'\n' => Kind::Line,
            b' ' | b'\t' | 0x0B | 0x0C => Kind::Space,
            0x80.. => Kind::Wide,
            _ => Kind::Mark,
        };
        i += 1;
    }
    kinds
};

/// The places in a text where the kind of byte is another than right before.
pub(super) struct Runs {
    /// A bit a byte, least significant first.
    changes: Vec<u64>,
    length: usize,
}

impl Runs {
    /// Find them.
    pub(super) fn of(isa: Isa, bytes: &[u8]) -> Self {
        let mut changes = Vec::with_capacity(bytes.len().div_ceil(64));
        let _ = isa;
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::codec()) == Isa::Avx512 {
            // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
            #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
            unsafe {
                avx512::changes(bytes, &mut changes);
            }
            return Self { changes, length: bytes.len() };
        }
        let mut before = None;
        for block in bytes.chunks(64) {
            let mut word = 0;
            for (i, &byte) in block.iter().enumerate() {
                let kind = KINDS[usize::from(byte)];
                word |= u64::from(before != Some(kind)) << i;
                before = Some(kind);
            }
            changes.push(word);
        }
        Self { changes, length: bytes.len() }
    }

    /// The end of the run that `at`, a place in the text, belongs to.
    #[inline]
    pub(super) fn end(&self, at: usize) -> usize {
        let from = at + 1;
        let (mut index, shift) = (from / 64, from % 64);
        let Some(&word) = self.changes.get(index) else { return self.length };
        let mut rest = word >> shift << shift;
        while rest == 0 {
            index += 1;
            match self.changes.get(index) {
                Some(&word) => rest = word,
                None => return self.length,
            }
        }
        (index * 64 + rest.trailing_zeros() as usize).min(self.length)
    }
}

/// How often a letter is followed by a small one that rarely follows it: `rare` has a mask of followers for each
/// letter, both by their low five bits.
pub(super) fn rare_pairs(isa: Isa, bytes: &[u8], rare: &[u32; 32]) -> u32 {
    let _ = isa;
    #[cfg(target_arch = "x86_64")]
    if isa.min(Isa::codec()) == Isa::Avx512 {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F, BW and VBMI.
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        return unsafe { avx512::rare_pairs(bytes, rare) };
    }
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    pairs
        .map(|(&a, &b)| {
            let counted = a.is_ascii_alphabetic() & b.is_ascii_lowercase();
            (rare[usize::from(a & 31)] >> (b & 31) & 1) & u32::from(counted)
        })
        .sum()
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![expect(unsafe_code, reason = "raw loads; each names the slice length that guards it")]

    use std::arch::x86_64::*;

    /// `bytes`, at most 64 of them; the others are zero.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(bytes: &[u8]) -> __m512i {
        let present = if bytes.len() >= 64 { !0 } else { (1_u64 << bytes.len()) - 1 };
        // SAFETY: the mask loads the bytes of the slice, and of them the first 64.
        unsafe { _mm512_maskz_loadu_epi8(present, bytes.as_ptr().cast()) }
    }

    /// Bytes from `low` to `high`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn within(bytes: __m512i, low: u8, high: u8) -> u64 {
        let from_low = _mm512_sub_epi8(bytes, _mm512_set1_epi8(low.cast_signed()));
        _mm512_cmple_epu8_mask(from_low, _mm512_set1_epi8((high - low).cast_signed()))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn equal(bytes: __m512i, byte: u8) -> u64 {
        _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte.cast_signed()))
    }

    /// See [`super::Runs`].
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn changes(bytes: &[u8], out: &mut Vec<u64>) {
        // Whether the byte before the block is of each kind. Marks need no mask: a change from or to one is a change
        // of another kind.
        let mut before = [0_u64; 6];
        for block in bytes.chunks(64) {
            let chars = load(block);
            let kinds = [
                within(chars, b'a', b'z'),
                within(chars, b'A', b'Z'),
                within(chars, b'0', b'9'),
                equal(chars, b'\n') | equal(chars, b'\r'),
                equal(chars, b' ') | equal(chars, b'\t') | within(chars, 0x0B, 0x0C),
                _mm512_movepi8_mask(chars),
            ];
            let mut changed = 0;
            for (kind, before) in kinds.iter().zip(&mut before) {
                changed |= kind ^ (kind << 1 | *before);
                *before = kind >> 63;
            }
            out.push(changed);
        }
        if let Some(first) = out.first_mut() {
            *first |= 1; // the text's start, whatever it is
        }
    }

    /// See [`super::rare_pairs`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(super) fn rare_pairs(bytes: &[u8], rare: &[u32; 32]) -> u32 {
        let mut table = [0_u8; 128];
        for (row, mask) in table.as_chunks_mut::<4>().0.iter_mut().zip(rare) {
            *row = mask.to_le_bytes();
        }
        let (low, high) = (load(&table[..64]), load(&table[64..]));
        let bits = _mm512_set1_epi64(0x8040_2010_0804_0201_u64.cast_signed());
        let mut found = 0;
        let Some(followers) = bytes.get(1..) else { return 0 };
        for (a, b) in bytes.chunks(64).zip(followers.chunks(64)) {
            let (a, b) = (load(a), load(b));
            let small = _mm512_or_si512(a, _mm512_set1_epi8(0x20));
            let counted = within(small, b'a', b'z') & within(b, b'a', b'z');
            // Byte 4 (a mod 32) + (b mod 32) / 8 of the table, and of it bit b mod 8.
            let row = _mm512_and_si512(_mm512_slli_epi16::<2>(a), _mm512_set1_epi8(0x7C));
            let column = _mm512_and_si512(_mm512_srli_epi16::<3>(b), _mm512_set1_epi8(3));
            let masks = _mm512_permutex2var_epi8(low, _mm512_or_si512(row, column), high);
            let bit = _mm512_shuffle_epi8(bits, _mm512_and_si512(b, _mm512_set1_epi8(7)));
            found += (_mm512_test_epi8_mask(masks, bit) & counted).count_ones();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_ends_where_the_kind_changes_on_every_path(bytes in proptest::collection::vec(
            prop_oneof![Just(b'a'), Just(b'Q'), Just(b' '), Just(b'\n'), Just(b'7'), Just(b'-'), any::<u8>()], 0..300)
        ) {
            for isa in Isa::ALL {
                let runs = Runs::of(isa, &bytes);
                for at in 0..bytes.len() {
                    let kind = KINDS[usize::from(bytes[at])];
                    let length = bytes[at..].iter().position(|&byte| KINDS[usize::from(byte)] != kind);
                    prop_assert_eq!(runs.end(at), length.map_or(bytes.len(), |n| at + n), "{:?} {}", isa, at);
                }
            }
        }

        #[test]
        fn pairs_are_the_same_on_every_path(
            bytes in proptest::collection::vec(prop_oneof![b'a'..=b'z', b'A'..=b'Z', any::<u8>()], 0..300),
            rare in any::<[u32; 32]>(),
        ) {
            let counted = |pair: &[u8]| pair[0].is_ascii_alphabetic() && pair[1].is_ascii_lowercase();
            let is_rare = |pair: &[u8]| rare[usize::from(pair[0] % 32)] >> (pair[1] % 32) & 1 == 1;
            let expected = bytes.windows(2).filter(|pair| counted(pair) && is_rare(pair)).count();
            for isa in Isa::ALL {
                prop_assert_eq!(rare_pairs(isa, &bytes, &rare) as usize, expected, "{:?}", isa);
            }
        }
    }
}
