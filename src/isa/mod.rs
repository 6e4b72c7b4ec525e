//! The instruction set, detected once a process.
//!
//! Each family of kernels requires the exact feature bits it uses. `CTXEMBED_ISA=scalar|avx2|avx512|amx` can lower the
//! choice, never raise it, so that no setting makes a process run an instruction that the CPU lacks.

#[cfg(target_arch = "x86_64")]
mod tiles;

use std::sync::OnceLock;

/// A family of kernels, from the portable one up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: any CPU. On aarch64 the compiler vectorises it.
    Scalar,
    /// x86-64 with AVX2 and POPCNT.
    Avx2,
    /// AVX2's, and AVX-512 F, BW, VL and the bit that a family adds (VBMI, VPOPCNTDQ or VNNI).
    Avx512,
    /// AVX-512's, and AMX with int8 tiles, where the system lets this process use them.
    Amx,
}

/// Name of the environment variable that lowers the choice.
pub const VARIABLE: &str = "CTXEMBED_ISA";

impl Isa {
    /// All of them, from the lowest up.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];

    /// The value of `CTXEMBED_ISA` for this path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// The best path for base64 and the bit functions here: AVX-512 needs VBMI.
    pub fn codec() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| Self::detect(Feature::Vbmi))
    }

    /// The best path for Hamming distances here: AVX-512 needs VPOPCNTDQ.
    pub fn hamming() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| Self::detect(Feature::Vpopcntdq))
    }

    /// The best path for int8 products here: AVX-512 needs VNNI.
    pub fn dot() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| match Self::detect(Feature::Vnni) {
            // Checked last: a process that has asked for tiles needs more memory a thread from then on.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if ceiling().is_ok_and(|ceiling| ceiling >= Self::Amx) && tiles::available() => Self::Amx,
            choice => choice,
        })
    }

    fn detect(feature: Feature) -> Self {
        // An unknown value lowers nothing here; the binding refuses it at import.
        feature.best().min(ceiling().unwrap_or(Self::Amx))
    }
}

/// The highest path that `CTXEMBED_ISA` allows; its value where that is unknown.
pub fn ceiling() -> Result<Isa, String> {
    match std::env::var(VARIABLE) {
        Err(std::env::VarError::NotPresent) => Ok(Isa::Amx),
        Err(std::env::VarError::NotUnicode(value)) => Err(value.to_string_lossy().into_owned()),
        Ok(value) if value.is_empty() => Ok(Isa::Amx),
        Ok(value) => Isa::ALL.into_iter().find(|isa| isa.name() == value).ok_or(value),
    }
}

/// The bit beyond F, BW and VL that a family of AVX-512 kernels uses.
#[derive(Clone, Copy)]
enum Feature {
    Vbmi,
    Vpopcntdq,
    Vnni,
}

impl Feature {
    #[cfg(target_arch = "x86_64")]
    fn best(self) -> Isa {
        use std::arch::is_x86_feature_detected as has;
        // Required for AVX-512 too: its own bits say nothing of these, and a virtual machine may hide any.
        if !(has!("avx2") && has!("popcnt")) {
            return Isa::Scalar;
        }
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
        let extra = match self {
            Self::Vbmi => has!("avx512vbmi"),
            Self::Vpopcntdq => has!("avx512vpopcntdq"),
            Self::Vnni => has!("avx512vnni"),
        };
        if avx512 && extra { Isa::Avx512 } else { Isa::Avx2 }
    }

    #[cfg(not(target_arch = "x86_64"))]
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
