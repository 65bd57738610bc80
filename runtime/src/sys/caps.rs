//! Capabilities of this thread, as 64-bit sets of the kernel's numbers.

use super::{check, check_int};
use std::io;

/// capget/capset's version 3 header: 64-bit sets in two halves.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Capabilities up to the last one this kernel knows.
pub(crate) fn last_capability() -> u32 {
    std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(40)
}

/// Removes all that are not in `keep` from the bounding set; takes CAP_SETPCAP.
pub(crate) fn limit_bounding(keep: u64, last: u32) -> io::Result<()> {
    for capability in (0..=last).filter(|c| keep & (1 << c) == 0) {
        // SAFETY: takes integers only.
        check_int(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) })?;
    }
    Ok(())
}

/// Sets effective, permitted and inheritable.
pub(crate) fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "a set is handed over in two 32-bit halves")]
    let half = |shift: u32| Half {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: header and the two halves have the kernel's layout for version 3 and live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The permitted set of this thread.
pub(crate) fn permitted() -> io::Result<u64> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Half { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and the two halves have the kernel's layout for version 3 and live through the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

pub(crate) fn clear_ambient() -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }).map(drop)
}

/// Whether a change of user keeps the permitted set.
pub(crate) fn keep_on_setuid(keep: bool) -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) }).map(drop)
}
