//! Inner products of int8 vectors and their squared norms, exact in 32 bits up to [`super::MAX_DIMS`] dimensions.
//!
//! Panels hold `x + 128` in unsigned bytes, as AVX-512's byte product requires. A query's sums then exceed its scores
//! by `128 * (sum of the query)`, one constant a query, its bias. Sums wrap modulo 2^32, which is harmless: scores
//! themselves fit. AMX and NEON multiply signed bytes, and need neither.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod i8mm;
mod layout;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod scalar;

use std::collections::TryReserveError;

pub use layout::Word;
pub(super) use layout::sum;
use layout::{BIAS, WORD, each_word};

use super::line::{GROUP, Line};
use super::{BATCH, Interleaved, Kernels, Matrix, Queries};
use crate::isa::Isa;
use crate::memory::{filled, resize};

/// Inner product of int8 vectors.
#[derive(Clone, Copy, Debug)]
pub struct Dot;

#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "calls functions that need a feature of the CPU")
)]
impl Kernels for Dot {
    type Query = i8;
    type Element = i8;
    type Line = Line;
    type Queries = Queries<Word>;

    const GROUP: usize = GROUP;
    const RATIO: usize = 1;

    fn isa() -> Isa {
        Isa::dot()
    }

    fn block_bytes(isa: Isa) -> usize {
        match isa.min(Isa::dot()) {
            // Almost no row is copied to a panel, and CPUs with AMX have 2 MB of L2 cache a core.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => 256 << 10,
            _ => 128 << 10,
        }
    }

    fn panel_from(isa: Isa) -> usize {
        match isa.min(Isa::dot()) {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => 3,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => 4,
            Isa::Scalar => usize::MAX,
            // Rows are read where they lie.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod => 2,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => 7,
        }
    }

