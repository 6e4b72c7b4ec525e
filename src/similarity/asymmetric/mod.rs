//! An int8 query against packed bits that stand for +1 and -1: `2 * (sum of q over set bits) - (sum of q)`, exact in
//! 32 bits up to [`super::MAX_DIMS`] dimensions. It ranks better than Hamming distance, for the query keeps its values.
//!
//! Panels hold 2 and 0 in bytes for a bit that is set or not, and are those of [`super::dot`] otherwise: its kernels
//! read unsigned bytes, and a query's bias is its sum. AMX makes these bytes of rows as they lie.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::collections::TryReserveError;

use scalar::RATIO;

#[cfg(target_arch = "x86_64")]
use super::bit_tiles;
use super::dot::{self, Word};
use super::line::{GROUP, Line};
use super::{Kernels, Matrix, Queries};
use crate::isa::Isa;
use crate::memory::resize;

/// Inner product of int8 queries with rows of +1 and -1. Queries are filled up with zeros to whole bytes of a row.
#[derive(Clone, Copy, Debug)]
pub struct Asymmetric;

#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "calls functions that need a feature of the CPU")
)]
impl Kernels for Asymmetric {
    type Query = i8;
    type Element = u8;
    type Line = Line;
    type Queries = Queries<Word>;

    const GROUP: usize = GROUP;
    const RATIO: usize = RATIO;

    fn isa() -> Isa {
        Isa::dot()
    }

    #[cfg(target_arch = "x86_64")]
    fn block_bytes(isa: Isa) -> usize {
        match isa.min(Isa::dot()) {
            // The scores of 256 queries are in L2 too, which CPUs with AMX have 2 MB of a core.
            Isa::Amx => 64 << 10,
            _ => 128 << 10,
        }
    }

    fn panel_from(isa: Isa) -> usize {
        match isa.min(Isa::dot()) {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => 2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 4,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 16,
            Isa::Scalar => usize::MAX,
            // Rows are read where they lie.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod => 2,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => 5,
        }
    }

    fn rows(isa: Isa, query: &[i8], rows: Matrix<'_, u8>, out: &mut [i32]) {
        debug_assert_eq!((rows.width() * RATIO, rows.len()), (query.len(), out.len()));
        match isa.min(Isa::dot()) {
            // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => unsafe { avx512::rows(query, rows, out) },
            // SAFETY: `Isa::dot` names AVX2 only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::rows(query, rows, out) },
            Isa::Scalar => scalar::rows(query, rows, out),
            // SAFETY: `Isa::dot` names NEON only where it was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::plain::rows(query, rows, out) },
            // SAFETY: `Isa::dot` names these only where dotprod was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod::rows(query, rows, out) },
        }
    }

