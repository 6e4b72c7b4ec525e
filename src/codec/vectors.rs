//! Whole vectors: truncated to their first dimensions, or scaled to unit length.

use std::mem::MaybeUninit;

use super::multiversion::multiversion;
use crate::isa::Isa;

/// Copy the first `kept` of the `width` values of each row to `out`, row after row. All of `out` is written, which has
/// `kept` values for each row.
pub fn truncate<T: Copy>(rows: &[T], width: usize, kept: usize, out: &mut [MaybeUninit<T>]) {
    let fits = kept <= width && rows.len().is_multiple_of(width) && rows.len() / width * kept == out.len();
    assert!(fits, "{} values in rows of {width} are not {} of {kept} a row", rows.len(), out.len());
    for (row, target) in rows.chunks_exact(width).zip(out.chunks_exact_mut(kept)) {
        for (to, from) in target.iter_mut().zip(row) {
            to.write(*from);
        }
    }
}

multiversion! {
    /// Scale each row of `width` values to unit length. A zero row stays zero. `out` is as long as `rows`, and all of it
    /// is written.
    ///
    /// The sum of squares is an exact integer and the factor is computed in double precision: every path rounds alike.
    pub fn normalize(rows: &[i8], width: usize, out: &mut [MaybeUninit<f32>]) => normalize_portable
}

#[inline(always)]
fn normalize_portable(rows: &[i8], width: usize, out: &mut [MaybeUninit<f32>]) {
    assert!(rows.len() == out.len() && rows.len().is_multiple_of(width), "whole rows of {width} values");
    for (row, target) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        // 65,536 squares of at most 2^14 stay below 2^31; longer rows are summed in pieces.
        let squares: u64 = row
            .chunks(1 << 16)
            .map(|piece| piece.iter().map(|&v| i32::from(v) * i32::from(v)).sum::<i32>() as u64)
            .sum();
        let factor = if squares == 0 { 0.0 } else { (1.0 / (squares as f64).sqrt()) as f32 };
        for (to, &from) in target.iter_mut().zip(row) {
            to.write(f32::from(from) * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "reads memory that the function under test must have written")]
    fn unit(isa: Isa, rows: &[i8], width: usize) -> Vec<f32> {
        let mut memory = vec![MaybeUninit::new(f32::NAN); rows.len()];
        normalize(isa, rows, width, &mut memory);
        // SAFETY: every element was initialised.
        memory.into_iter().map(|value| unsafe { value.assume_init() }).collect()
    }

    #[test]
    fn every_path_gives_the_same_unit_rows() {
        for width in [1, 7, 8, 100, 1024, 2560, 70_000] {
            let mut rows: Vec<i8> = (0..width * 2).map(|i| (i * 37 % 256) as u8 as i8).collect();
            rows.extend(std::iter::repeat_n(0, width));
            rows.extend(std::iter::repeat_n(-128, width));
            let reference = unit(Isa::Scalar, &rows, width);
            for isa in Isa::ALL {
                assert_eq!(unit(isa, &rows, width), reference, "{isa:?} {width}");
            }
            let length = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            assert!((length(&reference[width * 3..]) - 1.0).abs() < 1e-5);
            assert!(reference[width * 2..width * 3].iter().all(|&v| v == 0.0));
        }
    }
}
