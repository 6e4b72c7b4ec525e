//! Hamming distances: the number of bits in which two packed vectors differ. The order of bits within a byte does
//! not matter here, as long as both vectors share it.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::collections::TryReserveError;

use layout::{AHEAD, GROUP, LANES, WORD, each_word};
pub use layout::{Line, Word};

#[cfg(target_arch = "x86_64")]
use super::bit_tiles;
use super::{BATCH, Interleaved, Kernels, Matrix, Queries};
use crate::isa::Isa;
use crate::memory::{filled, resize};

/// Number of queries from which tiles win, as measured: 32 cost as much as one, and each row becomes bytes for them.
#[cfg(target_arch = "x86_64")]
const TILES_FROM: usize = 128;

/// Hamming distance between packed vectors.
#[derive(Clone, Copy, Debug)]
pub struct Hamming;

#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "calls functions that need a feature of the CPU")
)]
impl Kernels for Hamming {
    type Query = u8;
    type Element = u8;
    type Line = Line;
    type Queries = Queries<Word>;

    const GROUP: usize = GROUP;
    const RATIO: usize = 1;

    fn isa() -> Isa {
        Isa::hamming()
    }

    #[cfg(target_arch = "x86_64")]
    fn path(isa: Isa, queries: usize) -> Isa {
        match isa.min(Isa::hamming()) {
            Isa::Amx if queries < TILES_FROM => Isa::Avx512,
            isa => isa,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn block_bytes(isa: Isa) -> usize {
        match isa.min(Isa::hamming()) {
            // The scores of 256 queries are in L2 too, which CPUs with AMX have 2 MB of a core.
            Isa::Amx => 64 << 10,
            _ => 128 << 10,
        }
    }

    fn panel_from(isa: Isa) -> usize {
        match isa.min(Isa::hamming()) {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => 4,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            Isa::Scalar => usize::MAX,
            // Rows are read where they lie.
            #[cfg(target_arch = "aarch64")]
            _ => 2,
        }
    }

    fn rows(isa: Isa, query: &[u8], rows: Matrix<'_, u8>, out: &mut [i32]) {
        debug_assert_eq!((rows.width(), rows.len()), (query.len(), out.len()));
        match isa.min(Isa::hamming()) {
            // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => unsafe { avx512::rows(query, rows, out) },
            // SAFETY: `Isa::hamming` names AVX2 only where AVX2 and POPCNT were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::rows(query, rows, out) },
            Isa::Scalar => scalar::rows(query, rows, out),
            // SAFETY: `Isa::hamming` names NEON only where it was detected.
            #[cfg(target_arch = "aarch64")]
            _ => unsafe { neon::rows(query, rows, out) },
        }
    }

    fn pack_rows(isa: Isa, rows: Matrix<'_, u8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
        #[cfg(target_arch = "aarch64")]
        if isa.min(Isa::hamming()) >= Isa::Neon {
            panel.clear();
            return Ok(());
        }
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::hamming()) == Isa::Amx {
            panel.clear();
            return Ok(());
        }
        let (groups, words) = (rows.len().div_ceil(GROUP), rows.width().div_ceil(WORD));
        // Every lane of a full group is written below: only a last group that is not full needs zeros.
        let zero = Line([0; LANES * WORD]);
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::hamming()) == Isa::Avx2 {
            resize(panel, groups * words * avx2::LINES, zero)?;
            // SAFETY: `Isa::hamming` names AVX2 only where AVX2 and POPCNT were detected.
            unsafe { avx2::pack(rows, panel) };
            return Ok(());
        }
        resize(panel, groups * words * (GROUP / LANES), zero)?;
        let (groups, rest) = rows.groups::<LANES>();
        let (full, last) = panel.split_at_mut(groups.len() * words);
        for (at, (group, lines)) in groups.zip(full.chunks_exact_mut(words)).enumerate() {
            rows.prefetch((at + 2 * AHEAD) * LANES..(at + 2 * AHEAD + 1) * LANES);
            let done = match isa.min(Isa::hamming()) {
                // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Avx512 => unsafe { avx512::pack(group, lines) },
                _ => 0,
            };
            for (lane, row) in group.into_iter().enumerate() {
                each_word(&row[done * WORD..], |word, value| lines[done + word].set(lane, value));
            }
        }
        last.fill(zero);
        for (lane, row) in rest.iter().enumerate() {
            each_word(row, |word, value| last[word].set(lane, value));
        }
        Ok(())
    }

