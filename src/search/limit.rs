//! The vectorised filter: compares scores with a limit, sixteen at a time. In a long search almost no row passes.

use crate::isa::Isa;
use crate::similarity::cosine;

/// Most scores per call: positions fit in 16 bits, and the caller can tighten the limit between calls.
pub(super) const CHUNK: usize = 256;

/// Room for the positions that a call finds.
pub(super) type Positions = [u16; CHUNK];

/// Scores that are compared together.
const STEP: usize = 16;

/// What a score must meet.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// The score is at most this.
    AtMost(i32),
    /// The score is at least this.
    AtLeast(i32),
    /// The score times the row's inverse norm is at least this.
    Cosine(f32),
}

const AT_MOST: u8 = 0;
const AT_LEAST: u8 = 1;
const COSINE: u8 = 2;

/// Write the positions of the scores that meet the limit, and return their number. `inverse` is as long as `scores`
/// for [`Limit::Cosine`] and not read otherwise.
pub(super) fn find_within(isa: Isa, scores: &[i32], inverse: &[f32], limit: Limit, out: &mut Positions) -> usize {
    match limit {
        Limit::AtMost(limit) => dispatch::<AT_MOST>(isa, scores, &[], limit, 0.0, out),
        Limit::AtLeast(limit) => dispatch::<AT_LEAST>(isa, scores, &[], limit, 0.0, out),
        Limit::Cosine(limit) => dispatch::<COSINE>(isa, scores, inverse, 0, limit, out),
    }
}

#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "calls functions that need a feature of the CPU")
)]
fn dispatch<const KIND: u8>(
    isa: Isa,
    scores: &[i32],
    inverse: &[f32],
    whole: i32,
    real: f32,
    out: &mut Positions,
) -> usize {
    let scores = &scores[..scores.len().min(CHUNK)];
    let (steps, tail) = scores.as_chunks::<STEP>();
    let (inverse_steps, inverse_tail) = inverse.split_at(inverse.len().min(steps.len() * STEP));
    let inverse_steps = inverse_steps.as_chunks::<STEP>().0;
    let mut found = match isa.min(Isa::hamming().max(Isa::dot())) {
        // SAFETY: no family names AVX-512 unless F, BW and VL were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512 => unsafe { simd::avx512::<KIND>(steps, inverse_steps, whole, real, out) },
        // SAFETY: no family names AVX2 unless it was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { simd::avx2::<KIND>(steps, inverse_steps, whole, real, out) },
        // SAFETY: no family names NEON unless it was detected.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe {
            neon::find::<KIND>(steps, inverse_steps, whole, real, out)
        },
        Isa::Scalar => walk::<KIND>(steps, inverse_steps, out, |scores, inverse| {
            let lanes = scores.iter().zip(inverse).enumerate();
            lanes.fold(0, |mask, (lane, (&score, &inverse))| {
                mask | u32::from(meets::<KIND>(score, inverse, whole, real)) << lane
            })
        }),
    };
    for (at, &score) in tail.iter().enumerate() {
        if meets::<KIND>(score, inverse_tail.get(at).copied().unwrap_or_default(), whole, real) {
            out[found] = (steps.len() * STEP + at) as u16;
            found += 1;
        }
    }
    found
}

#[inline]
fn meets<const KIND: u8>(score: i32, inverse: f32, whole: i32, real: f32) -> bool {
    match KIND {
        AT_MOST => score <= whole,
        AT_LEAST => score >= whole,
        _ => cosine::filter_value(score, inverse) >= real,
    }
}

/// Collect the positions of the bits that `compare` sets for each step.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a body is compiled for an instruction set only where it is inlined")]
fn walk<const KIND: u8>(
    steps: &[[i32; STEP]],
    inverse: &[[f32; STEP]],
    out: &mut Positions,
    compare: impl Fn(&[i32; STEP], &[f32; STEP]) -> u32,
) -> usize {
    let mut found = 0;
    for (at, scores) in steps.iter().enumerate() {
        let inverse = if KIND == COSINE { &inverse[at] } else { &[0.0; STEP] };
        let mut mask = compare(scores, inverse);
        while mask != 0 {
            out[found] = (at * STEP) as u16 + mask.trailing_zeros() as u16;
            found += 1;
            mask &= mask - 1;
        }
    }
    found
}

#[cfg(target_arch = "x86_64")]
mod simd {
    #![expect(unsafe_code, reason = "loads through pointers")]
    #![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

    use std::arch::x86_64::*;

