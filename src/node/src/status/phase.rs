//! The pod's phase from its containers' statuses. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use crate::plan::Memory;
use crate::plan::restart::should_restart;
use crate::spec::Role;

/// A phase that a pod never leaves.
pub fn is_final(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// The phase these container statuses amount to. `finished`: nothing will run again, whatever the policy.
pub fn of(pod: &Pod, status: &PodStatus, memory: &Memory, finished: bool) -> &'static str {
    if memory.verdict.is_some() {
        return "Failed";
    }
    let main = Tally::of(pod, Role::Main, status.container_statuses.as_deref());
    let init = Tally::of(pod, Role::Init, status.init_container_statuses.as_deref());
    let main_began = main.running + main.ended > 0;
    if finished {
        let clean = main.ended > 0 && main.failed == 0 && main.open == 0 && main.running == 0;
        return if clean { "Succeeded" } else { "Failed" };
    }
    if init.lost > 0 && !main_began {
        return "Failed";
    }
    if (init.open > 0 && !main_began) || main.open > 0 {
        return "Pending";
    }
    if main.running > 0 || main.again > 0 {
        return "Running";
    }
    if main.ended == 0 {
        return "Pending";
    }
    if main.lost > 0 { "Failed" } else { "Succeeded" }
}

/// How many containers of one role are in which condition.
#[derive(Default)]
struct Tally {
    /// Never ran to an end and not running now (for init containers: anything but success).
    open: usize,
    running: usize,
    /// Ended at least once; not running.
    ended: usize,
    /// Of those: will run again.
    again: usize,
    /// Of those: failed for good.
    lost: usize,
    /// Of those: failed, for good or not.
    failed: usize,
}

impl Tally {
    fn of(pod: &Pod, wanted: Role, statuses: Option<&[ContainerStatus]>) -> Tally {
        let mut tally = Tally::default();
        for (role, container) in crate::spec::containers(pod) {
            let matches = role == wanted || (wanted == Role::Init && role == Role::Sidecar);
            if !matches {
                continue;
            }
            let status = statuses.into_iter().flatten().find(|s| s.name == container.name);
            tally.add(pod, role, &container, status);
        }
        tally
    }

    fn add(
        &mut self,
        pod: &Pod,
        role: Role,
        container: &k8s_openapi::api::core::v1::Container,
        status: Option<&ContainerStatus>,
    ) {
        let Some(status) = status else {
            self.open += 1;
            return;
        };
        let state = status.state.as_ref();
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let terminated = state.and_then(|s| s.terminated.as_ref());
        let code = terminated.or(last).map(|t| t.exit_code);
        if role == Role::Sidecar {
            self.open += usize::from(status.started != Some(true));
            return;
        }
        if role == Role::Init {
            match terminated.map(|t| t.exit_code) {
                Some(0) => {}
                Some(code) if !should_restart(pod, role, container, code) => self.lost += 1,
                _ => self.open += 1,
            }
            return;
        }
        if state.is_some_and(|s| s.running.is_some()) {
            self.running += 1;
            return;
        }
        let Some(code) = code else {
            self.open += 1;
            return;
        };
        self.ended += 1;
        self.failed += usize::from(code != 0);
        if should_restart(pod, role, container, code) {
            self.again += 1;
        } else if code != 0 {
            self.lost += 1;
        }
    }
}
