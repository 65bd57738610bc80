//! System calls that neither std nor nix offers safely. All unsafe code of the crate is below this module.

pub(crate) mod bpf;
pub(crate) mod caps;
pub(crate) mod exe;
pub(crate) mod fd;
pub(crate) mod fs;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod tty;

use std::io;

/// Turns libc's -1 into the error it left in errno.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that answer an `int`.
fn check_int(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
