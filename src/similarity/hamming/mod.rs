//! Hamming distances: the number of bits in which two packed vectors differ. The order of bits within a byte does
//! not matter here, as long as both vectors share it.

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::{BATCH, Kernels, Matrix, Queries};
use crate::isa::Isa;

/// Bytes in a word.
const WORD: usize = 8;
/// Rows in a group.
const GROUP: usize = 8;

/// The same 64 bits of eight rows.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Line(pub(crate) [u64; GROUP]);

/// Hamming distance between packed vectors.
#[derive(Clone, Copy, Debug)]
pub struct Hamming;

#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls functions that need a feature of the CPU"))]
impl Kernels for Hamming {
    type Query = u8;
    type Element = u8;
    type Line = Line;
    type Word = [u64; BATCH];

    const GROUP: usize = GROUP;
    const RATIO: usize = 1;

    fn isa() -> Isa {
        Isa::hamming()
    }

    fn panel_from(isa: Isa) -> usize {
        match isa.min(Isa::hamming()) {
            Isa::Avx512 => 4,
            Isa::Avx2 => 8,
            Isa::Scalar => usize::MAX,
        }
    }

    fn rows(isa: Isa, query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
        debug_assert_eq!((rows.width(), rows.len()), (query.len(), out.len()));
        match isa.min(Isa::hamming()) {
            // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::rows(query, rows, out) },
            // SAFETY: `Isa::hamming` names AVX2 only where AVX2 and POPCNT were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::rows(query, rows, out) },
            _ => scalar::rows(query, rows, out),
        }
    }

    fn pack_rows(isa: Isa, rows: Matrix<'_, u8>, panel: &mut Vec<Line>) {
        let words = rows.width().div_ceil(WORD);
        // Every lane of a full group is written below: only a last group that is not full needs zeros.
        panel.resize(rows.len().div_ceil(GROUP) * words, Line([0; GROUP]));
        let (groups, rest) = rows.groups::<GROUP>();
        let (full, last) = panel.split_at_mut(groups.len() * words);
        for (group, lines) in groups.zip(full.chunks_exact_mut(words)) {
            let done = match isa.min(Isa::hamming()) {
                // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512::pack(group, lines) },
                _ => 0,
            };
            for (lane, row) in group.into_iter().enumerate() {
                each_word(&row[done * WORD..], |word, value| lines[done + word].0[lane] = value);
            }
        }
        last.fill(Line([0; GROUP]));
        for (lane, row) in rest.iter().enumerate() {
            each_word(row, |word, value| last[word].0[lane] = value);
        }
    }

    fn pack_queries(queries: &[u8], width: usize) -> Queries<Self::Word> {
        let (count, length) = (queries.len() / width, width.div_ceil(WORD));
        let batches = count.div_ceil(BATCH);
        let mut words = vec![[0; BATCH]; batches * length];
        for (q, query) in queries.chunks_exact(width).enumerate() {
            let batch = &mut words[q / BATCH * length..][..length];
            each_word(query, |word, value| batch[word][q % BATCH] = value);
        }
        Queries { words, bias: vec![0; batches * BATCH], count, length }
    }

    fn panel(isa: Isa, panel: &[Line], queries: &Queries<Self::Word>, batch: usize, out: &mut [i32], stride: usize) {
        let (words, count, _) = queries.batch(batch);
        match isa.min(Isa::hamming()) {
            // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::panel(panel, words, count, out, stride) },
            // SAFETY: `Isa::hamming` names AVX2 only where AVX2 and POPCNT were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::panel(panel, words, count, out, stride) },
            _ => scalar::panel(panel, words, count, out, stride),
        }
    }
}

/// The vector's 64-bit words, the last one filled up with zero bytes.
#[inline]
fn each_word(vector: &[u8], mut visit: impl FnMut(usize, u64)) {
    let (words, tail) = vector.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        visit(index, u64::from_ne_bytes(*word));
    }
    if !tail.is_empty() {
        let mut word = [0; WORD];
        word[..tail.len()].copy_from_slice(tail);
        visit(words.len(), u64::from_ne_bytes(word));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn oracle(a: &[u8], b: &[u8]) -> i32 {
        a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones() as i32).sum()
    }

    fn check(width: usize, offset: usize, queries: usize, rows: usize, random: &mut Random) {
        let (all_queries, all_rows) = (random.bytes(offset + width * queries), random.bytes(offset + width * rows));
        let (query_data, row_data) = (&all_queries[offset..], &all_rows[offset..]);
        let expected: Vec<Vec<i32>> = query_data
            .chunks_exact(width)
            .map(|q| row_data.chunks_exact(width).map(|r| oracle(q, r)).collect())
            .collect();
        let packed = Hamming::pack_queries(query_data, width);
        for isa in Isa::ALL {
            for (q, query) in query_data.chunks_exact(width).enumerate() {
                let mut out = vec![-1; rows];
                Hamming::rows(isa, query, Matrix::whole(row_data, width), &mut out);
                assert_eq!(out, expected[q], "rows, {isa:?}, width {width}, offset {offset}");
            }
            let mut panel = vec![Line([!0; GROUP]); 9]; // what an earlier block left behind
            Hamming::pack_rows(isa, Matrix::whole(row_data, width), &mut panel);
            let stride = rows.next_multiple_of(GROUP) + 3;
            for batch in 0..packed.batches() {
                let mut out = vec![-1; BATCH * stride];
                Hamming::panel(isa, &panel, &packed, batch, &mut out, stride);
                for (lane, expected) in expected[batch * BATCH..].iter().take(BATCH).enumerate() {
                    let got = &out[lane * stride..][..stride];
                    assert_eq!(got[..rows], expected[..], "panel, {isa:?}, width {width}, {queries} x {rows}");
                    assert_eq!(got[stride - 3..], [-1; 3], "written beyond the panel, {isa:?}");
                }
            }
        }
    }

    #[test]
    fn every_path_counts_what_the_oracle_counts_at_every_width() {
        let mut random = Random(1);
        for width in 1..=515 {
            check(width, width % 7, 1 + random.below(3), 1 + random.below(19), &mut random);
        }
    }

    #[test]
    fn every_batch_of_queries_and_group_of_rows_is_served() {
        let mut random = Random(2);
        for queries in 1..=18 {
            for rows in 1..=35 {
                check(24, 1, queries, rows, &mut random);
            }
        }
    }

    #[test]
    fn all_bits_differ_without_a_counter_overflowing() {
        let width = 9000;
        let (query, rows) = (vec![0u8; width], vec![255u8; 3 * width]);
        let packed = Hamming::pack_queries(&query, width);
        for isa in Isa::ALL {
            let mut out = [0; 3];
            Hamming::rows(isa, &query, Matrix::whole(&rows, width), &mut out);
            assert_eq!(out, [width as i32 * 8; 3], "{isa:?}");
            let (mut panel, mut out) = (vec![], [0; 8 * BATCH]);
            Hamming::pack_rows(isa, Matrix::whole(&rows, width), &mut panel);
            Hamming::panel(isa, &panel, &packed, 0, &mut out, 8);
            assert_eq!(out[..3], [width as i32 * 8; 3], "{isa:?}");
        }
    }
}