    use super::{AT_LEAST, AT_MOST, Positions, STEP, walk};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn avx512<const KIND: u8>(
        steps: &[[i32; STEP]],
        inverse: &[[f32; STEP]],
        whole: i32,
        real: f32,
        out: &mut Positions,
    ) -> usize {
        let (whole, real) = (_mm512_set1_epi32(whole), _mm512_set1_ps(real));
        walk::<KIND>(steps, inverse, out, |scores, inverse| {
            // SAFETY: both arrays are 64 bytes, and the loads need no alignment.
            let (scores, inverse) =
                unsafe { (_mm512_loadu_si512(scores.as_ptr().cast()), _mm512_loadu_ps(inverse.as_ptr())) };
            u32::from(match KIND {
                AT_MOST => _mm512_cmple_epi32_mask(scores, whole),
                AT_LEAST => _mm512_cmpge_epi32_mask(scores, whole),
                _ => {
                    let values = _mm512_mul_ps(_mm512_cvtepi32_ps(scores), inverse);
                    _mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, real)
                }
            })
        })
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn avx2<const KIND: u8>(
        steps: &[[i32; STEP]],
        inverse: &[[f32; STEP]],
        whole: i32,
        real: f32,
        out: &mut Positions,
    ) -> usize {
        let (whole, real) = (_mm256_set1_epi32(whole), _mm256_set1_ps(real));
        walk::<KIND>(steps, inverse, out, |scores, inverse| {
            let (scores, inverse) = (scores.as_chunks::<8>().0, inverse.as_chunks::<8>().0);
            let mut mask = 0;
            for (half, (scores, inverse)) in scores.iter().zip(inverse).enumerate() {
                // SAFETY: both arrays are 32 bytes, and the loads need no alignment.
                let (scores, inverse) =
                    unsafe { (_mm256_loadu_si256(scores.as_ptr().cast()), _mm256_loadu_ps(inverse.as_ptr())) };
                // AVX2 has only the greater-than comparison, so the mask is inverted.
                let bits = match KIND {
                    AT_MOST => !_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(scores, whole))),
                    AT_LEAST => !_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(whole, scores))),
                    _ => {
                        let values = _mm256_mul_ps(_mm256_cvtepi32_ps(scores), inverse);
                        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(values, real))
                    }
                };
                mask |= (bits.cast_unsigned() & 0xff) << (8 * half);
            }
            mask
        })
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    #![expect(unsafe_code, reason = "loads through pointers")]
    #![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix; clippy is silent in test builds")]

    use std::arch::aarch64::*;

    use super::{AT_LEAST, AT_MOST, Positions, STEP, walk};

    #[target_feature(enable = "neon")]
    pub(super) fn find<const KIND: u8>(
        steps: &[[i32; STEP]],
        inverse: &[[f32; STEP]],
        whole: i32,
        real: f32,
        out: &mut Positions,
    ) -> usize {
        let (whole, real) = (vdupq_n_s32(whole), vdupq_n_f32(real));
        let bits = vcreate_u8(0x8040_2010_0804_0201);
        walk::<KIND>(steps, inverse, out, |scores, inverse| {
            let mut met = [vdupq_n_u32(0); STEP / 4];
            for (met, (scores, inverse)) in
                met.iter_mut().zip(scores.as_chunks::<4>().0.iter().zip(inverse.as_chunks::<4>().0))
            {
                // SAFETY: both arrays are 16 bytes, and the loads need no alignment.
                let (scores, inverse) = unsafe { (vld1q_s32(scores.as_ptr()), vld1q_f32(inverse.as_ptr())) };
                *met = match KIND {
                    AT_MOST => vcleq_s32(scores, whole),
                    AT_LEAST => vcgeq_s32(scores, whole),
                    _ => vcgeq_f32(vmulq_f32(vcvtq_f32_s32(scores), inverse), real),
                };
            }
            // All ones or zeros: the even halves of 32 bits, then of 16, are the same in a byte.
            let low = vuzp1q_u16(vreinterpretq_u16_u32(met[0]), vreinterpretq_u16_u32(met[1]));
            let high = vuzp1q_u16(vreinterpretq_u16_u32(met[2]), vreinterpretq_u16_u32(met[3]));
            let bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
            let low = vaddv_u8(vand_u8(vget_low_u8(bytes), bits));
            let high = vaddv_u8(vand_u8(vget_high_u8(bytes), bits));
            u32::from(low) | u32::from(high) << 8
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::similarity::testing::Random;

    #[test]
    fn every_path_equals_a_plain_comparison() {
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
                    let found = find_within(isa, &scores, &[], Limit::AtMost(limit), &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] <= limit));
                    let found = find_within(isa, &scores, &[], Limit::AtLeast(limit), &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] >= limit));
                    let found = find_within(isa, &scores, &inverse, Limit::Cosine(limit as f32), &mut out);
                    assert_eq!(out[..found], positions(&|at| scores[at] as f32 * inverse[at] >= limit as f32));
                }
            }
        }
    }
}
