//! Ends of children: jobs, containers' first processes, execs, and orphans the shim has inherited.

use super::container::Caller;
use super::log::Stream;
use super::server::{Purpose, Server};
use crate::protocol::{Failure, FailureKind, Kind, Reply};
use crate::spec::ContainerId;
use crate::status::{ContainerState, Exit};
use crate::sys;
use jiff::Timestamp;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::time::{Duration, Instant};

/// Exit code of a container whose program could not be executed.
const START_ERROR: i32 = 128;
const SIGNALLED: i32 = 128;

impl Server {
    pub(super) fn reap_children(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), SIGNALLED + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if !self.claim_end(pid, code) && !self.jobs.is_empty() {
                self.unclaimed.insert(pid, code);
            }
        }
        if self.jobs.is_empty() {
            self.unclaimed.clear();
        }
    }

    fn claim_end(&mut self, pid: i32, code: i32) -> bool {
        if let Some(id) = self.containers.iter().find(|(_, c)| c.is_live() && c.state.pid == pid).map(|(id, _)| id) {
            let id = id.clone();
            self.container_ended(&id, code);
            return true;
        }
        if let Some(id) = self.execs.iter().find(|(_, e)| e.pid == Some(pid)).map(|(id, _)| *id) {
            self.exec_ended(id, code);
            return true;
        }
        false
    }

    /// A job has answered, or died without an answer.
    pub(super) fn finish_job(&mut self, number: u64) {
        let Some((job, purpose)) = self.jobs.remove(&number) else { return };
        let answer = job.answer();
        let pid = answer.as_ref().ok().map(|made| made.pid);
        match purpose {
            Purpose::Create(id, caller) => {
                let result = answer.and_then(|made| {
                    let Some(container) = self.containers.get_mut(&id) else { return Ok(Reply::Done) };
                    container.state.pid = made.pid;
                    if let Some(master) = made.master {
                        container
                            .streams
                            .set_master(master)
                            .map_err(|e| Failure::new(FailureKind::Refused, format!("terminal: {e}")))?;
                    }
                    Ok(Reply::Done)
                });
                self.created(&id, caller, result);
            }
            Purpose::Exec(id) => self.exec_made(id, answer),
        }
        if let Some((pid, code)) = pid.and_then(|pid| self.unclaimed.remove_entry(&pid)) {
            self.claim_end(pid, code);
        }
    }

    fn created(&mut self, id: &ContainerId, caller: Caller, result: Result<Reply, Failure>) {
        match self.containers.get_mut(id) {
            Some(container) if result.is_ok() => {
                if container.doomed
                    && let Err(error) = sys::process::send_signal(container.state.pid, libc::SIGKILL)
                {
                    eprintln!("killing {id}: {error}");
                }
                self.announce(id);
            }
            // Whoever killed it waits for its end.
            Some(container) if container.doomed => {
                container.state.state = ContainerState::Exited;
                container.state.exit = Some(describe_end(SIGNALLED + libc::SIGKILL, 0, None));
                self.announce(id);
            }
            _ => drop(self.containers.remove(id)),
        }
        self.respond(caller, result);
    }

    fn container_ended(&mut self, id: &ContainerId, code: i32) {
        let oom_kills = self.containers.get(id).map_or(0, |c| self.cgroups.oom_kills(&c.cgroup_path));
        self.drain(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if !container.own_processes
            && let Err(error) = self.cgroups.kill_all(&container.cgroup_path, Duration::from_millis(200))
        {
            eprintln!("processes of {id} are left: {error}");
        }
        // Killed before the outcome of its start was read: the pipe has it.
        let caller = container.starting.take();
        if caller.is_some()
            && container.start_error.is_none()
            && let Some(mut status) = container.status.take()
        {
            let text = super::request::read_status(&mut status, &mut [0; 4096]);
            container.start_error = (!text.is_empty()).then_some(text);
        }
        let start_error = container.start_error.clone();
        container.state.exit = Some(describe_end(code, oom_kills, start_error.clone()));
        if caller.is_some() && start_error.is_none() {
            container.state.started_at = Some(Timestamp::now());
        }
        container.state.state = ContainerState::Exited;
        container.state.pid = 0;
        container.streams.close();
        container.log = None;
        container.status = None;
        self.announce(id);
        if let Some(caller) = caller {
            let failure = |text| Failure::new(FailureKind::CannotRun, text);
            self.respond(caller, start_error.map_or(Ok(Reply::Done), |text| Err(failure(text))));
        }
        self.end_attachments(id, code);
    }

    /// Takes what is left in the pipes into the log and to those attached.
    fn drain(&mut self, id: &ContainerId) {
        let mut buffer = vec![0; 16 << 10];
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.copy_output_once(id, stream, &mut buffer) {}
        }
        if let Some(log) = self.containers.get_mut(id).and_then(|c| c.log.as_mut()) {
            log.finish();
        }
    }

    fn exec_ended(&mut self, id: u64, code: i32) {
        let mut buffer = vec![0; 16 << 10];
        // The call may not be answered yet when the process was quick; its status pipe is then already complete.
        self.exec_started(id, &mut buffer);
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.copy_exec_output_once(id, stream, &mut buffer) {}
        }
        let Some(exec) = self.execs.remove(&id) else { return };
        if let Some(client) = self.clients.get_mut(&exec.client) {
            client.connection.send(Kind::Exit, code.to_string().as_bytes());
            client.connection.finish();
        }
    }

    /// Waits for the ends of all containers, which have been killed.
    pub(super) fn wait_for_ends(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            self.reap_children();
            if self.containers.values().all(|c| !c.is_live()) || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn describe_end(code: i32, oom_kills: u64, start_error: Option<String>) -> Exit {
    let finished_at = Timestamp::now();
    if let Some(message) = start_error {
        return Exit { code: START_ERROR, signal: None, finished_at, reason: "StartError".into(), message };
    }
    let reason = match (code, oom_kills) {
        (0, _) => "Completed",
        (_, 0) => "Error",
        _ => "OOMKilled",
    };
    let signal = (code > SIGNALLED).then_some(code - SIGNALLED);
    Exit { code, signal, finished_at, reason: reason.into(), message: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_their_cause() {
        assert_eq!(describe_end(0, 1, None).reason, "Completed");
        assert_eq!(describe_end(137, 1, None).reason, "OOMKilled");
        assert_eq!(describe_end(137, 0, None).signal, Some(9));
        assert_eq!(describe_end(255, 0, Some("no".into())).code, START_ERROR);
    }
}
