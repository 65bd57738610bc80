//! The shim's ends of a process's standard streams: pipes, or the master of a terminal.

use super::log::Stream;
use crate::spec::TtySize;
use crate::sys;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Input waiting for the process beyond this stops reading from the client.
const INPUT_HIGH_WATER: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Streams {
    stdin: Option<File>,
    input: Vec<u8>,
    /// Close standard input once `input` is written.
    input_ends: bool,
    stdout: Option<File>,
    stderr: Option<File>,
    terminal: bool,
    /// Asked for before there was a terminal.
    size: Option<TtySize>,
}

/// The process's ends.
#[derive(Debug, Default)]
pub(super) struct ChildEnds {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl ChildEnds {
    pub(super) fn raw(&self) -> Vec<i32> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }
}

impl Streams {
    /// Pipes for a process without a terminal.
    pub(super) fn pipes(with_stdin: bool) -> io::Result<(Self, ChildEnds)> {
        let mut streams = Self::default();
        let mut ends = ChildEnds::default();
        if with_stdin {
            let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            (streams.stdin, ends.stdin) = (Some(nonblocking(ours)?), Some(theirs));
        }
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        (streams.stdout, ends.stdout) = (Some(nonblocking(ours)?), Some(theirs));
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        (streams.stderr, ends.stderr) = (Some(nonblocking(ours)?), Some(theirs));
        Ok((streams, ends))
    }

    /// A terminal whose master is yet to come.
    pub(super) fn terminal(size: Option<TtySize>) -> Self {
        Self { terminal: true, size, ..Self::default() }
    }

    pub(super) fn set_master(&mut self, master: OwnedFd) -> io::Result<()> {
        self.stdin = Some(nonblocking(master.try_clone()?)?);
        let master = nonblocking(master)?;
        if let Some(size) = self.size {
            sys::tty::set_size(&master, size)?;
        }
        self.stdout = Some(master);
        Ok(())
    }

    pub(super) fn resize(&mut self, size: TtySize) {
        if !self.terminal {
            return;
        }
        self.size = Some(size);
        if let Some(Err(error)) = self.stdout.as_ref().map(|master| sys::tty::set_size(master, size)) {
            eprintln!("terminal keeps its size: {error}");
        }
    }

    pub(super) fn output_fds(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let stdout = self.stdout.as_ref().map(|file| (Stream::Stdout, file.as_fd()));
        let stderr = self.stderr.as_ref().map(|file| (Stream::Stderr, file.as_fd()));
        stdout.into_iter().chain(stderr)
    }

    /// The descriptor to wait on while input is left to write.
    pub(super) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.input.is_empty()).map(AsFd::as_fd)
    }

    pub(super) fn has_input_room(&self) -> bool {
        self.input.len() < INPUT_HIGH_WATER
    }

    pub(super) fn write_input(&mut self, data: &[u8]) {
        if self.stdin.is_some() && !self.input_ends {
            self.input.extend_from_slice(data);
            self.flush_input();
        }
    }

    /// End of input: closes the pipe; a terminal's programs see their end-of-file character.
    pub(super) fn end_input(&mut self) {
        if self.terminal {
            return;
        }
        self.input_ends = true;
        self.flush_input();
    }

    pub(super) fn flush_input(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.input.is_empty()) {
            match stdin.write(&self.input) {
                Ok(written) => {
                    self.input.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.stdin = None;
                    self.input.clear();
                }
            }
        }
        self.input.shrink_to(4 << 10);
        if self.input_ends && self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads once. `None`: nothing now, or the stream's end, which closes it.
    pub(super) fn read<'b>(&mut self, stream: Stream, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        match slot.as_mut()?.read(buffer) {
            Ok(0) => {
                *slot = None;
                None
            }
            Ok(count) => Some(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            // A terminal's master reports EIO when the last slave is closed.
            Err(_) => {
                *slot = None;
                None
            }
        }
    }

    pub(super) fn close(&mut self) {
        *self = Self { terminal: self.terminal, ..Self::default() };
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    let flags = OFlag::from_bits_truncate(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}
