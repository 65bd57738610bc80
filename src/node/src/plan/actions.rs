//! What to do next for a pod that should be alive. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::backoff::Backoff;
use super::restart::should_restart;
use super::view::{ContainerView, Exit, PodView, Sandbox, State};
use super::{Memory, Waiting};
use crate::spec::{self, Role};

/// The next steps, in the order they are taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Make the pod's namespaces; `true`: clear away what is left of former ones first.
    pub sandbox: Option<NewSandbox>,
    pub kill: Vec<Kill>,
    pub start: Vec<Start>,
    /// Containers that wait for time to pass, and why.
    pub waiting: Vec<(String, Waiting)>,
    /// When to ask again though nothing happened.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSandbox {
    First,
    /// What is left of a former one must be cleared away.
    Again,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub cause: KillCause,
    /// For the event.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillCause {
    Startup,
    Liveness,
    Changed,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub role: Role,
    pub attempt: u32,
    /// When the former instance failed: the back-off counts from there.
    pub failed_at: Option<Timestamp>,
    /// An instance that was made but never started; it goes first.
    pub replaces: Option<String>,
}

/// What is known of a container, whoever knows it.
enum Latest<'a> {
    Never,
    Created,
    Running(&'a ContainerView),
    Exited(Exit),
}

struct Decider<'a> {
    pod: &'a Pod,
    view: &'a PodView,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

/// Decides. The caller has made sure that the pod is neither being deleted nor finished.
pub fn decide(pod: &Pod, view: &PodView, memory: &Memory, now: Timestamp) -> Plan {
    let containers = spec::containers(pod);
    let mut decider = Decider { pod, view, memory, now, plan: Plan::default() };
    if view.sandbox != Sandbox::Ready {
        let needed = containers.iter().any(|(role, c)| *role == Role::Main && decider.wanted(*role, c));
        if needed {
            decider.plan.sandbox =
                Some(if view.sandbox == Sandbox::Absent { NewSandbox::First } else { NewSandbox::Again });
        }
        return decider.plan;
    }
    let initialized = decider.init_containers(&containers);
    for (role, container) in &containers {
        match role {
            Role::Main if initialized => decider.keep_running(*role, container),
            Role::Ephemeral => decider.keep_running(*role, container),
            _ => {}
        }
    }
    decider.plan
}

