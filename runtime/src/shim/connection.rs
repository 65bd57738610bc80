//! A non-blocking framed connection of the shim's event loop.

use crate::protocol::{self, Kind};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// While this much waits to be sent, the sources of the data are not read.
const HIGH_WATER: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    closed: bool,
    /// Ends once everything is sent.
    finishing: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, incoming: Vec::new(), outgoing: Vec::new(), closed: false, finishing: false })
    }

    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        if self.closed {
            return;
        }
        self.outgoing.extend_from_slice(&protocol::header(kind, payload.len()));
        self.outgoing.extend_from_slice(payload);
        self.flush();
    }

    /// Closes after what is queued has been sent.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.closed {
            match self.stream.write(&self.outgoing) {
                Ok(sent) => {
                    self.outgoing.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
        if self.outgoing.is_empty() {
            self.outgoing.shrink_to(16 << 10);
            self.closed |= self.finishing;
        }
    }

    /// Reads what is there and takes the complete frames out of it.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Vec<(Kind, Vec<u8>)> {
        match self.stream.read(buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
        }
        let mut frames = Vec::new();
        while let Some(frame) = self.take_frame() {
            frames.push(frame);
        }
        frames
    }

    fn take_frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        let head: [u8; protocol::HEADER] = self.incoming.get(..protocol::HEADER)?.try_into().ok()?;
        let Some((kind, length)) = protocol::parse_header(head) else {
            self.closed = true;
            self.incoming.clear();
            return None;
        };
        let end = protocol::HEADER + length;
        let payload = self.incoming.get(protocol::HEADER..end)?.to_vec();
        self.incoming.drain(..end);
        if self.incoming.is_empty() {
            self.incoming.shrink_to(4 << 10);
        }
        Some((kind, payload))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the other side keeps up.
    pub(super) fn has_room(&self) -> bool {
        self.closed || self.outgoing.len() < HIGH_WATER
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_from_pieces() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(near).unwrap();
        let mut bytes = protocol::header(Kind::Stdin, 3).to_vec();
        bytes.extend(b"abc");
        bytes.extend(protocol::header(Kind::StdinEnd, 0));
        let mut buffer = [0; 64];
        far.write_all(&bytes[..4]).unwrap();
        assert!(connection.receive(&mut buffer).is_empty());
        far.write_all(&bytes[4..]).unwrap();
        let frames = connection.receive(&mut buffer);
        assert_eq!(frames, [(Kind::Stdin, b"abc".to_vec()), (Kind::StdinEnd, Vec::new())]);
        drop(far);
        assert!(connection.receive(&mut buffer).is_empty());
        assert!(connection.is_closed());
    }

    #[test]
    fn a_slow_reader_takes_away_the_room() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(near).unwrap();
        for _ in 0..16 {
            connection.send(Kind::Stdout, &[0; 64 << 10]);
        }
        assert!(!connection.has_room());
        assert!(connection.wants_to_send());
    }
}
