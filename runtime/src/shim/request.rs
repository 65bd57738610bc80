//! Answering calls: the shim's verbs.

use super::container::{Caller, Container, Exec, Role};
use super::job::Job;
use super::log::Log;
use super::server::{Purpose, Server};
use super::streams::{ChildEnds, Streams};
use super::{create, exec};
use crate::protocol::{Call, Failure, FailureKind, Kind, Notice, Reply, Request, Response, StateRecord};
use crate::records::{self, ContainerRecord};
use crate::spec::{ContainerId, ContainerSpec, ExecSpec};
use crate::status::ContainerState;
use crate::sys;
use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

type Answer = Result<Option<Reply>, Failure>;

fn refused(what: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::new(FailureKind::Refused, format!("{what}: {error}"))
}

fn no_such(id: &ContainerId) -> Failure {
    Failure::new(FailureKind::NoSuchContainer, format!("container {id} does not exist"))
}

impl Server {
    pub(super) fn frame(&mut self, client: u64, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Request => match serde_json::from_slice::<Request>(payload) {
                Ok(request) => self.request(Caller { client, seq: request.seq }, request.call),
                Err(error) => {
                    eprintln!("unreadable request: {error}");
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.connection.finish();
                    }
                }
            },
            _ => self.session_frame(client, kind, payload),
        }
    }

    fn request(&mut self, caller: Caller, call: Call) {
        let answer = match call {
            Call::Hello => self.hello(caller),
            Call::Create(id) => self.create(&id, caller),
            Call::Start(id) => self.start(&id, caller),
            Call::Kill(id, signal) => self.kill(&id, signal),
            Call::Forget(id) => self.forget(&id),
            Call::ReopenLog(id) => self.reopen_log(&id),
            Call::Exec(id, spec) => self.exec(&id, &spec, caller),
            Call::Attach(id, spec) => self.attach(&id, spec, caller),
            Call::Shutdown => {
                self.shutdown();
                Ok(Some(Reply::Done))
            }
        };
        match answer {
            Ok(Some(reply)) => self.respond(caller, Ok(reply)),
            Ok(None) => {}
            Err(failure) => self.respond(caller, Err(failure)),
        }
        sys::process::trim_heap();
    }

    pub(super) fn respond(&mut self, caller: Caller, result: Result<Reply, Failure>) {
        let Some(client) = self.clients.get_mut(&caller.client) else { return };
        match serde_json::to_vec(&Response { seq: caller.seq, result }) {
            Ok(payload) => client.connection.send(Kind::Response, &payload),
            Err(error) => eprintln!("response lost: {error}"),
        }
    }

    /// Saves a container's state and tells everyone who asked for notices.
    pub(super) fn announce(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else { return };
        container.save();
        let notice = Notice::State(id.clone(), container.state.clone());
        let Ok(payload) = serde_json::to_vec(&notice) else { return };
        for client in self.clients.values_mut() {
            if matches!(client.role, Role::Calls { notices: true }) {
                client.connection.send(Kind::Notice, &payload);
            }
        }
    }

    fn hello(&mut self, caller: Caller) -> Answer {
        if let Some(client) = self.clients.get_mut(&caller.client) {
            client.role = Role::Calls { notices: true };
        }
        let containers = self.containers.iter().map(|(id, c)| (id.clone(), c.state.clone())).collect();
        Ok(Some(Reply::Hello { pid: std::process::id().cast_signed(), containers }))
    }

    fn create(&mut self, id: &ContainerId, caller: Caller) -> Answer {
        if self.containers.contains_key(id) {
            return Err(Failure::new(FailureKind::Refused, format!("container {id} exists already")));
        }
        let dir = self.dir.container(id);
        let record: ContainerRecord = records::read(&dir.record()).map_err(refused("container record"))?;
        let spec = &record.spec;
        let process_holder = self.process_holder(spec)?;
        let (streams, ends) = if spec.tty {
            (Streams::terminal(None), ChildEnds::default())
        } else {
            Streams::pipes(spec.stdin).map_err(refused("pipes"))?
        };
        let log = spec.log_path.as_ref().map(|path| Log::open(path, spec.log_limits));
        let (status, status_end) = status_pipe()?;
        let mut keep = ends.raw();
        keep.push(status_end.as_raw_fd());
        let plan = create::Plan {
            pod_dir: &self.dir,
            pod: &self.record,
            dir: dir.clone(),
            cgroups: &self.cgroups,
            process_holder,
            ends,
            status: status_end.as_raw_fd(),
        };
        let job = Job::spawn(&keep, || create::run(plan)).map_err(refused("fork"))?;
        drop(status_end);
        let container = Container {
            dir,
            state: StateRecord { state: ContainerState::Created, pid: 0, started_at: None, exit: None },
            streams,
            log: log.transpose().map_err(refused("log file"))?,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            cgroup_path: record.cgroup_path,
            own_processes: process_holder.is_none() && !self.record.spec.host_pid,
            status: Some(status),
            starting: None,
            doomed: false,
            start_error: None,
        };
        self.containers.insert(id.clone(), container);
        let number = self.number();
        self.jobs.insert(number, (job, Purpose::Create(id.clone(), caller)));
        Ok(None)
    }

    /// A process in the namespace that a new container's processes are to live in; `None`: its own, or the host's.
    fn process_holder(&self, spec: &ContainerSpec) -> Result<Option<i32>, Failure> {
        let shared = self.pid_holder.map(Pid::as_raw);
        let Some(target) = spec.processes_of.as_ref().filter(|_| shared.is_none() && !self.record.spec.host_pid) else {
            return Ok(shared);
        };
        let state = self.containers.get(target).map(|c| &c.state);
        let running = state.filter(|s| s.state == ContainerState::Running && s.pid > 0);
        let refused = || Failure::new(FailureKind::Refused, format!("container {target} is not running"));
        running.map(|state| Some(state.pid)).ok_or_else(refused)
    }

    fn start(&mut self, id: &ContainerId, caller: Caller) -> Answer {
        let oci = self.dir.oci_root().join(id.as_str());
        let container = self.containers.get_mut(id).ok_or_else(|| no_such(id))?;
        if container.state.state != ContainerState::Created || container.starting.is_some() {
            return Err(Failure::new(FailureKind::Refused, format!("container {id} was started before")));
        }
        // What libcontainer's own start does, without its change of directory.
        sys::fd::connect_in(&oci, "notify.sock")
            .and_then(|mut socket| socket.write_all(b"start container"))
            .map_err(refused("starting the container"))?;
        container.starting = Some(caller);
        Ok(None)
    }

    /// The status pipe of a starting container can be read.
    pub(super) fn started(&mut self, id: &ContainerId, buffer: &mut [u8]) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(mut status) = container.status.take() else { return };
        let text = read_status(&mut status, buffer);
        let Some(caller) = container.starting.take() else { return };
        if text.is_empty() {
            container.state.state = ContainerState::Running;
            container.state.started_at = Some(Timestamp::now());
            self.announce(id);
            self.respond(caller, Ok(Reply::Done));
        } else {
            container.start_error = Some(text.clone());
            self.respond(caller, Err(Failure::new(FailureKind::CannotRun, text)));
        }
    }

    fn kill(&mut self, id: &ContainerId, signal: i32) -> Answer {
        let container = self.containers.get_mut(id).ok_or_else(|| no_such(id))?;
        if container.is_live() && container.state.pid == 0 && signal == libc::SIGKILL {
            container.doomed = true;
            return Ok(Some(Reply::Done));
        }
        if !container.is_live() || container.state.pid == 0 {
            return Err(Failure::new(FailureKind::NotRunning, format!("container {id} is not running")));
        }
        sys::process::send_signal(container.state.pid, signal).map_err(refused("kill"))?;
        Ok(Some(Reply::Done))
    }

    fn forget(&mut self, id: &ContainerId) -> Answer {
        if let Some(container) = self.containers.get(id) {
            if container.is_live() {
                return Err(Failure::new(FailureKind::Refused, format!("container {id} is still running")));
            }
            self.containers.remove(id);
        }
        Ok(Some(Reply::Done))
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Answer {
        let container = self.containers.get_mut(id).ok_or_else(|| no_such(id))?;
        if let Some(log) = &mut container.log {
            log.reopen().map_err(refused("log file"))?;
        }
        Ok(Some(Reply::Done))
    }

    fn exec(&mut self, id: &ContainerId, spec: &ExecSpec, caller: Caller) -> Answer {
        let container = self.containers.get(id).ok_or_else(|| no_such(id))?;
        if container.state.state != ContainerState::Running {
            return Err(Failure::new(FailureKind::NotRunning, format!("container {id} is not running")));
        }
        let (streams, ends) = if spec.tty {
            (Streams::terminal(spec.size), ChildEnds::default())
        } else {
            Streams::pipes(spec.stdin).map_err(refused("pipes"))?
        };
        let (status, status_end) = status_pipe()?;
        let mut keep = ends.raw();
        keep.push(status_end.as_raw_fd());
        let plan = exec::Plan {
            dir: self.dir.container(id),
            cgroups: &self.cgroups,
            init: container.state.pid,
            spec,
            ends,
            status: status_end.as_raw_fd(),
        };
        let job = Job::spawn(&keep, || exec::run(plan)).map_err(refused("fork"))?;
        drop(status_end);
        let number = self.number();
        self.execs.insert(
            number,
            Exec { client: caller.client, streams, pid: None, status: Some(status), caller: Some(caller) },
        );
        if let Some(client) = self.clients.get_mut(&caller.client) {
            client.role = Role::Exec(number);
        }
        self.jobs.insert(number, (job, Purpose::Exec(number)));
        Ok(None)
    }

    /// Ends everything of the pod. What survives SIGKILL is left to the runtime.
    pub(super) fn shutdown(&mut self) {
        if let Err(error) = self.cgroups.kill_all(&self.record.cgroup_path, Duration::from_secs(10)) {
            eprintln!("killing the pod's processes: {error}");
        }
        self.wait_for_ends(Duration::from_secs(2));
        if let Some(holder) = self.pid_holder.take()
            && let Err(errno) = kill(holder, nix::sys::signal::Signal::SIGKILL)
        {
            eprintln!("killing the holder of the process namespace: {errno}");
        }
        self.ending = true;
    }
}

fn status_pipe() -> Result<(File, OwnedFd), Failure> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| refused("pipe")(errno.into()))?;
    Ok((File::from(read), write))
}

/// All of the text on a status pipe. Its writer is about to execute or to end, so this does not block for long.
pub(super) fn read_status(status: &mut File, buffer: &mut [u8]) -> String {
    let mut text = Vec::new();
    loop {
        match status.read(buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
