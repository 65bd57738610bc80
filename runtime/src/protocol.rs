//! What [`crate::Runtime`] and a shim say to each other over the shim's socket.
//!
//! A connection carries frames: 4 bytes of payload length (little-endian), 1 byte of [`Kind`], payload. The first frame
//! is a request. Exec and attach turn their connection into a session of stream frames; all other calls can share a
//! connection. A shim may be older than the runtime that speaks to it, so new fields need serde defaults.

use crate::spec::{AttachSpec, ContainerId, ExecSpec};
use crate::status::{ContainerState, Exit};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) const HEADER: usize = 5;
/// Longest payload; a longer one means the stream is out of step.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Notice,
    Stdin,
    /// No more input will follow.
    StdinEnd,
    Stdout,
    Stderr,
    Resize,
    Signal,
    /// The session's last frame.
    Exit,
}

const KINDS: [Kind; 10] = [
    Kind::Request,
    Kind::Response,
    Kind::Notice,
    Kind::Stdin,
    Kind::StdinEnd,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Resize,
    Kind::Signal,
    Kind::Exit,
];

pub(crate) fn header(kind: Kind, payload: usize) -> [u8; HEADER] {
    let length = u32::try_from(payload).unwrap_or(u32::MAX).to_le_bytes();
    let kind = KINDS.iter().position(|k| *k == kind).and_then(|p| u8::try_from(p).ok()).unwrap_or(u8::MAX);
    [length[0], length[1], length[2], length[3], kind]
}

/// The kind and payload length a header announces.
pub(crate) fn parse_header(header: [u8; HEADER]) -> Option<(Kind, usize)> {
    let [a, b, c, d, kind] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let kind = KINDS.get(usize::from(kind)).copied()?;
    (length <= MAX_PAYLOAD).then_some((kind, length))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub seq: u64,
    pub call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// Asks for the state of things and for notices from now on.
    Hello,
    /// Makes the container whose record lies in the pod's folder.
    Create(ContainerId),
    Start(ContainerId),
    Kill(ContainerId, i32),
    /// Drops what the shim holds of an ended container.
    Forget(ContainerId),
    ReopenLog(ContainerId),
    Exec(ContainerId, ExecSpec),
    Attach(ContainerId, AttachSpec),
    /// Kills everything and ends the shim.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub seq: u64,
    pub result: Result<Reply, Failure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Hello { pid: i32, containers: Vec<(ContainerId, StateRecord)> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    NoSuchContainer,
    NotRunning,
    /// The user's command, mounts, user or image are at fault.
    CannotRun,
    Refused,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    State(ContainerId, StateRecord),
}

/// Where a container is in its life; the shim keeps it on disk too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub state: ContainerState,
    pub pid: i32,
    pub started_at: Option<Timestamp>,
    pub exit: Option<Exit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        for kind in KINDS {
            assert_eq!(parse_header(header(kind, 70_000)), Some((kind, 70_000)));
        }
    }

    #[test]
    fn nonsense_headers_are_refused() {
        assert_eq!(parse_header([0, 0, 0, 0, 99]), None);
        assert_eq!(parse_header(header(Kind::Stdin, MAX_PAYLOAD + 1)), None);
    }
}
