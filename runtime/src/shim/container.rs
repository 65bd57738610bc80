//! What the shim holds of each container and of each exec.

use super::connection::Connection;
use super::log::{Log, Stream};
use super::streams::Streams;
use crate::protocol::StateRecord;
use crate::records::{self, ContainerDir};
use crate::spec::{AttachSpec, ContainerId};
use crate::status::ContainerState;
use std::fs::File;

/// Who waits for the answer to a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub client: u64,
    pub seq: u64,
}

#[derive(Debug)]
pub(super) struct Container {
    pub dir: ContainerDir,
    pub state: StateRecord,
    pub streams: Streams,
    pub log: Option<Log>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub cgroup_path: String,
    /// The kernel ends all of its processes with the first one.
    pub own_processes: bool,
    /// Says, by ending empty, that the program runs.
    pub status: Option<File>,
    pub starting: Option<Caller>,
    /// It was killed while it was being made: it ends as soon as there is a process.
    pub doomed: bool,
    /// Why the program could not be executed.
    pub start_error: Option<String>,
}

impl Container {
    /// Writes the state to disk; a reader after a crash of the shim relies on it.
    pub(super) fn save(&self) {
        if let Err(error) = records::write(&self.dir.state(), &self.state) {
            eprintln!("state of {} is not on disk: {error}", self.dir.path().display());
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state.state != ContainerState::Exited
    }
}

#[derive(Debug)]
pub(super) struct Exec {
    pub client: u64,
    pub streams: Streams,
    pub pid: Option<i32>,
    pub status: Option<File>,
    /// Set until the call is answered.
    pub caller: Option<Caller>,
}

/// What a connection is used for.
#[derive(Debug)]
pub(super) enum Role {
    Calls { notices: bool },
    Exec(u64),
    Attach(ContainerId, AttachSpec),
}

#[derive(Debug)]
pub(super) struct Client {
    pub connection: Connection,
    pub role: Role,
}

impl Client {
    /// Whether output of that container's stream goes to this client.
    pub(super) fn follows(&self, id: &ContainerId, stream: Stream) -> bool {
        match &self.role {
            Role::Attach(attached, spec) if attached == id => match stream {
                Stream::Stdout => spec.stdout,
                Stream::Stderr => spec.stderr,
            },
            _ => false,
        }
    }
}