    fn pack_rows(isa: Isa, rows: Matrix<'_, u8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
        #[cfg(target_arch = "aarch64")]
        match isa.min(Isa::dot()) {
            Isa::Scalar => {}
            Isa::Neon | Isa::NeonDotprod => {
                panel.clear();
                return Ok(());
            }
            // SAFETY: a path above the portable one is named only where NEON was detected.
            Isa::NeonI8mm => return unsafe { neon::pack_rows(rows, panel) },
        }
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::dot()) == Isa::Amx {
            panel.clear();
            return Ok(());
        }
        // A byte has the bits of two words.
        let words = rows.width() * 2;
        resize(panel, rows.len().div_ceil(GROUP) * words, Line([0; GROUP]))?;
        let (groups, rest) = rows.groups::<GROUP>();
        let (full, last) = panel.split_at_mut(groups.len() * words);
        for (group, lines) in groups.zip(full.chunks_exact_mut(words)) {
            let done = match isa.min(Isa::dot()) {
                // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Avx512 => unsafe { avx512::pack(group, lines) },
                _ => 0,
            };
            for (lane, row) in group.into_iter().enumerate() {
                scalar::spread(&row[done..], lane, &mut lines[2 * done..]);
            }
        }
        last.fill(Line([0; GROUP]));
        for (lane, row) in rest.iter().enumerate() {
            scalar::spread(row, lane, last);
        }
        Ok(())
    }

    fn pack_queries(isa: Isa, queries: &[i8], width: usize) -> Result<Queries<Word>, TryReserveError> {
        #[cfg(target_arch = "aarch64")]
        match isa.min(Isa::dot()) {
            Isa::Scalar => {}
            Isa::Neon | Isa::NeonDotprod => return Ok(Queries::Words(neon::pack_queries(queries, width)?)),
            Isa::NeonI8mm => {
                return Ok(Queries::Words(dot::neon::pack_queries(queries, width, dot::i8mm::query_place)?));
            }
        }
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::dot()) == Isa::Amx {
            let word = |query: &[i8], word: usize, plane: usize| {
                let at = |byte: usize| query.get(32 * word + 8 * byte + plane).copied().unwrap_or_default();
                u32::from_le_bytes(std::array::from_fn(|byte| at(byte).cast_unsigned()))
            };
            let tiles = bit_tiles::pack_queries(queries, (width / RATIO, RATIO), word, |query| -dot::sum(query))?;
            return Ok(Queries::Tiles(tiles));
        }
        Ok(Queries::Words(dot::pack_queries(isa, queries, width, 1)?))
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
        match queries {
            #[cfg(target_arch = "aarch64")]
            Queries::Words(words) if isa.min(Isa::dot()) != Isa::Scalar => {
                let (words, count, _) = words.batch(batch);
                match isa.min(Isa::dot()) {
                    // SAFETY: `Isa::dot` names this only where i8mm was detected.
                    Isa::NeonI8mm => unsafe { dot::i8mm::panel(panel, words, count, out, stride) },
                    // SAFETY: `Isa::dot` names this only where dotprod was detected.
                    Isa::NeonDotprod => unsafe { neon::dotprod::panel(rows, words, count, out, stride) },
                    // SAFETY: a path above the portable one is named only where NEON was detected.
                    _ => unsafe { neon::plain::panel(rows, words, count, out, stride) },
                }
            }
            Queries::Words(words) => dot::panel(isa, panel, words, batch, out, stride),
            #[cfg(target_arch = "x86_64")]
            Queries::Tiles(tiles) => {
                assert_eq!(isa.min(Isa::dot()), Isa::Amx, "queries were packed for another path");
                // SAFETY: `Isa::dot` names AMX only where the CPU has tiles and the system lets this process use them;
                // AVX-512 F and BW were detected too.
                unsafe { bit_tiles::panel(rows, 2, tiles, batch, out, stride) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::super::{Batches as _, MAX_DIMS};
    use super::*;

    fn oracle(query: &[i8], row: &[u8]) -> i32 {
        let sign = |at: usize| if row[at / 8] >> (at % 8) & 1 == 1 { 1 } else { -1 };
        query.iter().enumerate().map(|(at, &x)| sign(at) * i32::from(x)).sum()
    }

    fn check(queries: &[i8], data: &[u8], width: usize, stride: usize) {
        let rows = Matrix::new(data, width, stride);
        let expected: Vec<Vec<i32>> =
            queries.chunks_exact(8 * width).map(|q| rows.iter().map(|r| oracle(q, r)).collect()).collect();
        for isa in Isa::ALL {
            let packed = Asymmetric::pack_queries(isa, queries, 8 * width).expect("memory");
            for (query, expected) in queries.chunks_exact(8 * width).zip(&expected) {
                let mut out = vec![-1; rows.len()];
                Asymmetric::rows(isa, query, rows, &mut out);
                assert_eq!(&out, expected, "rows, {isa:?}, width {width}");
            }
            let mut panel = vec![Line([!0; GROUP]); 9]; // the contents of an earlier block
            Asymmetric::pack_rows(isa, rows, &mut panel).expect("memory");
            let (stride, size) = (rows.len().next_multiple_of(GROUP), packed.size());
            for batch in 0..packed.count() {
                let mut out = vec![-1; size * stride];
                Asymmetric::panel(isa, rows, &panel, &packed, batch, &mut out, stride);
                for (lane, expected) in expected[batch * size..].iter().take(size).enumerate() {
                    let got = &out[lane * stride..][..rows.len()];
                    assert_eq!(got, &expected[..], "panel, {isa:?}, width {width}, query {batch}+{lane}");
                }
            }
        }
    }

    #[test]
    fn every_path_equals_the_oracle_at_every_width() {
        let mut random = Random(8);
        for width in (1..=80).chain([125, 128, 129, 320]) {
            for extra in [0, 3] {
                let (queries, rows) = (1 + random.below(11), 1 + random.below(37));
                check(&random.int8(8 * width * queries), &random.bytes((width + extra) * rows), width, width + extra);
            }
        }
    }

    #[test]
    fn several_batches_are_scored_with_several_groups_of_rows() {
        let mut random = Random(11);
        for (queries, rows, width) in
            [(16, 64, 16), (17, 65, 60), (33, 95, 130), (49, 16, 8), (64, 17, 1), (300, 33, 72)]
        {
            check(&random.int8(8 * width * queries), &random.bytes(width * rows), width, width);
        }
    }

    #[test]
    fn extreme_values_do_not_overflow_at_the_greatest_width() {
        let width = MAX_DIMS / 8;
        for value in [-128, 127] {
            for byte in [0, 255] {
                check(&vec![value; 8 * width], &vec![byte; 17 * width], width, width);
            }
        }
    }
}