    fn pack_queries(isa: Isa, queries: &[u8], width: usize) -> Result<Queries<Word>, TryReserveError> {
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::hamming()) == Isa::Amx {
            return Ok(Queries::Tiles(amx::pack_queries(queries, width)?));
        }
        let (count, length) = (queries.len() / width, width.div_ceil(WORD));
        let batches = count.div_ceil(BATCH);
        let mut words = filled([0; BATCH * WORD], batches * length)?;
        for (q, query) in queries.chunks_exact(width).enumerate() {
            let (batch, q) = (&mut words[q / BATCH * length..][..length], q % BATCH);
            match isa.min(Isa::hamming()) {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::pack_query(query, q, batch),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::pack_query(query, q, batch),
                _ => each_word(query, |word, value| batch[word].as_chunks_mut().0[q] = value.to_ne_bytes()),
            }
        }
        Ok(Queries::Words(Interleaved::new(words, vec![0; batches * BATCH], count, length)))
    }

    fn panel(
        isa: Isa,
        rows: Matrix<'_, u8>,
        panel: &[Line],
        queries: &Queries<Word>,
        batch: usize,
        out: &mut [i32],
        stride: usize,
    ) {
        debug_assert!(stride >= rows.len());
        let words = match queries {
            Queries::Words(words) => words,
            #[cfg(target_arch = "x86_64")]
            Queries::Tiles(tiles) => {
                assert_eq!(isa.min(Isa::hamming()), Isa::Amx, "queries were packed for another path");
                // SAFETY: `Isa::hamming` names AMX only where the CPU has tiles and the system lets this process use them;
                // AVX-512 F and BW were detected too.
                return unsafe { bit_tiles::panel(rows, 1, tiles, batch, out, stride) };
            }
        };
        let (words, count, _) = words.batch(batch);
        match isa.min(Isa::hamming()) {
            // SAFETY: `Isa::hamming` names AVX-512 only where F, BW, VL and VPOPCNTDQ were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => unsafe { avx512::panel(panel, words, count, out, stride) },
            // SAFETY: `Isa::hamming` names AVX2 only where AVX2 and POPCNT were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::panel(panel, words, count, out, stride) },
            Isa::Scalar => scalar::panel(panel, words, count, out, stride),
            // SAFETY: `Isa::hamming` names NEON only where it was detected.
            #[cfg(target_arch = "aarch64")]
            _ => unsafe { neon::panel(rows, words, count, out, stride) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Batches as _;
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
        for isa in Isa::ALL {
            let packed = Hamming::pack_queries(isa, query_data, width).expect("memory");
            for (q, query) in query_data.chunks_exact(width).enumerate() {
                let mut out = vec![-1; rows];
                Hamming::rows(isa, query, Matrix::whole(row_data, width), &mut out);
                assert_eq!(out, expected[q], "rows, {isa:?}, width {width}, offset {offset}");
            }
            let matrix = Matrix::whole(row_data, width);
            let mut panel = vec![Line([!0; LANES * WORD]); 9]; // the contents of an earlier block
            Hamming::pack_rows(isa, matrix, &mut panel).expect("memory");
            let (stride, size) = (rows.next_multiple_of(GROUP) + 3, packed.size());
            for batch in 0..packed.count() {
                let mut out = vec![-1; size * stride];
                Hamming::panel(isa, matrix, &panel, &packed, batch, &mut out, stride);
                for (lane, expected) in expected[batch * size..].iter().take(size).enumerate() {
                    let got = &out[lane * stride..][..stride];
                    assert_eq!(got[..rows], expected[..], "panel, {isa:?}, width {width}, {queries} x {rows}");
                    assert_eq!(got[stride - 3..], [-1; 3], "written beyond the panel, {isa:?}");
                }
            }
        }
    }

    #[test]
    fn every_path_equals_the_oracle_at_every_width() {
        let mut random = Random(1);
        for width in 1..=515 {
            check(width, width % 7, 1 + random.below(3), 1 + random.below(19), &mut random);
        }
    }

    #[test]
    fn every_number_of_queries_and_rows_is_scored() {
        let mut random = Random(2);
        for queries in 1..=18 {
            for rows in 1..=35 {
                check(24, 1, queries, rows, &mut random);
            }
        }
    }

    #[test]
    fn several_batches_are_scored_with_several_groups_of_rows() {
        let mut random = Random(10);
        for (queries, rows, width) in
            [(16, 64, 64), (17, 65, 60), (32, 96, 128), (33, 95, 130), (49, 16, 8), (64, 17, 1), (300, 33, 72)]
        {
            check(width, 3, queries, rows, &mut random);
        }
    }

    #[test]
    fn no_counter_overflows_where_all_bits_differ() {
        let width = 33_000;
        let (query, rows) = (vec![0u8; width], vec![255u8; 3 * width]);
        for isa in Isa::ALL {
            let packed = Hamming::pack_queries(isa, &query, width).expect("memory");
            let mut out = [0; 3];
            Hamming::rows(isa, &query, Matrix::whole(&rows, width), &mut out);
            assert_eq!(out, [width as i32 * 8; 3], "{isa:?}");
            let (matrix, mut panel, mut out) = (Matrix::whole(&rows, width), vec![], vec![0; GROUP * packed.size()]);
            Hamming::pack_rows(isa, matrix, &mut panel).expect("memory");
            Hamming::panel(isa, matrix, &panel, &packed, 0, &mut out, GROUP);
            assert_eq!(out[..3], [width as i32 * 8; 3], "{isa:?}");
        }
    }
}
