//! The instruction set, detected once a process.
//!
//! Each family of kernels requires the exact feature bits it uses. `CTXEMBED_ISA` (`scalar|avx2|avx512|amx` on x86-64,
//! `scalar|neon|neon-dotprod|neon-i8mm` on aarch64) can lower the choice, never raise it, so that no setting makes a
//! process run an instruction that the CPU lacks.

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::sync::OnceLock;

/// A family of kernels, from the portable one up; those of other architectures do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: any CPU.
    Scalar,
    /// x86-64 with AVX2 and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2's, and AVX-512 F, BW, VL and the bit that a family adds (VBMI, VPOPCNTDQ or VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512's, and AMX with int8 tiles, where the system lets this process use them.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Aarch64 with NEON, which practically all have.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON's, and dotprod: four products of bytes and their sum (Neoverse N1, Apple M1).
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// Dotprod's, and i8mm: products of small matrices of bytes (Neoverse V1 and N2, Apple M2).
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

/// Name of the environment variable that lowers the choice.
pub const VARIABLE: &str = "CTXEMBED_ISA";

impl Isa {
    /// All of this architecture, from the lowest up.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];
    /// All of this architecture, from the lowest up.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::NeonDotprod, Self::NeonI8mm];
    /// All of this architecture.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: [Self; 1] = [Self::Scalar];

    const HIGHEST: Self = Self::ALL[Self::ALL.len() - 1];

    /// The value of `CTXEMBED_ISA` for this path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// The best path for base64, the bit functions, JSON and texts here: AVX-512 needs VBMI, aarch64 plain NEON.
    pub fn codec() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| Self::detect(Family::Codec))
    }

    /// The best path for Hamming distances here: AVX-512 needs VPOPCNTDQ, aarch64 plain NEON.
    pub fn hamming() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| Self::detect(Family::Hamming).or_amx())
    }

    /// The best path for int8 products here: AVX-512 needs VNNI.
    pub fn dot() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| Self::detect(Family::Dot).or_amx())
    }

    /// AMX in place of AVX-512, where it may be used.
    fn or_amx(self) -> Self {
        match self {
            // Checked last: a process that has asked for tiles needs more memory a thread from then on.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if ceiling().is_ok_and(|ceiling| ceiling >= Self::Amx) && tiles::available() => Self::Amx,
            choice => choice,
        }
    }

    fn detect(family: Family) -> Self {
        // An unknown value lowers nothing here; the binding refuses it at import.
        family.best().min(ceiling().unwrap_or(Self::HIGHEST))
    }
}

/// The highest path that `CTXEMBED_ISA` allows; its value where that is unknown, or of another architecture.
pub fn ceiling() -> Result<Isa, String> {
    match std::env::var(VARIABLE) {
        Err(std::env::VarError::NotPresent) => Ok(Isa::HIGHEST),
        Err(std::env::VarError::NotUnicode(value)) => Err(value.to_string_lossy().into_owned()),
        Ok(value) if value.is_empty() => Ok(Isa::HIGHEST),
        Ok(value) => Isa::ALL.into_iter().find(|isa| isa.name() == value).ok_or(value),
    }
}

/// Kernels that need the same features of a CPU.
#[derive(Clone, Copy)]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(dead_code, reason = "all are portable"))]
enum Family {
    Codec,
    Hamming,
    Dot,
}

impl Family {
    #[cfg(target_arch = "x86_64")]
    fn best(self) -> Isa {
        use std::arch::is_x86_feature_detected as has;
        // Required for AVX-512 too: its own bits say nothing of these, and a virtual machine may hide any.
        if !(has!("avx2") && has!("popcnt")) {
            return Isa::Scalar;
        }
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
        let extra = match self {
            Self::Codec => has!("avx512vbmi"),
            Self::Hamming => has!("avx512vpopcntdq"),
            Self::Dot => has!("avx512vnni"),
        };
        if avx512 && extra { Isa::Avx512 } else { Isa::Avx2 }
    }

    #[cfg(target_arch = "aarch64")]
    fn best(self) -> Isa {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            _ if !has!("neon") => Isa::Scalar,
            Self::Dot if has!("dotprod") && has!("i8mm") => Isa::NeonI8mm,
            Self::Dot if has!("dotprod") => Isa::NeonDotprod,
            Self::Codec | Self::Hamming | Self::Dot => Isa::Neon,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn best(self) -> Isa {
        Isa::Scalar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_ordered_from_portable_up() {
        assert!(Isa::ALL.is_sorted());
    }

    #[test]
    fn no_choice_exceeds_the_ceiling() {
        let ceiling = ceiling().expect("the test environment sets a known value or none");
        for choice in [Isa::codec(), Isa::hamming(), Isa::dot()] {
            assert!(choice <= ceiling);
        }
    }
}
