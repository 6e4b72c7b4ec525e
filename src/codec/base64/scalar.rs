//! The portable path, which also decodes the tails of the AVX2 path.

use std::mem::MaybeUninit;

use super::kernel::Kernel;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Stands for a byte outside the alphabet; larger than any sum of shifted values.
const INVALID: u32 = 0xFF00_0000;

/// Value of each byte shifted to each of the four places of a quad, so that a quad is three ORs and one comparison.
static QUAD: [[u32; 256]; 4] = quad_tables();

const fn quad_tables() -> [[u32; 256]; 4] {
    let mut tables = [[INVALID; 256]; 4];
    let mut value = 0;
    while value < 64 {
        let byte = ALPHABET[value] as usize;
        let mut place = 0;
        while place < 4 {
            tables[place][byte] = (value as u32) << (18 - 6 * place);
            place += 1;
        }
        value += 1;
    }
    tables
}

/// The six bits that `byte` stands for, or None outside the alphabet.
#[inline]
pub(super) fn value(byte: u8) -> Option<u8> {
    let value = QUAD[3][byte as usize];
    (value != INVALID).then_some(value as u8)
}

/// The path that every CPU has.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn decode_well_formed(self, text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
        decode_well_formed(text, out)
    }
}

/// See [`super::decode_well_formed`].
pub(super) fn decode_well_formed(text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    let (triples, rest) = out.as_chunks_mut::<3>();
    // A shorter text would leave bytes of `out` unwritten.
    let Some((quads, tail)) = text.split_at_checked(triples.len() * 4) else { return false };
    // Faults are collected, not branched on: valid text is the rule, and `explain` finds the place.
    let mut fault = 0;
    for (quad, triple) in quads.as_chunks::<4>().0.iter().zip(triples) {
        let [a, b, c, d] = quad.map(usize::from);
        let bits = QUAD[0][a] | QUAD[1][b] | QUAD[2][c] | QUAD[3][d];
        fault |= bits;
        let [_, x, y, z] = bits.to_be_bytes();
        *triple = [x, y, z].map(MaybeUninit::new);
    }
    fault & INVALID == 0 && decode_last(tail, rest)
}

/// Decode what follows the last whole quad: nothing, or a quad with padding.
#[inline]
pub(super) fn decode_last(text: &[u8], out: &mut [MaybeUninit<u8>]) -> bool {
    if out.is_empty() {
        return text.is_empty();
    }
    let &[a, b, c, b'='] = text else { return false };
    if let [x] = out {
        let bits = QUAD[0][a as usize] | QUAD[1][b as usize];
        x.write((bits >> 16) as u8);
        return c == b'=' && bits & 0xFF00_FFFF == 0;
    }
    let bits = QUAD[0][a as usize] | QUAD[1][b as usize] | QUAD[2][c as usize];
    let [x, y] = out else { return false };
    x.write((bits >> 16) as u8);
    y.write((bits >> 8) as u8);
    bits & 0xFF00_00FF == 0
}

/// Append the encoding of `bytes`, padding included.
pub(super) fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let letter = |bits: u32| ALPHABET[(bits & 63) as usize];
    let (triples, rest) = bytes.as_chunks::<3>();
    if !triples.is_empty() {
        out.extend(triples.iter().flat_map(|&[x, y, z]| {
            let bits = u32::from_be_bytes([0, x, y, z]);
            [letter(bits >> 18), letter(bits >> 12), letter(bits >> 6), letter(bits)]
        }));
    }
    match *rest {
        [x] => {
            let bits = u32::from(x) << 16;
            out.extend_from_slice(&[letter(bits >> 18), letter(bits >> 12), b'=', b'=']);
        }
        [x, y] => {
            let bits = u32::from_be_bytes([0, x, y, 0]);
            out.extend_from_slice(&[letter(bits >> 18), letter(bits >> 12), letter(bits >> 6), b'=']);
        }
        _ => {}
    }
}
