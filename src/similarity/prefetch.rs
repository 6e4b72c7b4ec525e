//! A hint that memory will be read soon.

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

/// Ask for the cache line that begins about `ahead` bytes after `values`; whether anything lies there does not matter.
#[inline]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an intrinsic that takes a pointer"))]
pub fn prefetch_ahead<T>(values: &[T], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = values.as_ptr().cast::<i8>().wrapping_add(ahead);
        // SAFETY: a hint reads nothing that a program can see and faults at no address; SSE is in every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, ahead);
}
