//! Installing a compiled filter. seccompiler's own `apply_filter` also sets no_new_privs, which would break setuid
//! programs in containers that may gain privileges.

use super::check;
use seccompiler::BpfProgram;
use std::io;

/// Adds a filter to this thread. Takes no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn install(program: &BpfProgram) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: seccompiler's sock_filter has the kernel's layout; pointer and length belong together, and the kernel
    // copies the program without changing it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) }).map(drop)
}