    fn rows(isa: Isa, query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32]) {
        debug_assert_eq!((rows.width(), rows.len()), (query.len(), out.len()));
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
            Isa::Neon => unsafe {
                if neon::has_least(query) {
                    neon::wide::rows(query, rows, out);
                } else {
                    neon::plain::rows(query, rows, out);
                }
            },
            // SAFETY: `Isa::dot` names these only where dotprod was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod::rows(query, rows, out) },
        }
    }

    /// At most `128 * 128 * MAX_DIMS` each.
    fn squared_norms(isa: Isa, rows: Matrix<'_, i8>, out: &mut [u32]) {
        debug_assert_eq!(rows.len(), out.len());
        match isa.min(Isa::dot()) {
            // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => unsafe { avx512::squared_norms(rows, out) },
            // SAFETY: `Isa::dot` names AVX2 only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::squared_norms(rows, out) },
            Isa::Scalar => scalar::squared_norms(rows, out),
            // SAFETY: `Isa::dot` names NEON only where it was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::plain::squared_norms(rows, out) },
            // SAFETY: `Isa::dot` names these only where dotprod was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod::squared_norms(rows, out) },
        }
    }

    fn rows_and_norms(isa: Isa, query: &[i8], rows: Matrix<'_, i8>, out: &mut [i32], norms: &mut [u32]) {
        debug_assert_eq!((rows.width(), rows.len(), rows.len()), (query.len(), out.len(), norms.len()));
        match isa.min(Isa::dot()) {
            // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => unsafe { avx512::rows_and_norms(query, rows, out, norms) },
            // SAFETY: `Isa::dot` names AVX2 only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::rows_and_norms(query, rows, out, norms) },
            Isa::Scalar => scalar::rows_and_norms(query, rows, out, norms),
            // SAFETY: `Isa::dot` names NEON only where it was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe {
                if neon::has_least(query) {
                    neon::wide::rows_and_norms(query, rows, out, norms);
                } else {
                    neon::plain::rows_and_norms(query, rows, out, norms);
                }
            },
            // SAFETY: `Isa::dot` names these only where dotprod was detected.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod::rows_and_norms(query, rows, out, norms) },
        }
    }

    fn pack_rows(isa: Isa, rows: Matrix<'_, i8>, panel: &mut Vec<Line>) -> Result<(), TryReserveError> {
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::dot()) == Isa::Amx {
            return amx::pack_rows(rows, panel);
        }
        #[cfg(target_arch = "aarch64")]
        match isa.min(Isa::dot()) {
            Isa::Scalar => {}
            Isa::Neon | Isa::NeonDotprod => {
                panel.clear();
                return Ok(());
            }
            // SAFETY: a path above the portable one is named only where NEON was detected.
            Isa::NeonI8mm => return unsafe { i8mm::pack_rows(rows, panel) },
        }
        let words = rows.width().div_ceil(WORD);
        // Every lane of a full group is written below: only a last group that is not full needs zeros.
        resize(panel, rows.len().div_ceil(GROUP) * words, Line([0; GROUP]))?;
        let (groups, rest) = rows.groups::<GROUP>();
        let (full, last) = panel.split_at_mut(groups.len() * words);
        for (at, (group, lines)) in groups.zip(full.chunks_exact_mut(words)).enumerate() {
            rows.prefetch((at + 1) * GROUP..(at + 2) * GROUP);
            let done = match isa.min(Isa::dot()) {
                // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Avx512 => unsafe { avx512::pack(group, lines) },
                // SAFETY: `Isa::dot` names AVX2 only where AVX2 was detected.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2::pack(group, lines) },
                _ => 0,
            };
            for (lane, row) in group.into_iter().enumerate() {
                each_word(&row[done * WORD..], |word, value| lines[done + word].0[lane] = value ^ BIAS);
            }
        }
        last.fill(Line([0; GROUP]));
        for (lane, row) in rest.iter().enumerate() {
            each_word(row, |word, value| last[word].0[lane] = value ^ BIAS);
        }
        Ok(())
    }

    fn pack_queries(isa: Isa, queries: &[i8], width: usize) -> Result<Queries<Word>, TryReserveError> {
        #[cfg(target_arch = "x86_64")]
        if isa.min(Isa::dot()) == Isa::Amx {
            return Ok(Queries::Tiles(amx::pack_queries(queries, width)?));
        }
        #[cfg(target_arch = "aarch64")]
        match isa.min(Isa::dot()) {
            Isa::Scalar => {}
            Isa::Neon | Isa::NeonDotprod => {
                return Ok(Queries::Words(neon::pack_queries(queries, width, neon::place)?));
            }
            Isa::NeonI8mm => return Ok(Queries::Words(neon::pack_queries(queries, width, i8mm::query_place)?)),
        }
        Ok(Queries::Words(pack_queries(isa, queries, width, 128)?))
    }

    fn panel(
        isa: Isa,
        rows: Matrix<'_, i8>,
        lines: &[Line],
        queries: &Queries<Word>,
        batch: usize,
        out: &mut [i32],
        stride: usize,
    ) {
        match queries {
            #[cfg(target_arch = "aarch64")]
            Queries::Words(words) if isa.min(Isa::dot()) != Isa::Scalar => {
                let (words, count, _) = words.batch(batch);
                match isa.min(Isa::dot()) {
                    // SAFETY: `Isa::dot` names this only where i8mm was detected.
                    Isa::NeonI8mm => unsafe { i8mm::panel(lines, words, count, out, stride) },
                    // SAFETY: `Isa::dot` names this only where dotprod was detected.
                    Isa::NeonDotprod => unsafe { neon::dotprod::panel(rows, words, count, out, stride) },
                    // SAFETY: a path above the portable one is named only where NEON was detected.
                    _ => unsafe { neon::plain_panel(rows, words, count, out, stride) },
                }
            }
            Queries::Words(words) => panel(isa, lines, words, batch, out, stride),
            #[cfg(target_arch = "x86_64")]
            Queries::Tiles(tiles) => {
                assert_eq!(isa.min(Isa::dot()), Isa::Amx, "queries were packed for another path");
                // SAFETY: `Isa::dot` names AMX only where the CPU has tiles and the system lets this process use them;
                // AVX-512 F was detected too.
                unsafe { amx::panel(rows, lines, tiles, batch, out, stride) }
            }
        }
    }
}

