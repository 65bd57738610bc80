//! Forks, signals and namespaces. Only the shim, which has a single thread, may call the forking functions.

use super::{check, check_int};
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: callers have a single thread, so the child may go on running Rust code.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Forks with clone flags that need no further argument (`CLONE_PARENT`, `CLONE_NEWPID`).
pub(crate) fn fork_with(flags: CloneFlags) -> io::Result<Fork> {
    let bits = libc::c_long::from(flags.bits() | libc::SIGCHLD);
    // SAFETY: no stack is given, so the child continues on a copy of this one, as after fork; there is one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, bits, 0, 0, 0, 0) })?;
    match i32::try_from(pid) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) => Ok(Fork::Parent(Pid::from_raw(pid))),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
    }
}

/// Ends a forked child without running what the parent registered.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
    // SAFETY: the kernel has just handed us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Joins several namespaces of a process at once.
pub(crate) fn join_namespaces(pidfd: impl AsFd, flags: CloneFlags) -> io::Result<()> {
    // SAFETY: takes a descriptor that lives through the call, and flags.
    check_int(unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), flags.bits()) }).map(drop)
}

/// Gives all signals their default action and unblocks them, so that a program about to be executed starts clean.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; signals that cannot be changed only yield an error.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is an empty set on Linux; the pointer lives through the call.
    unsafe {
        let set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Marks all descriptors from `first` on close-on-exec.
pub(crate) fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes three integers; descriptors stay open.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes all descriptors from `first` on.
///
/// Call it only where no owned descriptor at or above `first` exists.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller owns no descriptor in the range, so none is closed under an owner.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Makes this process the parent of orphans below it.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Has the kernel kill this process when its parent dies.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

pub(crate) fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Hides this process from ptrace and /proc/pid/exe of others without CAP_SYS_PTRACE.
pub(crate) fn set_undumpable() -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

pub(crate) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the string is NUL-terminated; the kernel copies at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Hands unused heap back to the kernel.
pub(crate) fn trim_heap() {
    // SAFETY: only touches the allocator's free lists.
    unsafe { libc::malloc_trim(0) };
}

/// Settings of the allocator for a process of many threads that answers with megabytes now and then. Left alone, it
/// keeps a heap for each thread, and ever more of what was once used.
pub(crate) fn bound_heap() {
    const HEAPS: i32 = 2;
    const KEPT: i32 = 32 << 20;
    for (setting, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_MMAP_THRESHOLD, KEPT)]
    {
        // SAFETY: sets integers of the allocator, before there are other threads. A value it refuses stays as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Closes all descriptors but 0, 1, 2 and those in `keep`.
///
/// For a forked child that never returns to code that owns the others.
pub(crate) fn close_all_but(keep: &[i32]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            // SAFETY: the caller promises that nothing will use the closed descriptors again.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd + 1;
    }
    close_from(first)
}

/// Sends any signal number, real-time ones included.
pub(crate) fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}
