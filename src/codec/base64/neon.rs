//! NEON: 64 characters to 48 bytes a step, with look-ups in tables of four registers.
//!
//! A load of four interleaved registers puts the characters of each place of a quad into one register, so that quads are
//! joined by shifts alone. After Alfred Klomp's base64 library, which splits the table of 128 entries the same way.
#![expect(unsafe_code, reason = "raw loads and stores; each names the array whose length guards it")]

use std::arch::aarch64::*;
use std::arch::asm;
use std::mem::MaybeUninit;

use super::kernel::{Kernel, Task};
use super::scalar;

/// Quads of one block, of 64 characters and 48 bytes.
const QUADS: usize = 16;

static LETTER: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What has one of these bits is no value.
const INVALID: u8 = 0xC0;

/// Values of the characters below 64, and of those from there to 127.
static VALUES: [[u8; 64]; 2] = {
    let mut table = [INVALID; 128];
    let mut value = 0;
    while value < 64 {
        table[LETTER[value] as usize] = value as u8;
        value += 1;
    }
    let (low, high) = table.split_at(64);
    match (low.first_chunk(), high.first_chunk()) {
        (Some(low), Some(high)) => [*low, *high],
        _ => panic!("each half has 64 entries"),
    }
};

/// Tables of 64 bytes, each in four registers. The compiler is kept from knowing their contents: it would load the
/// registers anew for each block.
#[inline]
#[target_feature(enable = "neon")]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read there")]
fn load<const N: usize>(tables: &[[u8; 64]; N]) -> [uint8x16x4_t; N] {
    let mut tables = std::ptr::from_ref(tables);
    // SAFETY: no instruction: the register keeps its value, which the compiler then takes for any.
    unsafe { asm!("/* {} */", inout(reg) tables, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: still the same reference.
    let tables = unsafe { &*tables };
    // SAFETY: a table is 64 bytes, four registers.
    std::array::from_fn(|i| unsafe { vld1q_u8_x4(tables[i].as_ptr()) })
}

struct Tables {
    low: uint8x16x4_t,
    high: uint8x16x4_t,
}

impl Tables {
    /// The values of 16 characters, with a bit of [`INVALID`] where a character has none.
    #[inline]
    #[target_feature(enable = "neon")]
    fn values(&self, characters: uint8x16_t) -> uint8x16_t {
        // A look-up keeps what it would replace where its index is not in the table: so do both from 128 on, where the
        // character itself has a bit of INVALID.
        let low = vqtbx4q_u8(characters, self.low, characters);
        vqtbx4q_u8(low, self.high, vsubq_u8(characters, vdupq_n_u8(64)))
    }

    /// Decode a block; returns its values joined by OR.
    #[inline]
    #[target_feature(enable = "neon")]
    fn decode(&self, text: &[[u8; 4]; QUADS], out: &mut [[MaybeUninit<u8>; 3]; QUADS]) -> uint8x16_t {
        // SAFETY: `text` is 64 bytes.
        let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(text.as_ptr().cast()) };
        let [a, b, c, d] = [self.values(a), self.values(b), self.values(c), self.values(d)];
        // aaaaaabb bbbbcccc ccdddddd: a value has six bits, and what an insertion moves out of a byte is dropped.
        let bytes = uint8x16x3_t(
            vsliq_n_u8::<2>(vshrq_n_u8::<4>(b), a),
            vsliq_n_u8::<4>(vshrq_n_u8::<2>(c), b),
            vsliq_n_u8::<6>(d, c),
        );
        // SAFETY: `out` is 48 bytes.
        unsafe { vst3q_u8(out.as_mut_ptr().cast(), bytes) };
        vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d))
    }
}

/// Proof that the CPU has NEON: only [`run`] makes one.
#[derive(Clone, Copy)]
struct Neon(());

impl Kernel for Neon {
    #[inline(always)]
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
        // SAFETY: a value of this type exists, so the CPU has the feature.
        unsafe { decode_well_formed(text, out) }
    }
}

/// See [`super::run`].
#[target_feature(enable = "neon")]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Neon(()))
}

/// See [`super::decode_well_formed`]: all whole quads in blocks, and a partial one by the portable path.
#[inline]
#[target_feature(enable = "neon")]
fn decode_well_formed(text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    let quads = out.len() / 3;
    // A shorter text would leave bytes of `out` unwritten.
    let Some((text, last)) = text.split_at_checked(quads * 4) else { return false };
    let (out, rest) = out.split_at_mut(quads * 3);
    if !scalar::decode_last(last, rest) {
        return false;
    }
    if quads < QUADS {
        return scalar::decode_well_formed(text, out);
    }
    let [low, high] = load(&VALUES);
    let tables = Tables { low, high };
    let mut found = vdupq_n_u8(0);
    // Counted in blocks of quads, text and output have one length, which the compiler sees.
    let (text, out) = (text.as_chunks().0, out.as_chunks_mut().0);
    for (block, target) in text.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        found = vorrq_u8(found, tables.decode(block, target));
    }
    // What is left is part of the last 64 characters: those before are decoded again.
    if !quads.is_multiple_of(QUADS)
        && let (Some(block), Some(target)) = (text.last_chunk(), out.last_chunk_mut())
    {
        found = vorrq_u8(found, tables.decode(block, target));
    }
    vmaxvq_u8(found) & INVALID == 0
}

/// Encode a block.
#[inline]
#[target_feature(enable = "neon")]
fn encode(letters: uint8x16x4_t, bytes: &[[u8; 3]; QUADS], out: &mut [[MaybeUninit<u8>; 4]; QUADS]) {
    let six = vdupq_n_u8(0b11_1111);
    // SAFETY: `bytes` is 48 bytes.
    let uint8x16x3_t(x, y, z) = unsafe { vld3q_u8(bytes.as_ptr().cast()) };
    // xxxxxxxx yyyyyyyy zzzzzzzz to four fields of six bits.
    let fields = [
        vshrq_n_u8::<2>(x),
        vandq_u8(vsliq_n_u8::<4>(vshrq_n_u8::<4>(y), x), six),
        vandq_u8(vsliq_n_u8::<2>(vshrq_n_u8::<6>(z), y), six),
        vandq_u8(z, six),
    ];
    let [a, b, c, d] = fields.map(|field| vqtbl4q_u8(letters, field));
    // SAFETY: `out` is 64 bytes.
    unsafe { vst4q_u8(out.as_mut_ptr().cast(), uint8x16x4_t(a, b, c, d)) };
}

/// Append the encoding of the whole triples of `bytes`, if they fill a block, and return how many bytes were read.
#[target_feature(enable = "neon")]
pub(super) fn encode_prefix(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let triples = bytes.as_chunks().0;
    if triples.len() < QUADS {
        return 0;
    }
    let [letters] = load(std::array::from_ref(&LETTER));
    let target = &mut out.spare_capacity_mut().as_chunks_mut().0[..triples.len()];
    for (block, target) in triples.as_chunks().0.iter().zip(target.as_chunks_mut().0) {
        encode(letters, block, target);
    }
    // What is left is part of the last 48 bytes: those before are encoded again.
    if !triples.len().is_multiple_of(QUADS)
        && let (Some(block), Some(target)) = (triples.last_chunk(), target.last_chunk_mut())
    {
        encode(letters, block, target);
    }
    // SAFETY: the blocks cover all of `target`, the first characters of the spare capacity.
    unsafe { out.set_len(out.len() + triples.len() * 4) };
    triples.len() * 3
}