/// Scores of a batch of queries with interleaved rows, on paths that add 128 to elements.
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls functions that need a feature of the CPU"))]
pub(super) fn panel(
    isa: Isa,
    panel: &[Line],
    queries: &Interleaved<Word>,
    batch: usize,
    out: &mut [i32],
    stride: usize,
) {
    let (words, count, bias) = queries.batch(batch);
    match isa.min(Isa::dot()) {
        // SAFETY: `Isa::dot` names AVX-512 only where F, BW, VL and VNNI were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::panel(panel, words, bias, count, out, stride) },
        // SAFETY: `Isa::dot` names AVX2 only where AVX2 was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::panel(panel, words, bias, count, out, stride) },
        _ => scalar::panel(panel, words, bias, count, out, stride),
    }
}

/// Interleave queries whose sums exceed their scores by `excess` times the sum of the query.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only AVX2 has a layout of its own"))]
pub(super) fn pack_queries(
    isa: Isa,
    queries: &[i8],
    width: usize,
    excess: i32,
) -> Result<Interleaved<Word>, TryReserveError> {
    let (count, length) = (queries.len() / width, width.div_ceil(WORD));
    let batches = count.div_ceil(BATCH);
    let mut words = filled([0; BATCH], batches * length)?;
    let mut bias = vec![0; batches * BATCH];
    for (q, query) in queries.chunks_exact(width).enumerate() {
        let batch = &mut words[q / BATCH * length..][..length];
        // A query's last word is filled up with zeros, so whatever a panel has in their place scores nothing.
        each_word(query, |word, value| batch[word][q % BATCH] = value);
        bias[q] = excess * sum(query);
    }
    #[cfg(target_arch = "x86_64")]
    if isa.min(Isa::dot()) == Isa::Avx2 && !avx2::vnni() {
        words = avx2::widen_queries(&words)?;
    }
    let length = words.len() / batches.max(1);
    Ok(Interleaved::new(words, bias, count, length))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::super::{Batches as _, MAX_DIMS, Matrix};
    use super::*;

    fn oracle(a: &[i8], b: &[i8]) -> i32 {
        let sum: i64 = a.iter().zip(b).map(|(&x, &y)| i64::from(x) * i64::from(y)).sum();
        i32::try_from(sum).expect("within MAX_DIMS")
    }

    /// Queries as they are, and without -128, for which there is a path of its own.
    fn check(queries: &[i8], rows: &[i8], width: usize) {
        check_these(queries, rows, width);
        if queries.contains(&-128) {
            let queries: Vec<i8> = queries.iter().map(|&x| x.max(-127)).collect();
            check_these(&queries, rows, width);
        }
    }

    fn check_these(queries: &[i8], rows: &[i8], width: usize) {
        let count = rows.len() / width;
        let expected: Vec<Vec<i32>> =
            queries.chunks_exact(width).map(|q| rows.chunks_exact(width).map(|r| oracle(q, r)).collect()).collect();
        let norms: Vec<u32> = rows.chunks_exact(width).map(|r| oracle(r, r) as u32).collect();
        let matrix = Matrix::whole(rows, width);
        for isa in Isa::ALL {
            let packed = Dot::pack_queries(isa, queries, width).expect("memory");
            for (query, expected) in queries.chunks_exact(width).zip(&expected) {
                let mut out = vec![-1; count];
                Dot::rows(isa, query, matrix, &mut out);
                assert_eq!(&out, expected, "rows, {isa:?}, width {width}");
            }
            let mut out = vec![1; count];
            Dot::squared_norms(isa, matrix, &mut out);
            assert_eq!(out, norms, "norms, {isa:?}, width {width}");
            for (query, expected) in queries.chunks_exact(width).zip(&expected) {
                let mut both = (vec![-1; count], vec![1; count]);
                Dot::rows_and_norms(isa, query, matrix, &mut both.0, &mut both.1);
                assert_eq!((&both.0, &both.1), (expected, &norms), "both, {isa:?}, width {width}");
            }
            let mut panel = vec![Line([!0; GROUP]); 9]; // the contents of an earlier block
            Dot::pack_rows(isa, matrix, &mut panel).expect("memory");
            let stride = count.next_multiple_of(GROUP) + 3;
            let size = packed.size();
            for batch in 0..packed.count() {
                let mut out = vec![-1; size * stride];
                Dot::panel(isa, matrix, &panel, &packed, batch, &mut out, stride);
                for (lane, expected) in expected[batch * size..].iter().take(size).enumerate() {
                    let got = &out[lane * stride..][..stride];
                    assert_eq!(got[..count], expected[..], "panel, {isa:?}, width {width}, query {batch}+{lane}");
                    assert_eq!(got[stride - 3..], [-1; 3], "written beyond the panel, {isa:?}");
                }
            }
        }
    }

    #[test]
    fn every_path_equals_the_oracle_at_every_width() {
        let mut random = Random(3);
        for width in 1..=515 {
            let offset = width % 7;
            let (queries, rows) = (1 + random.below(3), 1 + random.below(19));
            let (queries, rows) = (random.int8(offset + width * queries), random.int8(offset + width * rows));
            check(&queries[offset..], &rows[offset..], width);
        }
    }

    #[test]
    fn every_number_of_queries_and_rows_is_scored() {
        let mut random = Random(4);
        for queries in 1..=18 {
            for rows in 1..=35 {
                check(&random.int8(12 * queries), &random.int8(12 * rows), 12);
            }
        }
    }

    #[test]
    fn several_batches_are_scored_with_several_groups_of_rows() {
        let mut random = Random(6);
        for (queries, rows, width) in
            [(16, 64, 64), (17, 65, 60), (32, 96, 128), (33, 95, 130), (41, 70, 1024), (3, 33, 1)]
        {
            check(&random.int8(queries * width), &random.int8(rows * width), width);
        }
    }

    #[test]
    fn rows_are_scored_wherever_they_begin_in_a_cache_line() {
        let mut random = Random(12);
        for (queries, width) in [(5, 64), (17, 128), (33, 192), (40, 100)] {
            let (queries, data) = (random.int8(queries * width), random.int8(70 * width + 128));
            for offset in [0, 1, 16, 63] {
                let start = data.as_ptr().align_offset(64) + offset;
                check(&queries, &data[start..][..70 * width], width);
            }
        }
    }

    #[test]
    fn extreme_values_do_not_saturate_at_any_width() {
        for width in 0..=515 {
            for (q, r) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
                check(&vec![q; (width + 1) * 2], &vec![r; (width + 1) * 17], width + 1);
            }
        }
    }

    #[test]
    fn prefixes_of_wider_rows_score_like_rows_of_their_width() {
        let mut random = Random(5);
        for (width, stride) in [(7, 9), (32, 64), (40, 70), (64, 65), (128, 1024), (129, 2000)] {
            let (queries, rows) = (random.int8(6 * width), random.int8(77 * stride + 64));
            let rows = &rows[rows.as_ptr().align_offset(64)..][..77 * stride];
            let cut: Vec<i8> = rows.chunks_exact(stride).flat_map(|row| &row[..width]).copied().collect();
            let queries: Vec<i8> = queries.iter().map(|&x| x.max(-127)).collect();
            for isa in Isa::ALL {
                let packed = Dot::pack_queries(isa, &queries, width).expect("memory");
                let mut outs = [vec![0; 6 * 77], vec![0; 6 * 77]];
                for (rows, out) in
                    [Matrix::new(rows, width, stride), Matrix::whole(&cut, width)].into_iter().zip(&mut outs)
                {
                    for (query, out) in queries.chunks_exact(width).zip(out.chunks_exact_mut(77)) {
                        Dot::rows(isa, query, rows, out);
                    }
                    let (mut panel, mut batch) = (vec![], vec![0; packed.size() * 80]);
                    Dot::pack_rows(isa, rows, &mut panel).expect("memory");
                    Dot::panel(isa, rows, &panel, &packed, 0, &mut batch, 80);
                    for (scores, out) in batch.chunks_exact(80).zip(out.chunks_exact(77)) {
                        assert_eq!(&scores[..77], out, "panel, {isa:?}, {width} of {stride}");
                    }
                }
                assert_eq!(outs[0], outs[1], "{isa:?}, {width} of {stride}");
            }
        }
    }

    #[test]
    fn the_widest_vectors_do_not_overflow() {
        check(&vec![-128; MAX_DIMS], &vec![-128; 2 * MAX_DIMS], MAX_DIMS);
        check(&vec![-128; MAX_DIMS], &vec![127; 2 * MAX_DIMS], MAX_DIMS);
        check(&vec![127; MAX_DIMS], &vec![127; 2 * MAX_DIMS], MAX_DIMS);
    }
}
