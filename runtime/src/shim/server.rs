//! The shim's event loop. One thread, one poll; everything it waits for is a [`Source`].

use super::connection::Connection;
use super::container::{Caller, Client, Container, Exec, Role};
use super::job::Job;
use super::log::Stream;
use crate::cgroup::Cgroups;
use crate::records::{PodDir, PodRecord};
use crate::spec::ContainerId;
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

const BUFFER: usize = 32 << 10;
/// How long containers may take to end when the machine goes down: what Kubernetes gives a pod that names no time.
const PARTING: Duration = Duration::from_secs(30);
/// Only the machine's first process sends SIGTERM to everyone, as the last step before it is switched off.
const INIT: u32 = 1;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) dir: PodDir,
    pub(super) record: PodRecord,
    pub(super) cgroups: Cgroups,
    listener: UnixListener,
    signals: SignalFd,
    pub(super) pid_holder: Option<Pid>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    pub(super) execs: BTreeMap<u64, Exec>,
    pub(super) jobs: BTreeMap<u64, (Job, Purpose)>,
    /// Ends of children nobody has claimed yet: a job may still be about to name them.
    pub(super) unclaimed: HashMap<i32, i32>,
    next: u64,
    pub(super) ending: bool,
    /// Set when the machine goes down: when containers that are still there are killed.
    parting: Option<Instant>,
}

/// What a job was started for.
#[derive(Debug)]
pub(super) enum Purpose {
    Create(ContainerId, Caller),
    Exec(u64),
}

/// A descriptor the loop waits for.
#[derive(Clone, Debug)]
enum Source {
    Signals,
    Listener,
    Client(u64),
    Job(u64),
    Output(ContainerId, Stream),
    Input(ContainerId),
    Started(ContainerId),
    ExecOutput(u64, Stream),
    ExecInput(u64),
    ExecStarted(u64),
}

