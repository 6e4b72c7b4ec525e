//! Kinds of bytes, and bit masks of 64-byte blocks: one bit a byte.

/// The kind of a byte: for ASCII, its class in the splitting pattern; for the first byte of a longer UTF-8 sequence, the
/// script that it starts characters of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Lower,
    Upper,
    Digit,
    Space,
    Newline,
    Punctuation,
    /// A continuation byte. The one after [`Kind::Cjk`] starts punctuation.
    Continuation,
    /// A continuation byte. The one after [`Kind::Cjk`] starts kana.
    KanaContinuation,
    /// U+0080 to U+00BF.
    Sign,
    Latin,
    /// And combining marks.
    Greek,
    Cyrillic,
    Armenian,
    /// And Hebrew, Syriac, Thaana and N'Ko.
    Arabic,
    /// And Thai, Lao and Tibetan.
    Indic,
    /// U+1000 to U+1FFF: and Ethiopic, Khmer, Vietnamese letters and much else.
    Georgian,
    Symbol,
    /// Chinese and Japanese punctuation, and kana.
    Cjk,
    Han,
    /// And Yi and some smaller scripts.
    Hangul,
    Other,
    Astral,
}

/// Number of kinds.
pub(super) const KINDS: usize = Kind::Astral as usize + 1;

/// The kind of a byte.
pub(super) const fn kind(byte: u8) -> Kind {
    match byte {
        b'a'..=b'z' => Kind::Lower,
        b'A'..=b'Z' => Kind::Upper,
        b'0'..=b'9' => Kind::Digit,
        b'\r' | b'\n' => Kind::Newline,
        b' ' | b'\t' | 0x0B | 0x0C => Kind::Space,
        ..0x80 => Kind::Punctuation,
        0x81..=0x83 => Kind::KanaContinuation,
        0x80..=0xBF => Kind::Continuation,
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

/// One mask a kind.
pub(super) type Masks = [u64; KINDS];

/// Blocks that are counted together, one in each SIMD lane.
pub(super) const LANES: usize = 8;
/// Blocks of a window: several groups of lanes, so that masks are not loaded right after they are stored. A usual chunk
/// fits in one window.
pub(super) const BLOCKS: usize = 3 * LANES;

/// The masks of one kind for each block of a window, after that of the block before the window.
pub(super) type Column = [u64; BLOCKS + 1];

/// The masks of consecutive blocks, as far as the classes of ASCII need them.
pub(super) struct Window {
    pub(super) letter: Column,
    pub(super) upper: Column,
    pub(super) digit: Column,
    pub(super) space: Column,
    pub(super) newline: Column,
    pub(super) punctuation: Column,
    pub(super) non_ascii: Column,
    /// The next byte is the same.
    pub(super) repeated: Column,
}

impl Window {
    /// The window at the start of a text, which counts as the start of a line.
    pub(super) fn new() -> Self {
        let mut window = Self {
            letter: [0; BLOCKS + 1],
            upper: [0; BLOCKS + 1],
            digit: [0; BLOCKS + 1],
            space: [0; BLOCKS + 1],
            newline: [0; BLOCKS + 1],
            punctuation: [0; BLOCKS + 1],
            non_ascii: [0; BLOCKS + 1],
            repeated: [0; BLOCKS + 1],
        };
        window.newline[0] = 1 << 63;
        window
    }

    pub(super) fn columns(&mut self) -> [&mut Column; 8] {
        let Self { letter, upper, digit, space, newline, punctuation, non_ascii, repeated } = self;
        [letter, upper, digit, space, newline, punctuation, non_ascii, repeated]
    }

    /// Set the masks of a block. `present` has a bit for each byte of the text.
    #[inline(always)]
    pub(super) fn set(&mut self, block: usize, masks: &Masks, present: u64, repeated: u64) {
        let of = |kind: Kind| masks[kind as usize];
        let letter = of(Kind::Lower) | of(Kind::Upper);
        let ascii = letter | of(Kind::Digit) | of(Kind::Space) | of(Kind::Newline) | of(Kind::Punctuation);
        self.letter[block + 1] = letter;
        self.upper[block + 1] = of(Kind::Upper);
        self.digit[block + 1] = of(Kind::Digit);
        self.space[block + 1] = of(Kind::Space);
        self.newline[block + 1] = of(Kind::Newline);
        self.punctuation[block + 1] = of(Kind::Punctuation);
        self.non_ascii[block + 1] = present & !ascii;
        self.repeated[block + 1] = repeated;
    }
}

/// The mask of the bytes that exist in a block, when `left` bytes are left of the text.
#[inline(always)]
pub(super) fn present(left: usize) -> u64 {
    if left >= 64 { !0 } else { (1 << left) - 1 }
}
