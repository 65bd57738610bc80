//! Streams between clients and processes: attach and exec sessions, container output.

use super::container::{Caller, Role};
use super::job::Made;
use super::log::Stream;
use super::request::read_status;
use super::server::Server;
use crate::protocol::{Failure, FailureKind, Kind, Reply};
use crate::spec::{AttachSpec, ContainerId, TtySize};
use crate::sys;

fn kind_of(stream: Stream) -> Kind {
    match stream {
        Stream::Stdout => Kind::Stdout,
        Stream::Stderr => Kind::Stderr,
    }
}

impl Server {
    pub(super) fn attach(
        &mut self,
        id: &ContainerId,
        spec: AttachSpec,
        caller: Caller,
    ) -> Result<Option<Reply>, Failure> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err(Failure::new(FailureKind::NoSuchContainer, format!("container {id} does not exist")));
        };
        if !container.is_live() {
            return Err(Failure::new(FailureKind::NotRunning, format!("container {id} is not running")));
        }
        if let Some(size) = spec.size {
            container.streams.resize(size);
        }
        if let Some(client) = self.clients.get_mut(&caller.client) {
            client.role = Role::Attach(id.clone(), spec);
        }
        Ok(Some(Reply::Done))
    }

    pub(super) fn session_frame(&mut self, client: u64, kind: Kind, payload: &[u8]) {
        let Some(role) = self.clients.get(&client).map(|c| &c.role) else { return };
        match role {
            Role::Calls { .. } => {}
            Role::Exec(id) => {
                let id = *id;
                self.exec_frame(id, kind, payload);
            }
            Role::Attach(id, spec) => {
                let (id, takes_input) = (id.clone(), spec.stdin);
                self.attach_frame(&id, takes_input, kind, payload);
            }
        }
    }

    fn exec_frame(&mut self, id: u64, kind: Kind, payload: &[u8]) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        match kind {
            Kind::Stdin => exec.streams.write_input(payload),
            Kind::StdinEnd => exec.streams.end_input(),
            Kind::Resize => resize(&mut exec.streams, payload),
            Kind::Signal => {
                let signal = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
                if let (Some(pid), Some(signal)) = (exec.pid, signal)
                    && let Err(error) = sys::process::send_signal(pid, signal)
                {
                    eprintln!("signal {signal} to {pid}: {error}");
                }
            }
            _ => {}
        }
    }

    fn attach_frame(&mut self, id: &ContainerId, takes_input: bool, kind: Kind, payload: &[u8]) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match kind {
            Kind::Stdin if takes_input && container.stdin => container.streams.write_input(payload),
            Kind::StdinEnd if takes_input && container.stdin_once => container.streams.end_input(),
            Kind::Resize => resize(&mut container.streams, payload),
            _ => {}
        }
    }

    /// A connection has ended, for whatever reason.
    pub(super) fn client_left(&mut self, role: &Role) {
        match role {
            Role::Calls { .. } => {}
            Role::Exec(id) => {
                // As when a terminal is hung up: the process notices, or ends by itself.
                if let Some(exec) = self.execs.get_mut(id) {
                    exec.streams.close();
                }
            }
            Role::Attach(id, spec) => {
                if let Some(container) = self.containers.get_mut(id)
                    && spec.stdin
                    && container.stdin_once
                {
                    container.streams.end_input();
                }
            }
        }
    }

    pub(super) fn copy_output(&mut self, id: &ContainerId, stream: Stream, buffer: &mut [u8]) {
        self.copy_output_once(id, stream, buffer);
    }

    /// Whether there was something.
    pub(super) fn copy_output_once(&mut self, id: &ContainerId, stream: Stream, buffer: &mut [u8]) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return false };
        let Some(data) = container.streams.read(stream, buffer) else { return false };
        if let Some(log) = &mut container.log {
            log.write(stream, data);
        }
        for client in self.clients.values_mut().filter(|c| c.follows(id, stream)) {
            client.connection.send(kind_of(stream), data);
        }
        true
    }

    pub(super) fn copy_exec_output(&mut self, id: u64, stream: Stream, buffer: &mut [u8]) {
        self.copy_exec_output_once(id, stream, buffer);
    }

    pub(super) fn copy_exec_output_once(&mut self, id: u64, stream: Stream, buffer: &mut [u8]) -> bool {
        let Some(exec) = self.execs.get_mut(&id) else { return false };
        let Some(data) = exec.streams.read(stream, buffer) else { return false };
        if let Some(client) = self.clients.get_mut(&exec.client) {
            client.connection.send(kind_of(stream), data);
        }
        true
    }

    /// The exec's process exists, or could not be made.
    pub(super) fn exec_made(&mut self, id: u64, answer: Result<Made, Failure>) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        let result = answer.and_then(|made| {
            exec.pid = Some(made.pid);
            made.master
                .map_or(Ok(()), |master| exec.streams.set_master(master))
                .map_err(|e| Failure::new(FailureKind::Refused, format!("terminal: {e}")))
        });
        if let Err(failure) = result {
            self.exec_failed(id, failure);
        }
    }

    /// The status pipe has ended: the program runs, or has said why not.
    pub(super) fn exec_started(&mut self, id: u64, buffer: &mut [u8]) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        let Some(mut status) = exec.status.take() else { return };
        let text = read_status(&mut status, buffer);
        if !text.is_empty() {
            self.exec_failed(id, Failure::new(FailureKind::CannotRun, text));
        } else if let Some(caller) = exec.caller.take() {
            self.respond(caller, Ok(Reply::Done));
        }
    }

    fn exec_failed(&mut self, id: u64, failure: Failure) {
        let Some(exec) = self.execs.remove(&id) else { return };
        if let Some(caller) = exec.caller {
            self.respond(caller, Err(failure));
        }
        if let Some(client) = self.clients.get_mut(&exec.client) {
            client.connection.finish();
        }
    }

    /// Those attached to an ended container are told its exit code.
    pub(super) fn end_attachments(&mut self, id: &ContainerId, code: i32) {
        for client in self.clients.values_mut() {
            if matches!(&client.role, Role::Attach(attached, _) if attached == id) {
                client.connection.send(Kind::Exit, code.to_string().as_bytes());
                client.connection.finish();
            }
        }
    }
}

fn resize(streams: &mut super::streams::Streams, payload: &[u8]) {
    match serde_json::from_slice::<TtySize>(payload) {
        Ok(size) => streams.resize(size),
        Err(error) => eprintln!("unreadable terminal size: {error}"),
    }
}
