//! The pod state machine: from a pod's specification and what runs, what to do next. Pure; time is a parameter.
//!
//! [`actions::decide`] is asked by the pod's worker after every event. It never remembers: what must be known from
//! before is in [`view::PodView`] (the runtime's truth), [`Memory`] (probes, back-off, why a container waits) and the
//! last status that was computed.

pub mod actions;
pub mod backoff;
pub mod restart;
pub mod view;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodStatus;

use backoff::Backoff;

/// What a worker knows of its pod beside the runtime's view. Lost with the process; nothing in it is irreplaceable.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By container name, for the container instance that runs now.
    pub probes: BTreeMap<String, ProbeState>,
    pub backoff: BTreeMap<String, Backoff>,
    /// Why a container that should run does not.
    pub waiting: BTreeMap<String, Waiting>,
    /// When what is in `waiting` may be tried again, where that is a matter of time.
    pub retry_at: BTreeMap<String, jiff::Timestamp>,
    /// The status computed last; at first the API's.
    pub last_status: PodStatus,
    /// Set when the node itself ends the pod: rejected, evicted, past its deadline.
    pub verdict: Option<Verdict>,
    pub pod_ips: Vec<String>,
    /// Which objects, in which revisions, the containers' configuration rests on.
    pub references: Vec<(String, String)>,
}

/// The latest word of each probe on the running instance; `None`: no result yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    /// The container these are about.
    pub container_id: String,
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
    /// The hook ran to its end (true at once where there is none).
    pub post_start_done: bool,
}

/// A container's `state.waiting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: Option<String>,
}

impl Waiting {
    pub fn new(reason: &str, message: impl Into<String>) -> Waiting {
        Waiting { reason: reason.to_owned(), message: Some(message.into()).filter(|m| !m.is_empty()) }
    }
}

/// The pod has failed by the node's own decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}
