//! One step of a stateful set: which ordinals to create, which pods to delete, in what order. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::identity::{ordinal, replicas, start};
use crate::intstr::{Round, resolve};
use crate::{pods, revisions};

pub(super) struct State<'a> {
    pub(super) set: &'a StatefulSet,
    /// The pods it owns.
    pub(super) pods: &'a [Arc<Pod>],
    /// Hash and revision name of the template in force before the present update, and of the present one.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) now: Timestamp,
}

/// A pod to create.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Make {
    pub(super) ordinal: i32,
    /// Of the present template, not the one before.
    pub(super) updated: bool,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Make>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: StatefulSetStatus,
    pub(super) again: Option<Duration>,
}

struct View<'a> {
    state: &'a State<'a>,
    slots: Vec<(i32, Option<Arc<Pod>>)>,
    /// Pods beyond the wanted range, the highest first.
    condemned: Vec<Arc<Pod>>,
    ordered: bool,
    min_ready: i32,
}

pub(super) fn plan(state: &State<'_>) -> Plan {
    let view = View::new(state);
    let mut plan = Plan { status: status(&view), ..Plan::default() };
    let waits = state.pods.iter().filter_map(|pod| pods::available_in(pod, view.min_ready, state.now));
    plan.again = waits.min();
    if state.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let complete = fill(&mut plan, &view) && condemn(&mut plan, &view);
    if complete && plan.create.is_empty() && plan.delete.is_empty() {
        roll(&mut plan, &view);
    }
    plan
}

impl<'a> View<'a> {
    fn new(state: &'a State<'a>) -> Self {
        let spec = state.set.spec.as_ref();
        let first = start(state.set);
        let range = first..first.saturating_add(replicas(state.set));
        let find = |wanted: i32| state.pods.iter().find(|pod| ordinal(state.set, pod) == Some(wanted)).cloned();
        let slots = range.clone().map(|wanted| (wanted, find(wanted))).collect();
        let mut condemned: Vec<Arc<Pod>> = state
            .pods
            .iter()
            .filter(|pod| ordinal(state.set, pod).is_some_and(|ordinal| !range.contains(&ordinal)))
            .cloned()
            .collect();
        condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal(state.set, pod)));
        Self {
            state,
            slots,
            condemned,
            ordered: spec.and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel"),
            min_ready: spec.and_then(|s| s.min_ready_seconds).unwrap_or(0),
        }
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running"
            && !pods::is_terminating(pod)
            && pods::is_available(pod, self.min_ready, self.state.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pods::label(pod, revisions::HASH) == Some(self.state.update)
    }

    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.state.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref());
        let unavailable = unavailable.map_or(1, |value| resolve(value, replicas(self.state.set), Round::Up).max(1));
        Some((partition, unavailable))
    }

    /// Whether a new pod of this ordinal is of the present template: an update in progress has not reached the lower
    /// ordinals.
    fn makes_updated(&self, ordinal: i32) -> bool {
        let first = start(self.state.set);
        let Some((partition, _)) = self.rolling() else { return true };
        if self.state.current == self.state.update {
            return true;
        }
        let untouched = if partition > 0 {
            partition
        } else {
            self.state.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0)
        };
        ordinal >= first.saturating_add(untouched)
    }
}

/// Makes what is missing and replaces what has ended. True if all wanted pods are there, and healthy if in order.
fn fill(plan: &mut Plan, view: &View<'_>) -> bool {
    for (ordinal, pod) in &view.slots {
        match pod {
            None => plan.create.push(Make { ordinal: *ordinal, updated: view.makes_updated(*ordinal) }),
            Some(pod) if pods::is_terminal(pod) && !pods::is_terminating(pod) => plan.delete.push(pod.clone()),
            Some(pod) if !view.ordered || view.is_healthy(pod) => continue,
            Some(_) => {}
        }
        if view.ordered {
            return false;
        }
    }
    true
}

/// Deletes pods beyond the range; in order, one at a time from the top. True if none is left.
fn condemn(plan: &mut Plan, view: &View<'_>) -> bool {
    for pod in &view.condemned {
        if !pods::is_terminating(pod) {
            plan.delete.push(pod.clone());
        }
        if view.ordered {
            return false;
        }
    }
    true
}

/// Deletes pods of older templates from the top, as many as may be unavailable at a time.
fn roll(plan: &mut Plan, view: &View<'_>) {
    let Some((partition, most)) = view.rolling() else { return };
    let present = view.slots.iter().filter_map(|(_, pod)| pod.as_ref());
    let unavailable = i32::try_from(present.filter(|pod| !view.is_healthy(pod)).count()).unwrap_or(i32::MAX);
    let mut room = most - unavailable;
    let lowest = start(view.state.set).saturating_add(partition);
    for (ordinal, pod) in view.slots.iter().rev() {
        let Some(pod) = pod.as_ref().filter(|_| *ordinal >= lowest) else { continue };
        if view.is_updated(pod) || pods::is_terminating(pod) {
            continue;
        }
        let broken = !view.is_healthy(pod);
        if room <= 0 && !broken {
            return;
        }
        plan.delete.push(pod.clone());
        if !broken {
            room -= 1;
        }
        if broken && view.ordered {
            return;
        }
    }
}

