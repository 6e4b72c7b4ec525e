//! The rows of a block that may be among the best: a comparison with the k-th best so far, which almost no row of a
//! long scan passes. Compiled once for each instruction set; the compiler vectorises the comparison.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set at hand")]

use crate::isa::Isa;

/// Rows that one call looks at, at most: positions fit in 16 bits, and a limit is never old.
pub(super) const CHUNK: usize = 256;

/// Positions of survivors, as many as the filter says.
pub(super) type Positions = [u16; CHUNK];

/// Rows compared before the first look at the result.
const STEP: usize = 16;
const NONE: [f32; STEP] = [0.0; STEP];

/// Positions whose score is at most `limit`.
pub(super) fn at_most(isa: Isa, scores: &[i32], limit: i32, out: &mut Positions) -> usize {
    dispatch(isa, scores, &[], out, AtMost(limit))
}

/// Positions whose score is at least `limit`.
pub(super) fn at_least(isa: Isa, scores: &[i32], limit: i32, out: &mut Positions) -> usize {
    dispatch(isa, scores, &[], out, AtLeast(limit))
}

/// Positions whose score times inverse norm is at least `limit`.
pub(super) fn cosine_at_least(isa: Isa, scores: &[i32], inverse: &[f32], limit: f32, out: &mut Positions) -> usize {
    dispatch(isa, scores, inverse, out, CosineAtLeast(limit))
}

/// What a row is kept for.
trait Keep: Copy {
    /// Whether the row's inverse norm is looked at.
    const INVERSE: bool;
    fn keep(self, score: i32, inverse: f32) -> bool;
}

#[derive(Clone, Copy)]
struct AtMost(i32);
#[derive(Clone, Copy)]
struct AtLeast(i32);
#[derive(Clone, Copy)]
struct CosineAtLeast(f32);

impl Keep for AtMost {
    const INVERSE: bool = false;
    #[inline(always)]
    fn keep(self, score: i32, _: f32) -> bool {
        score <= self.0
    }
}

impl Keep for AtLeast {
    const INVERSE: bool = false;
    #[inline(always)]
    fn keep(self, score: i32, _: f32) -> bool {
        score >= self.0
    }
}

impl Keep for CosineAtLeast {
    const INVERSE: bool = true;
    #[inline(always)]
    fn keep(self, score: i32, inverse: f32) -> bool {
        crate::similarity::cosine::filter_value(score, inverse) >= self.0
    }
}

#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls functions that need a feature of the CPU"))]
fn dispatch<K: Keep>(isa: Isa, scores: &[i32], inverse: &[f32], out: &mut Positions, keep: K) -> usize {
    match isa.min(Isa::hamming().max(Isa::dot())) {
        // SAFETY: no family names AVX-512 unless F, BW and VL were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(scores, inverse, out, keep) },
        // SAFETY: no family names AVX2 unless it was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(scores, inverse, out, keep) },
        _ => survivors(scores, inverse, out, keep),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512<K: Keep>(scores: &[i32], inverse: &[f32], out: &mut Positions, keep: K) -> usize {
    survivors(scores, inverse, out, keep)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Keep>(scores: &[i32], inverse: &[f32], out: &mut Positions, keep: K) -> usize {
    survivors(scores, inverse, out, keep)
}

#[inline(always)]
fn survivors<K: Keep>(scores: &[i32], inverse: &[f32], out: &mut Positions, keep: K) -> usize {
    let scores = &scores[..scores.len().min(CHUNK)];
    let mut found = 0;
    let mut at = 0;
    let (steps, tail) = scores.as_chunks::<STEP>();
    for step in steps {
        let inverses = if K::INVERSE { *inverse[at..].first_chunk().unwrap_or(&NONE) } else { NONE };
        let any = step.iter().zip(inverses).fold(false, |any, (&score, inverse)| any | keep.keep(score, inverse));
        if any {
            for (lane, (&score, inverse)) in step.iter().zip(inverses).enumerate() {
                // Every position is written; only a survivor's stays.
                out[found] = (at + lane) as u16;
                found += usize::from(keep.keep(score, inverse));
            }
        }
        at += STEP;
    }
    for &score in tail {
        if keep.keep(score, if K::INVERSE { inverse[at] } else { 0.0 }) {
            out[found] = at as u16;
            found += 1;
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    #[test]
    fn every_path_keeps_what_a_plain_comparison_keeps() {
        let mut random = Random(11);
        let mut out = [0; CHUNK];
        for length in (0..=70).chain([CHUNK - 1, CHUNK]) {
            for limit in [-3, 0, 2, 100, i32::MAX, i32::MIN] {
                let scores: Vec<i32> = (0..length).map(|_| random.below(9) as i32 - 4).collect();
                let inverse: Vec<f32> = (0..length).map(|_| random.below(5) as f32 / 2.0).collect();
                let positions = |keep: &dyn Fn(usize) -> bool| -> Vec<u16> {
                    (0..length).filter(|&at| keep(at)).map(|at| at as u16).collect()
                };
                for isa in Isa::ALL {
                    let found = at_most(isa, &scores, limit, &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] <= limit));
                    let found = at_least(isa, &scores, limit, &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] >= limit));
                    let found = cosine_at_least(isa, &scores, &inverse, limit as f32, &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] as f32 * inverse[at] >= limit as f32));
                }
            }
        }
    }
}
