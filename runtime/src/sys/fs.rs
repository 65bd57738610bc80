//! File-system calls: lookups confined to a folder, extended attributes of links.

use super::{check, check_int};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// How a lookup treats what lies outside of the folder it starts from.
#[derive(Clone, Copy)]
pub(crate) enum Confine {
    /// The folder is the root: absolute links and `..` stay inside (`RESOLVE_IN_ROOT`).
    InRoot,
    /// Following a link is an error (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`).
    NoLinks,
}

/// openat2: opens `path` below `root` without ever leaving it.
pub(crate) fn open_confined(
    root: impl AsFd,
    path: &Path,
    flags: i32,
    mode: u32,
    confine: Confine,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let c_path = c_path(path)?;
    let resolve = match confine {
        Confine::InRoot => libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
        Confine::NoLinks => libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
    };
    // SAFETY: an all-zero open_how is valid, and newer fields must be zero.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = if flags & (libc::O_CREAT | libc::O_TMPFILE) != 0 { u64::from(mode) } else { 0 };
    how.resolve = resolve;
    loop {
        // SAFETY: path and open_how live through the call, and the size given is the structure's.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_fd().as_raw_fd(),
                c_path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            // The kernel could not rule out a concurrent rename; the lookup is to be repeated.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
            Ok(fd) => {
                let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
                // SAFETY: the kernel has just handed us this descriptor.
                return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
}

/// Sets an extended attribute without following a final link.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = c_path(path)?;
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: both strings are NUL-terminated, the value's pointer and length belong together.
    check_int(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).map(drop)
}

/// Reads an extended attribute of at most 4 KiB without following a final link.
pub(crate) fn get_xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let path = c_path(path)?;
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut value = vec![0u8; 4096];
    // SAFETY: both strings are NUL-terminated, the buffer's pointer and length belong together.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(length.unsigned_abs());
    Ok(value)
}

/// Writes back all of the file system that holds `file`.
pub(crate) fn sync_file_system(file: impl AsFd) -> io::Result<()> {
    // SAFETY: takes a descriptor that lives through the call.
    check_int(unsafe { libc::syncfs(file.as_fd().as_raw_fd()) }).map(drop)
}

/// Opens a file system of type `name` without mounting it: a kernel that has it as a module loads that.
pub(crate) fn ask_for_filesystem(name: &str) -> io::Result<()> {
    const CLOSE_ON_EXEC: libc::c_uint = 1;
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the string is NUL-terminated and lives through the call.
    let result = check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), CLOSE_ON_EXEC) });
    // A refusal (an old kernel, a sandbox, no such file system) leaves the kernel as it was, which is no error here.
    if let Some(fd) = result.ok().and_then(|fd| i32::try_from(fd).ok()) {
        // SAFETY: the kernel has just handed us this descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(())
}
