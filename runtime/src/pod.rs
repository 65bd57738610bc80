//! A pod as the runtime sees it: its records, the last known state of its containers, and the line to its shim.

use crate::images::LayerLease;
use crate::link::{Link, lock};
use crate::protocol::{Notice, StateRecord};
use crate::records::{ContainerRecord, PodDir, PodRecord};
use crate::spec::{ContainerId, ContainerSpec, PodSpec};
use crate::status::{ContainerState, ContainerStatus, Event, Exit, PodPhase, PodStatus};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What kubelet-like callers expect of a container whose end nobody saw.
const UNKNOWN_EXIT: i32 = 137;

#[derive(Debug)]
pub(crate) struct Pod {
    pub dir: PodDir,
    pub record: PodRecord,
    spec: Arc<PodSpec>,
    /// `None` once the shim is gone, or from the start for a pod found dead.
    pub link: Option<Link>,
    state: Mutex<State>,
    /// Counts changes of any container's state or of the phase.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    phase: PodPhase,
    shim_pid: i32,
    stopping: bool,
    containers: BTreeMap<ContainerId, Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub record: Arc<ContainerRecord>,
    spec: Arc<ContainerSpec>,
    state: StateRecord,
    /// Keeps the image's layers from being collected.
    _layers: LayerLease,
}

impl Entry {
    pub(crate) fn new(record: ContainerRecord, state: StateRecord, layers: LayerLease) -> Self {
        Self { spec: Arc::new(record.spec.clone()), record: Arc::new(record), state, _layers: layers }
    }
}

impl Pod {
    pub(crate) fn new(dir: PodDir, record: PodRecord, phase: PodPhase, shim_pid: i32, link: Option<Link>) -> Self {
        Self {
            dir,
            spec: Arc::new(record.spec.clone()),
            record,
            link,
            state: Mutex::new(State { phase, shim_pid, stopping: false, containers: BTreeMap::new() }),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn insert(&self, entry: Entry) {
        lock(&self.state).containers.insert(entry.record.id.clone(), entry);
        self.touch();
    }

    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.state).containers.remove(id);
        self.touch();
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes in what the shim tells; answers with the event to publish.
    pub(crate) fn apply(&self, notice: Notice) -> Option<Event> {
        let Notice::State(id, new) = notice;
        let pod = self.spec.id.clone();
        let event = {
            let mut state = lock(&self.state);
            let entry = state.containers.get_mut(&id)?;
            let before = std::mem::replace(&mut entry.state, new.clone()).state;
            match (before, new.state, new.exit) {
                (before, ContainerState::Exited, Some(exit)) if before != ContainerState::Exited => {
                    Some(Event::ContainerExited { pod, container: id, exit })
                }
                (ContainerState::Created, ContainerState::Running, _) => {
                    Some(Event::ContainerStarted { pod, container: id })
                }
                _ => None,
            }
        };
        self.touch();
        event
    }

    /// The shim's socket is closed. Returns what to publish.
    pub(crate) fn shim_left(&self, reason: &str) -> Vec<Event> {
        let mut events = Vec::new();
        {
            let mut state = lock(&self.state);
            if state.stopping {
                state.phase = PodPhase::Stopped;
            } else {
                state.phase = PodPhase::Gone { reason: reason.to_owned() };
            }
            let pod = &self.spec.id;
            for (id, entry) in &mut state.containers {
                if entry.state.state != ContainerState::Exited {
                    let exit = unknown_exit(reason);
                    entry.state.state = ContainerState::Exited;
                    entry.state.pid = 0;
                    entry.state.exit = Some(exit.clone());
                    events.push(Event::ContainerExited { pod: pod.clone(), container: id.clone(), exit });
                }
            }
            if !state.stopping {
                events.push(Event::PodGone { pod: pod.clone(), reason: reason.to_owned() });
            }
        }
        self.touch();
        events
    }

    pub(crate) fn begin_stop(&self) {
        lock(&self.state).stopping = true;
    }

    pub(crate) fn phase(&self) -> PodPhase {
        lock(&self.state).phase.clone()
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        lock(&self.state).shim_pid
    }

    pub(crate) fn netns(&self) -> PathBuf {
        // A pod on the host's network is where this process is.
        let own = || PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
        self.record.netns.clone().unwrap_or_else(own)
    }

    pub(crate) fn status(&self) -> PodStatus {
        let state = lock(&self.state);
        PodStatus {
            spec: Arc::clone(&self.spec),
            phase: state.phase.clone(),
            netns: self.netns(),
            shim_pid: state.shim_pid,
            created_at: self.record.created_at,
            cgroup_path: self.record.cgroup_path.clone(),
            containers: state.containers.values().map(|entry| self.describe(entry)).collect(),
        }
    }

    fn describe(&self, entry: &Entry) -> ContainerStatus {
        ContainerStatus {
            id: entry.record.id.clone(),
            pod_id: self.spec.id.clone(),
            spec: Arc::clone(&entry.spec),
            image_id: entry.record.image_id.clone(),
            state: entry.state.state,
            pid: entry.state.pid,
            created_at: entry.record.created_at,
            started_at: entry.state.started_at,
            exit: entry.state.exit.clone(),
        }
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        lock(&self.state).containers.get(id).map(|entry| self.describe(entry))
    }

    pub(crate) fn container_record(&self, id: &ContainerId) -> Option<Arc<ContainerRecord>> {
        lock(&self.state).containers.get(id).map(|entry| Arc::clone(&entry.record))
    }

    pub(crate) fn container_ids(&self) -> Vec<ContainerId> {
        lock(&self.state).containers.keys().cloned().collect()
    }
}

pub(crate) fn unknown_exit(reason: &str) -> Exit {
    Exit {
        code: UNKNOWN_EXIT,
        signal: None,
        finished_at: Timestamp::now(),
        reason: "ContainerStatusUnknown".into(),
        message: format!("The container could not be located when the pod was terminated: {reason}"),
    }
}
