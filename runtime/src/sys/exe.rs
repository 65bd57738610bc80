//! Running this executable from a read-only mount of its own.
//!
//! A container's process can reach the executable of whoever enters its namespaces through `/proc/<pid>/exe` and, as
//! root, write to it once it is no longer running. Through a detached read-only mount that write fails with EROFS.

use super::{check, check_int};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const OPEN_TREE_CLONE: u32 = 1;

/// A read-only view of this executable, on a mount that no namespace shows.
fn sealed_executable() -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is NUL-terminated; the call answers a descriptor.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/proc/self/exe".as_ptr(), flags) })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
    // SAFETY: the kernel has just handed us this descriptor.
    let tree = unsafe { OwnedFd::from_raw_fd(fd) };
    let attributes = MountAttr { attr_set: MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: path and attributes live through the call, and the size given is the structure's.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(tree)
}

/// Executes this executable again from its sealed view. Returns only on failure.
pub(crate) fn reexec_sealed(args: &[CString]) -> io::Error {
    let tree = match sealed_executable() {
        Ok(tree) => tree,
        Err(error) => return error,
    };
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both vectors end in a null pointer and their strings live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            tree.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    match check_int(i32::try_from(result).unwrap_or(-1)) {
        Err(error) => error,
        Ok(_) => io::Error::other("execveat returned"),
    }
}
