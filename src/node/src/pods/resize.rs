//! Changes of a running pod's requests and limits, put into force without a restart where the container allows it.
//! Part of the worker.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::spec::Resources;
use runtime::{ContainerId, ContainerState, ContainerStatus};

use super::worker::Worker;
use crate::network::chain;
use crate::plan::actions::{Kill, KillCause};
use crate::spec::{self, resources};

/// What is in force, by container id.
#[derive(Default)]
pub(super) struct InForce {
    applied: HashMap<String, Resources>,
    /// The generation of the pod that was looked at last.
    seen: Option<i64>,
}

/// A container whose values differ.
struct Change {
    id: ContainerId,
    name: String,
    wanted: Resources,
    restart: bool,
}

impl Worker {
    /// Brings the cgroups in line with a changed specification.
    pub(super) async fn resize(&mut self, pod: &Arc<Pod>) {
        if self.in_force.seen == pod.metadata.generation && self.in_force.seen.is_some() {
            return;
        }
        let Ok(status) = self.context.runtime.pod_status(&self.pod_id()) else { return };
        self.in_force.seen = pod.metadata.generation;
        self.in_force.applied.retain(|id, _| status.containers.iter().any(|c| c.id.as_str() == id));
        let running = status.containers.iter().filter(|c| c.state == ContainerState::Running);
        let changes: Vec<Change> = running.filter_map(|c| self.change(pod, c)).collect();
        if changes.is_empty() {
            return;
        }
        let node = self.context.own_node();
        if let Err(verdict) = self.context.admission.refit(node.as_deref(), pod) {
            tracing::info!(uid = %self.uid, reason = %verdict.message, "pod cannot be resized here");
            return;
        }
        // Growing needs room in the pod first, shrinking afterwards: the second time settles either.
        let whole = resources::pod(pod);
        self.limit_pod(&status.cgroup_path, &whole);
        for change in changes {
            self.apply(pod, change).await;
        }
        self.limit_pod(&status.cgroup_path, &whole);
    }

    fn change(&self, pod: &Pod, status: &ContainerStatus) -> Option<Change> {
        let (_, container) = spec::find(pod, &status.spec.name)?;
        let wanted = resources::container(pod, &container, self.context.machine.memory);
        let current = self.in_force.applied.get(status.id.as_str()).unwrap_or(&status.spec.resources);
        let restart = needs_restart(&container, current, &wanted);
        let differs = strip(current) != strip(&wanted);
        differs.then(|| Change { id: status.id.clone(), name: container.name.clone(), wanted, restart })
    }

    fn limit_pod(&self, path: &str, resources: &Resources) {
        if let Err(error) = self.context.runtime.ensure_cgroup(path, resources) {
            tracing::debug!(uid = %self.uid, error = %chain(&error), "cannot change the pod's limits yet");
        }
    }

    async fn apply(&mut self, pod: &Arc<Pod>, change: Change) {
        if change.restart {
            let message = format!("Container {} resize requires restart", change.name);
            let kill = Kill { id: change.id.to_string(), name: change.name, cause: KillCause::Changed, message };
            self.kill(pod, &kill).await;
            return;
        }
        match self.context.runtime.update_resources(&change.id, &change.wanted).await {
            Ok(()) => drop(self.in_force.applied.insert(change.id.to_string(), change.wanted)),
            Err(error) => tracing::warn!(container = %change.id, error = %chain(&error), "cannot resize a container"),
        }
    }
}

/// The score of a living process is not changed.
fn strip(resources: &Resources) -> Resources {
    Resources { oom_score_adj: None, ..resources.clone() }
}

fn needs_restart(container: &Container, current: &Resources, wanted: &Resources) -> bool {
    let policy = |resource: &str| {
        let rules = container.resize_policy.iter().flatten();
        rules.clone().any(|r| r.resource_name == resource && r.restart_policy == "RestartContainer")
    };
    let cpu = (current.cpu_shares, current.cpu_quota) != (wanted.cpu_shares, wanted.cpu_quota);
    let memory = current.memory_limit != wanted.memory_limit;
    (cpu && policy("cpu")) || (memory && policy("memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_resource_restarts() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}))
        .unwrap();
        let base = Resources::default();
        assert!(needs_restart(&container, &base, &Resources { memory_limit: Some(1), ..base.clone() }));
        assert!(!needs_restart(&container, &base, &Resources { cpu_quota: Some(1), ..base.clone() }));
    }
}
