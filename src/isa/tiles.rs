//! Permission for the tiles of AMX, registers of a kilobyte each: a process asks the system for them once (Linux,
//! Documentation/arch/x86/xstate.rst).
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "CPUID, and a system call that no library has"))]

#[cfg(target_os = "linux")]
use std::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count},
};

/// Whether the CPU has tiles of int8, and the system lets this process use them.
#[cfg(target_os = "linux")]
pub(super) fn available() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    // CPUID leaf 7, EDX.
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;

    #[allow(unused_unsafe, reason = "newer compilers know that every x86-64 has the instruction")]
    // SAFETY: CPUID is in every x86-64; leaf 7 is read only where the CPU has it.
    let features = unsafe { if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 } };
    if features & (AMX_TILE | AMX_INT8) != AMX_TILE | AMX_INT8 {
        return false;
    }
    let mut result = ARCH_PRCTL;
    // SAFETY: the system call takes two numbers and touches no memory of ours; beside RAX it changes RCX and R11.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn available() -> bool {
    false
}
