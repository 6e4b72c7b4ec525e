//! A hint that memory will be read soon.

use std::sync::OnceLock;

/// Bytes that a hint fetches.
const LINE: usize = 64;

/// Ask for the cache lines of `values`; on a CPU without a known hint, nothing.
#[inline]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an intrinsic that takes a pointer"))]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start: *const i8 = values.as_ptr().cast();
        for at in (0..size_of_val(values)).step_by(LINE) {
            // SAFETY: a hint reads nothing that a program can see and faults at no address; SSE is in every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, LINE);
}

/// Bytes between what is read and what is asked for meanwhile, when rows are read one after another.
///
/// Less, and a CPU waits for memory in spite of its own prefetchers; more, and they get in each other's way. On Intel's
/// (Emerald Rapids, of the speed of a plain read: none 64 to 79%, 1 KB 76 to 92, 2 KB 87 to 98, 4 and 8 KB 91 to 100)
/// memory is farther away than on AMD's (Zen 3: none 76 to 79%, 512 bytes 82, 1 KB 89 to 94, 2 KB 87 to 90).
pub(super) fn distance() -> usize {
    static DISTANCE: OnceLock<usize> = OnceLock::new();
    *DISTANCE.get_or_init(|| if is_intel() { 4096 } else { 1024 })
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "asks the CPU for its maker")]
#[allow(unused_unsafe, reason = "newer compilers know that every x86-64 has the instruction")]
fn is_intel() -> bool {
    // SAFETY: CPUID is in every x86-64, and leaf 0 in every CPUID.
    let maker = unsafe { std::arch::x86_64::__cpuid(0) };
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

/// Ask for the cache line that begins about `ahead` bytes after `values`; whether anything lies there does not matter.
#[inline]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an intrinsic that takes a pointer"))]
pub fn prefetch_ahead<T>(values: &T, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = std::ptr::from_ref(values).cast::<i8>().wrapping_add(ahead);
        // SAFETY: a hint reads nothing that a program can see and faults at no address; SSE is in every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, ahead);
}
