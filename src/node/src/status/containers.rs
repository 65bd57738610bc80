//! The status of one container. Pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::plan::actions::{is_started, old_status};
use crate::plan::restart::should_restart;
use crate::plan::view::{ContainerView, Exit, PodView, State};
use crate::plan::{Memory, Waiting};
use crate::spec::Role;

/// Said of a container that ran and of which the runtime knows nothing any more.
pub const LOST: &str = "The container could not be located when the pod was terminated";

/// Computes it. `finished`: the pod will not run anything again.
pub fn status(
    pod: &Pod,
    role: Role,
    container: &Container,
    view: &PodView,
    memory: &Memory,
    finished: bool,
) -> ContainerStatus {
    let old = old_status(memory, &container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |o| o.restart_count),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let latest = view.latest(&container.name);
    if let Some(latest) = latest {
        status.container_id = Some(container_id(&latest.id));
        status.image_id.clone_from(&latest.image_id);
        status.restart_count = i32::try_from(latest.attempt).unwrap_or(i32::MAX);
        status.last_state = last_state(latest, view, old);
    } else if let Some(old) = old {
        status.container_id.clone_from(&old.container_id);
        status.image_id.clone_from(&old.image_id);
        status.last_state.clone_from(&old.last_state);
    }
    let waiting = || {
        let waiting = memory.waiting.get(&container.name).cloned().unwrap_or_else(|| default_waiting(pod, role));
        ContainerState { waiting: Some(waiting_state(waiting)), ..ContainerState::default() }
    };
    let mut state = match latest.map(|l| &l.state) {
        Some(State::Running { started_at }) => {
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        Some(State::Exited(exit)) => terminated_state(exit, status.container_id.clone()),
        Some(State::Created) => waiting(),
        None => forgotten(old, &mut status.last_state).unwrap_or_else(waiting),
    };
    // A container that will be tried again and waits for it says why; its end moves to the last state.
    if let Some(ended) = &state.terminated
        && !finished
        && memory.waiting.contains_key(&container.name)
        && should_restart(pod, role, container, ended.exit_code)
    {
        let waiting = waiting();
        status.last_state = Some(std::mem::replace(&mut state, waiting));
    }
    if finished && state.waiting.is_some() && status.container_id.is_some() {
        // It ran once and never will again: its last end is its end.
        state = status.last_state.take().filter(|s| s.terminated.is_some()).unwrap_or(state);
    }
    readiness(&mut status, role, container, latest, memory, &state);
    status.state = Some(state);
    if status.container_id.is_some() {
        describe_mounts(&mut status, container);
        describe_resources(&mut status, container);
    }
    status
}

pub fn container_id(id: &str) -> String {
    format!("rk://{id}")
}

fn default_waiting(pod: &Pod, role: Role) -> Waiting {
    let has_init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|i| !i.is_empty());
    let reason = if has_init && role != Role::Ephemeral { "PodInitializing" } else { "ContainerCreating" };
    Waiting { reason: reason.to_owned(), message: None }
}

fn waiting_state(waiting: Waiting) -> ContainerStateWaiting {
    ContainerStateWaiting { reason: Some(waiting.reason), message: waiting.message }
}

fn terminated_state(exit: &Exit, container_id: Option<String>) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id,
        exit_code: exit.code,
        signal: None,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: exit.started_at.map(Time),
        finished_at: exit.finished_at.map(Time),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// The state before the latest instance: an older instance's end, or what the former status remembers.
fn last_state(latest: &ContainerView, view: &PodView, old: Option<&ContainerStatus>) -> Option<ContainerState> {
    if let Some(before) = view.before(&latest.name, latest.attempt)
        && let State::Exited(exit) = &before.state
    {
        return Some(terminated_state(exit, Some(container_id(&before.id))));
    }
    let old = old?;
    let state = old.state.as_ref();
    let own_id = old.container_id.as_deref() == Some(container_id(&latest.id).as_str());
    if own_id && state.is_none_or(|s| s.waiting.is_none()) {
        return old.last_state.clone();
    }
    let ended = |s: &&ContainerState| s.terminated.is_some();
    if own_id {
        // While it waited, this very instance's end was the last state.
        let own = |s: &&ContainerState| {
            s.terminated.as_ref().is_some_and(|t| t.container_id.as_deref() != old.container_id.as_deref())
        };
        return old.last_state.as_ref().filter(ended).filter(own).cloned();
    }
    state.filter(ended).or(old.last_state.as_ref()).cloned()
}

/// What the former status says of a container that the runtime does not know.
fn forgotten(old: Option<&ContainerStatus>, last: &mut Option<ContainerState>) -> Option<ContainerState> {
    let state = old?.state.as_ref()?;
    if state.terminated.is_some() {
        return Some(state.clone());
    }
    if state.running.is_some() {
        let id = old.and_then(|o| o.container_id.clone());
        *last = Some(terminated_state(&Exit::unknown(LOST), id));
    }
    None
}

fn readiness(
    status: &mut ContainerStatus,
    role: Role,
    container: &Container,
    latest: Option<&ContainerView>,
    memory: &Memory,
    state: &ContainerState,
) {
    if role == Role::Init {
        status.ready = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
        status.started = Some(state.running.is_some());
        return;
    }
    let Some(running) = latest.filter(|l| l.is_running()) else { return };
    let started = is_started(container, running, memory);
    status.started = Some(started);
    let probes = memory.probes.get(&container.name).filter(|p| p.container_id == running.id);
    let answer = probes.and_then(|p| p.readiness).unwrap_or(false);
    status.ready = started && (container.readiness_probe.is_none() || answer);
}

fn describe_mounts(status: &mut ContainerStatus, container: &Container) {
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| {
            let read_only = m.read_only == Some(true);
            VolumeMountStatus {
                name: m.name.clone(),
                mount_path: m.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| "Disabled".to_owned()),
                volume_status: None,
            }
        })
        .collect();
    status.volume_mounts = (!mounts.is_empty()).then_some(mounts);
}

fn describe_resources(status: &mut ContainerStatus, container: &Container) {
    let Some(resources) = &container.resources else { return };
    status.allocated_resources.clone_from(&resources.requests);
    let mut reported = resources.clone();
    reported.claims = None;
    status.resources = Some(reported);
}