impl Decider<'_> {
    /// What the runtime or, where it forgot, the last status says.
    fn latest(&self, name: &str) -> Latest<'_> {
        if let Some(view) = self.view.latest(name) {
            return match &view.state {
                State::Created => Latest::Created,
                State::Running { .. } => Latest::Running(view),
                State::Exited(exit) => Latest::Exited(exit.clone()),
            };
        }
        match old_status(self.memory, name).and_then(forgotten_exit) {
            Some(exit) => Latest::Exited(exit),
            None => Latest::Never,
        }
    }

    /// Whether the container has to be started some time.
    fn wanted(&self, role: Role, container: &Container) -> bool {
        match self.latest(&container.name) {
            Latest::Never | Latest::Created => true,
            // Without a sandbox nothing runs, whatever a record says.
            Latest::Running(_) => should_restart(self.pod, role, container, 137),
            Latest::Exited(exit) => should_restart(self.pod, role, container, exit.code),
        }
    }

    /// Walks the init containers in order; true when the main containers may run.
    fn init_containers(&mut self, containers: &[(Role, std::borrow::Cow<'_, Container>)]) -> bool {
        for (index, (role, container)) in containers.iter().enumerate() {
            // A later container's existence proves that this one was through.
            let later = &containers[index + 1..];
            let passed = later.iter().any(|(role, c)| *role != Role::Ephemeral && self.view.latest(&c.name).is_some());
            let go_on = match role {
                Role::Sidecar => {
                    self.keep_running(*role, container);
                    passed || self.has_started(container)
                }
                Role::Init => passed || self.run_to_completion(container),
                Role::Main | Role::Ephemeral => true,
            };
            if !go_on {
                return false;
            }
        }
        true
    }

    /// Moves an ordinary init container on; true when it has succeeded.
    ///
    /// Only this sandbox's instances count: a fresh one runs the init containers again.
    fn run_to_completion(&mut self, container: &Container) -> bool {
        match self.view.latest(&container.name).map(|v| &v.state) {
            Some(State::Exited(exit)) if exit.code == 0 => true,
            Some(State::Exited(exit)) => {
                if should_restart(self.pod, Role::Init, container, exit.code) {
                    let exit = exit.clone();
                    self.start_after(Role::Init, container, Some(&exit));
                }
                false
            }
            Some(State::Running { .. }) => false,
            Some(State::Created) | None => {
                self.start_after(Role::Init, container, None);
                false
            }
        }
    }

    /// A sidecar lets the next container start once it has started itself.
    fn has_started(&self, container: &Container) -> bool {
        let running = self.view.latest(&container.name).filter(|v| v.is_running());
        running.is_some_and(|v| is_started(container, v, self.memory))
    }

    fn keep_running(&mut self, role: Role, container: &Container) {
        match self.latest(&container.name) {
            Latest::Never | Latest::Created => self.start_after(role, container, None),
            Latest::Exited(exit) => {
                if should_restart(self.pod, role, container, exit.code) {
                    self.start_after(role, container, Some(&exit));
                }
            }
            Latest::Running(view) => {
                let kill = kill_reason(container, view, self.memory, || should_restart(self.pod, role, container, 137));
                self.plan.kill.extend(kill);
            }
        }
    }

    /// Starts the container now, or says until when it must wait.
    fn start_after(&mut self, role: Role, container: &Container, exit: Option<&Exit>) {
        let name = &container.name;
        // A failed pull or configuration is tried again on its own clock.
        if let (Some(at), Some(waiting)) = (self.memory.retry_at.get(name), self.memory.waiting.get(name))
            && *at > self.now
        {
            self.plan.waiting.push((name.clone(), waiting.clone()));
            self.wake(*at);
            return;
        }
        let failed_at = exit.map(|e| e.finished_at.unwrap_or(self.now));
        let entry = self.memory.backoff.get(name);
        if let Some(failed_at) = failed_at
            && let Some(until) = Backoff::until(entry, failed_at, self.now)
        {
            let pause = entry.map_or(super::backoff::INITIAL, |e| e.pause);
            self.plan.waiting.push((name.clone(), crash_loop(self.pod, name, pause)));
            self.wake(until);
            return;
        }
        let view = self.view.latest(name);
        let created = view.filter(|v| v.state == State::Created);
        let attempt = match (created, view) {
            (Some(created), _) => created.attempt,
            (None, Some(view)) => view.attempt + 1,
            (None, None) => next_attempt(old_status(self.memory, name)),
        };
        let replaces = created.map(|v| v.id.clone());
        self.plan.start.push(Start { name: name.clone(), role, attempt, failed_at, replaces });
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Whether a running instance counts as started: the hook ran, and the startup probe, if any, has succeeded.
pub fn is_started(container: &Container, view: &ContainerView, memory: &Memory) -> bool {
    let probes = memory.probes.get(&container.name).filter(|p| p.container_id == view.id);
    let Some(probes) = probes else { return false };
    let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()).is_none() || probes.post_start_done;
    hook && (container.startup_probe.is_none() || probes.startup == Some(true))
}

fn kill_reason(
    container: &Container,
    view: &ContainerView,
    memory: &Memory,
    restarts: impl Fn() -> bool,
) -> Option<Kill> {
    let kill =
        |cause, message: String| Some(Kill { id: view.id.clone(), name: container.name.clone(), cause, message });
    let name = &container.name;
    if container.image.as_deref().is_some_and(|image| image != view.image) {
        return kill(KillCause::Changed, format!("Container {name} definition changed, will be restarted"));
    }
    let probes = memory.probes.get(name).filter(|p| p.container_id == view.id)?;
    let suffix = if restarts() { ", will be restarted" } else { "" };
    if probes.startup == Some(false) && container.startup_probe.is_some() {
        return kill(KillCause::Startup, format!("Container {name} failed startup probe{suffix}"));
    }
    if probes.liveness == Some(false) && container.liveness_probe.is_some() {
        return kill(KillCause::Liveness, format!("Container {name} failed liveness probe{suffix}"));
    }
    None
}

/// The waiting state of a container in its back-off.
pub fn crash_loop(pod: &Pod, name: &str, pause: jiff::SignedDuration) -> Waiting {
    let seconds = pause.as_secs();
    let pause = if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") };
    let pod = spec::describe(pod);
    Waiting::new("CrashLoopBackOff", format!("back-off {pause} restarting failed container={name} pod={pod}"))
}

/// The container's status in the last one computed.
pub fn old_status<'a>(memory: &'a Memory, name: &str) -> Option<&'a ContainerStatus> {
    let status = &memory.last_status;
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flat_map(|list| list.iter().flatten()).find(|s| s.name == name)
}

/// The end of a container the runtime has forgotten, as the status tells it.
fn forgotten_exit(status: &ContainerStatus) -> Option<Exit> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return Some(Exit::unknown(super::super::status::containers::LOST));
    }
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last)?;
    Some(Exit {
        code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone(),
        started_at: ended.started_at.as_ref().map(|t| t.0),
        finished_at: ended.finished_at.as_ref().map(|t| t.0),
    })
}

fn next_attempt(old: Option<&ContainerStatus>) -> u32 {
    let Some(old) = old else { return 0 };
    let count = u32::try_from(old.restart_count).unwrap_or(0);
    let ran = old.container_id.as_deref().is_some_and(|id| !id.is_empty());
    count + u32::from(ran)
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
