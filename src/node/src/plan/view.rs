//! What the runtime says of one pod, reduced to what decisions need. Pure.

use jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, PodPhase, PodStatus};

use crate::spec::pod::labels;

/// The pod's namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// The runtime does not know the pod.
    #[default]
    Absent,
    /// It was stopped or its shim is gone; only records are left.
    Dead,
    Ready,
}

#[derive(Clone, Debug, Default)]
pub struct PodView {
    pub sandbox: Sandbox,
    /// All instances known, oldest attempt first.
    pub containers: Vec<ContainerView>,
}

/// One instance of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub state: State,
    /// As the pod spelled it when the instance was made.
    pub image: String,
    pub image_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

impl PodView {
    /// Reduces the runtime's report. `message` gives an ended instance's termination message.
    pub fn of(status: Option<&PodStatus>, message: impl Fn(&ContainerStatus) -> Option<String>) -> PodView {
        let Some(status) = status else { return PodView::default() };
        let sandbox = if status.phase == PodPhase::Ready { Sandbox::Ready } else { Sandbox::Dead };
        let mut containers: Vec<_> = status.containers.iter().map(|c| ContainerView::of(c, &message)).collect();
        containers.sort_by_key(|c| c.attempt);
        PodView { sandbox, containers }
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().rev().find(|c| c.name == name)
    }

    /// The newest ended instance older than `attempt`.
    pub fn before(&self, name: &str, attempt: u32) -> Option<&ContainerView> {
        self.containers
            .iter()
            .rev()
            .find(|c| c.name == name && c.attempt < attempt && matches!(c.state, State::Exited(_)))
    }

    pub fn any_alive(&self) -> bool {
        self.containers.iter().any(|c| !matches!(c.state, State::Exited(_)))
    }
}

impl ContainerView {
    fn of(status: &ContainerStatus, message: &impl Fn(&ContainerStatus) -> Option<String>) -> ContainerView {
        let state = match (status.state, &status.exit) {
            (ContainerState::Exited, Some(exit)) => State::Exited(Exit {
                code: exit.code,
                reason: exit.reason.clone(),
                message: message(status).or_else(|| Some(exit.message.clone()).filter(|m| !m.is_empty())),
                started_at: status.started_at,
                finished_at: Some(exit.finished_at),
            }),
            (ContainerState::Exited, None) => State::Exited(Exit::unknown("The container's exit was not recorded")),
            (ContainerState::Running, _) => {
                State::Running { started_at: status.started_at.unwrap_or(status.created_at) }
            }
            (ContainerState::Created, _) => State::Created,
        };
        ContainerView {
            id: status.id.to_string(),
            name: status.spec.name.clone(),
            attempt: status.spec.attempt,
            state,
            image: status.spec.annotations.get(labels::IMAGE).cloned().unwrap_or_default(),
            image_id: status.image_id.clone(),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

impl Exit {
    /// An end nobody saw.
    pub fn unknown(message: &str) -> Exit {
        Exit {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some(message.to_owned()),
            started_at: None,
            finished_at: None,
        }
    }
}
