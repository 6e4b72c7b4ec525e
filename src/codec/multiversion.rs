//! Function multiversioning: one portable body, compiled once for each instruction set.
//!
//! Not on aarch64: all code for it is compiled with NEON.

/// Define `$name`, which runs the best of the copies of `$portable` up to an [`Isa`](crate::isa::Isa).
macro_rules! multiversion {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),*) => $portable:ident) => {
        $(#[$doc])*
        pub fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) { $portable($($arg),*); }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
                fn avx512($($arg: $type),*) { $portable($($arg),*); }
                match isa.min(Isa::codec()) {
                    // SAFETY: `Isa::codec` names this path only where the CPU has the features it enables.
                    #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
                    Isa::Amx | Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
                    Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    Isa::Scalar => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            $portable($($arg),*);
        }
    };
}
pub(super) use multiversion;