impl Server {
    pub(super) fn new(
        dir: PodDir,
        record: PodRecord,
        cgroups: Cgroups,
        listener: UnixListener,
        pid_holder: Option<Pid>,
    ) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        // All but SIGCHLD are only kept from ending the shim: its pod ends when the runtime says so, or the machine.
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            mask.add(signal);
        }
        mask.thread_block()?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            dir,
            record,
            cgroups,
            listener,
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            pid_holder,
            clients: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            unclaimed: HashMap::new(),
            next: 0,
            ending: false,
            parting: None,
        })
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        sys::process::trim_heap();
        while !self.ending {
            for source in self.wait()? {
                self.handle(source, &mut buffer);
            }
            self.drop_closed();
            self.part();
        }
        // Answers on their way are sent before the end.
        for client in self.clients.values_mut() {
            client.connection.flush();
        }
        std::fs::remove_file(self.dir.socket())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(16);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(16);
        let mut add = |source: Source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        add(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN);
        add(Source::Listener, self.listener.as_fd(), PollFlags::POLLIN);
        for (id, client) in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.accepts_input(client));
            flags.set(PollFlags::POLLOUT, client.connection.wants_to_send());
            add(Source::Client(*id), client.connection.fd(), flags);
        }
        for (id, (job, _)) in &self.jobs {
            add(Source::Job(*id), job.fd(), PollFlags::POLLIN);
        }
        self.add_containers(&mut add);
        self.add_execs(&mut add);
        loop {
            match poll(&mut fds, self.patience()) {
                Ok(0) => return Ok(Vec::new()),
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let ready = fds.iter().map(|fd| fd.revents().is_none_or(|events| !events.is_empty()));
        Ok(sources.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|(source, _)| source).collect())
    }

    fn add_containers<'a>(&'a self, add: &mut impl FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        for (id, container) in &self.containers {
            for (stream, fd) in container.streams.output_fds() {
                // Nobody attached may be left behind.
                if self.clients.values().all(|c| !c.follows(id, stream) || c.connection.has_room()) {
                    add(Source::Output(id.clone(), stream), fd, PollFlags::POLLIN);
                }
            }
            if let Some(fd) = container.streams.input_fd() {
                add(Source::Input(id.clone()), fd, PollFlags::POLLOUT);
            }
            if let (Some(status), Some(_)) = (&container.status, container.starting) {
                add(Source::Started(id.clone()), status.as_fd(), PollFlags::POLLIN);
            }
        }
    }

    fn add_execs<'a>(&'a self, add: &mut impl FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        for (id, exec) in &self.execs {
            // Nothing may come before the call's answer.
            let answered = exec.caller.is_none();
            if answered && self.clients.get(&exec.client).is_some_and(|c| c.connection.has_room()) {
                for (stream, fd) in exec.streams.output_fds() {
                    add(Source::ExecOutput(*id, stream), fd, PollFlags::POLLIN);
                }
            }
            if let Some(fd) = exec.streams.input_fd() {
                add(Source::ExecInput(*id), fd, PollFlags::POLLOUT);
            }
            if let (Some(status), Some(_)) = (&exec.status, exec.pid) {
                add(Source::ExecStarted(*id), status.as_fd(), PollFlags::POLLIN);
            }
        }
    }

    /// A client whose process does not take its input fast enough is not read.
    fn accepts_input(&self, client: &Client) -> bool {
        match &client.role {
            Role::Calls { .. } => true,
            Role::Exec(id) => self.execs.get(id).is_none_or(|e| e.streams.has_input_room()),
            Role::Attach(id, _) => self.containers.get(id).is_none_or(|c| c.streams.has_input_room()),
        }
    }

    fn handle(&mut self, source: Source, buffer: &mut [u8]) {
        match source {
            Source::Signals => self.reap(),
            Source::Listener => self.accept(),
            Source::Client(id) => self.serve_client(id, buffer),
            Source::Job(id) => self.finish_job(id),
            Source::Output(id, stream) => self.copy_output(&id, stream, buffer),
            Source::Input(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.streams.flush_input();
                }
            }
            Source::Started(id) => self.started(&id, buffer),
            Source::ExecOutput(id, stream) => self.copy_exec_output(id, stream, buffer),
            Source::ExecInput(id) => {
                if let Some(exec) = self.execs.get_mut(&id) {
                    exec.streams.flush_input();
                }
            }
            Source::ExecStarted(id) => self.exec_started(id, buffer),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let machine_ends = signal.ssi_signo == Signal::SIGTERM as u32 && signal.ssi_pid == INIT;
            if machine_ends && self.parting.is_none() {
                self.parting = Some(Instant::now() + PARTING);
            }
        }
        self.reap_children();
    }

    /// Until when the loop may sleep.
    fn patience(&self) -> PollTimeout {
        let left = self.parting.map(|end| end.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
    }

    /// A machine that goes down waits for the shim, which goes with the last container. All of them have had their
    /// SIGTERM, but a first process without a handler does not even see it.
    fn part(&mut self) {
        let Some(end) = self.parting else { return };
        if Instant::now() >= end || !self.containers.values().any(super::container::Container::is_live) {
            self.shutdown();
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            match Connection::new(stream) {
                Ok(connection) => {
                    let id = self.number();
                    self.clients.insert(id, Client { connection, role: Role::Calls { notices: false } });
                }
                Err(error) => eprintln!("connection refused: {error}"),
            }
        }
    }

    fn serve_client(&mut self, id: u64, buffer: &mut [u8]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.connection.flush();
        let frames = client.connection.receive(buffer);
        for (kind, payload) in frames {
            self.frame(id, kind, &payload);
        }
    }

    fn drop_closed(&mut self) {
        let closed: Vec<u64> =
            self.clients.iter().filter(|(_, c)| c.connection.is_closed()).map(|(id, _)| *id).collect();
        for id in closed {
            if let Some(client) = self.clients.remove(&id) {
                self.client_left(&client.role);
            }
        }
    }
}
