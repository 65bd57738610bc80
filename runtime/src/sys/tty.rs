//! Pseudo-terminals of containers.

use super::check_int;
use crate::spec::TtySize;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

pub(crate) fn set_size(terminal: impl AsFd, size: TtySize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives through the call.
    check_int(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Opens a new terminal on the caller's `/dev/ptmx`: (master, slave).
pub(crate) fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = nix::fcntl::open(
        c"/dev/ptmx",
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map(super::fd::adopt)?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which lives through the call.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    // SAFETY: TIOCGPTPEER takes open flags and answers a descriptor.
    let slave = check_int(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    })?;
    // SAFETY: the kernel has just handed us this descriptor.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}

/// Makes `slave` the controlling terminal of this session leader.
pub(crate) fn take_control(slave: impl AsFd) -> io::Result<()> {
    // SAFETY: takes integers only.
    check_int(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}