fn status(view: &View<'_>) -> StatefulSetStatus {
    let state = view.state;
    let count = |pick: &dyn Fn(&Pod) -> bool| {
        i32::try_from(state.pods.iter().filter(|pod| pick(pod)).count()).unwrap_or(i32::MAX)
    };
    let live = |pod: &Pod| !pods::is_terminating(pod);
    let of = |pod: &Pod, hash: &str| pods::label(pod, revisions::HASH) == Some(hash);
    let old = state.set.status.clone().unwrap_or_default();
    let updated = count(&|pod| live(pod) && of(pod, state.update));
    let ready = count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
    let available = count(&|pod| pods::is_available(pod, view.min_ready, state.now));
    let total = count(&|_| true);
    let mut current_replicas = count(&|pod| live(pod) && of(pod, state.current));
    let wanted = replicas(state.set);
    let mut current = state.current;
    // The update is over: the present template is the one in force.
    if view.rolling().is_some() && updated == wanted && ready == wanted && total == wanted {
        (current, current_replicas) = (state.update, updated);
    }
    StatefulSetStatus {
        replicas: total,
        ready_replicas: Some(ready).filter(|n| *n > 0),
        available_replicas: Some(available),
        current_replicas: Some(current_replicas).filter(|n| *n > 0),
        updated_replicas: Some(updated).filter(|n| *n > 0),
        current_revision: Some(revision_name(state.set, current)),
        update_revision: Some(revision_name(state.set, state.update)),
        observed_generation: state.set.metadata.generation,
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions,
    }
}

pub(super) fn revision_name(set: &StatefulSet, hash: &str) -> String {
    format!("{}-{hash}", set.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::fixture::{at, labelled, pod as plain, ready};

    fn set(replicas: i32, policy: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"replicas": replicas, "serviceName": "db",
            "podManagementPolicy": policy, "selector": {}, "template": {}}}))
        .unwrap()
    }

    fn up(ordinal: i32, hash: &str) -> Arc<Pod> {
        Arc::new(labelled(ready(&format!("db-{ordinal}"), "n", 0), &[(revisions::HASH, hash)]))
    }

    fn run(set: &StatefulSet, pods: &[Arc<Pod>], current: &str) -> Plan {
        plan(&State { set, pods, current, update: "new", now: at(100) })
    }

    fn created(plan: &Plan) -> Vec<i32> {
        plan.create.iter().map(|make| make.ordinal).collect()
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        plan.delete.iter().map(|p| pods::name(p)).collect()
    }

    #[test]
    fn pods_come_one_by_one_in_order_or_all_at_once() {
        let ordered = set(3, "OrderedReady");
        assert_eq!(created(&run(&ordered, &[], "new")), [0]);
        let starting = Arc::new(labelled(plain("db-0", "Pending"), &[(revisions::HASH, "new")]));
        assert!(created(&run(&ordered, &[starting], "new")).is_empty());
        assert_eq!(created(&run(&ordered, &[up(0, "new")], "new")), [1]);
        assert_eq!(created(&run(&set(3, "Parallel"), &[], "new")), [0, 1, 2]);
    }

    #[test]
    fn scaling_down_takes_the_highest_first() {
        let pods = [up(0, "new"), up(1, "new"), up(2, "new")];
        assert_eq!(deleted(&run(&set(1, "OrderedReady"), &pods, "new")), ["db-2"]);
        assert_eq!(deleted(&run(&set(1, "Parallel"), &pods, "new")), ["db-2", "db-1"]);
    }

    #[test]
    fn an_update_goes_down_from_the_top_to_the_partition() {
        let mut set = set(3, "OrderedReady");
        assert_eq!(deleted(&run(&set, &[up(0, "old"), up(1, "old"), up(2, "old")], "old")), ["db-2"]);
        let halfway = [up(0, "old"), up(1, "old"), up(2, "new")];
        assert_eq!(deleted(&run(&set, &halfway, "old")), ["db-1"]);
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
        set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(strategy).unwrap();
        assert!(deleted(&run(&set, &halfway, "old")).is_empty());
        let missing = run(&set, &[up(0, "old")], "old");
        assert_eq!(missing.create, [Make { ordinal: 1, updated: false }]);
    }

    #[test]
    fn a_finished_update_becomes_the_current_revision() {
        let plan = run(&set(1, "OrderedReady"), &[up(0, "new")], "old");
        assert_eq!(plan.status.current_revision.as_deref(), Some("db-new"));
        let plan = run(&set(2, "OrderedReady"), &[up(0, "old"), up(1, "new")], "old");
        assert_eq!(plan.status.current_revision.as_deref(), Some("db-old"));
        assert_eq!((plan.status.updated_replicas, plan.status.current_replicas), (Some(1), Some(1)));
    }

    #[test]
    fn a_pod_that_ended_is_replaced_under_its_name() {
        let failed = Arc::new(labelled(plain("db-0", "Failed"), &[(revisions::HASH, "new")]));
        assert_eq!(deleted(&run(&set(1, "OrderedReady"), &[failed], "new")), ["db-0"]);
    }
}
