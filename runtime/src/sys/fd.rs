//! Passing descriptors between the shim and its forked children.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Sends one message on a sequenced-packet socket, with a descriptor if there is one.
pub(crate) fn send_message(socket: impl AsFd, payload: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
    let raw: Vec<i32> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(payload)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message into `buffer`; 0 bytes is the other side's end.
pub(crate) fn receive_message(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this descriptor for us.
                received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, received))
}

/// Takes over a descriptor nix handed out as a plain number.
pub(crate) fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: callers pass what a system call has just returned to them, once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Borrows a descriptor known by number only, across a fork or from a library's callback.
pub(crate) fn borrow<'a>(fd: i32) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: callers pass a descriptor that this process holds open until it ends or executes a program.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// Binds a socket in a folder whose full path may be longer than a socket address allows.
pub(crate) fn bind_in(folder: &std::path::Path, name: &str) -> io::Result<std::os::unix::net::UnixListener> {
    let folder = std::fs::File::open(folder)?;
    std::os::unix::net::UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Connects to a socket in a folder whose full path may be longer than a socket address allows.
pub(crate) fn connect_in(folder: &std::path::Path, name: &str) -> io::Result<std::os::unix::net::UnixStream> {
    let folder = std::fs::File::open(folder)?;
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}
