//! Which nodes lack a daemon pod, which pods have to go, and how a new template reaches the nodes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::target;
use crate::affinity;
use crate::intstr::{Round, resolve};
use crate::node_lifecycle::plan::tolerates;
use crate::pods;
use crate::revisions;

/// Pods created or deleted at a time.
const BURST: usize = 250;

pub(super) struct State<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    /// The pods it owns.
    pub(super) pods: &'a [Arc<Pod>],
    /// The hash of the present template.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes to create a pod for.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods among `delete` that failed, for events.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
    pub(super) again: Option<Duration>,
}

/// Whether a pod of the set is to run on the node, and whether one that runs may stay.
pub(super) fn fits(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return (false, false) };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let pinned = spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name);
    if pinned || !affinity::selects(spec, node) {
        return (false, false);
    }
    let tolerations = target::tolerations(spec);
    let refused = |effects: &[&str]| {
        let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let bad = |taint: &Taint| {
            effects.contains(&taint.effect.as_str()) && !tolerations.iter().any(|t| tolerates(t, taint))
        };
        taints.any(bad)
    };
    (!refused(&["NoSchedule", "NoExecute"]), !refused(&["NoExecute"]))
}

struct Update {
    rolling: bool,
    surge: i32,
    unavailable: i32,
}

fn update(set: &DaemonSet, desired: i32) -> Update {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    let parameters = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = parameters.and_then(|p| p.max_surge.as_ref()).map_or(0, |v| resolve(v, desired, Round::Up));
    let unavailable = parameters.and_then(|p| p.max_unavailable.as_ref()).unwrap_or(&IntOrString::Int(1));
    let unavailable = resolve(unavailable, desired, Round::Up);
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    Update { rolling, surge, unavailable }
}

/// The pods of one node.
struct Local<'a> {
    node: &'a str,
    wanted: bool,
    pods: Vec<Arc<Pod>>,
}

pub(super) fn plan(state: &State<'_>) -> Plan {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in state.pods {
        if let Some(node) = target::node_of(pod) {
            by_node.entry(node).or_default().push(pod.clone());
        }
    }
    let mut plan = Plan::default();
    let mut locals = Vec::new();
    for node in state.nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let pods = by_node.remove(name).unwrap_or_default();
        let (wanted, may_stay) = fits(state.set, node);
        locals.push((Local { node: name, wanted, pods }, may_stay));
    }
    let desired = i32::try_from(locals.iter().filter(|(local, _)| local.wanted).count()).unwrap_or(i32::MAX);
    let update = update(state.set, desired);
    for (local, may_stay) in &mut locals {
        manage(&mut plan, state, &update, local, *may_stay);
    }
    // Pods for nodes that are gone, and not yet bound: nothing will ever run them.
    plan.delete.extend(by_node.into_values().flatten().filter(|p| pods::node_name(p).is_none() && pods::is_active(p)));
    let locals: Vec<Local<'_>> = locals.into_iter().map(|(local, _)| local).collect();
    if update.rolling {
        roll(&mut plan, state, &update, &locals);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan.status = status(state, &locals, desired, &mut plan.again);
    plan
}

fn manage(plan: &mut Plan, state: &State<'_>, update: &Update, local: &mut Local<'_>, may_stay: bool) {
    let going = |pod: &Arc<Pod>| pods::is_terminating(pod);
    if !may_stay {
        plan.delete.extend(local.pods.iter().filter(|p| !going(p)).cloned());
        return;
    }
    let (ended, mut running): (Vec<_>, Vec<_>) =
        local.pods.iter().filter(|p| !going(p)).cloned().partition(|pod| pods::is_terminal(pod));
    plan.failed.extend(ended.iter().cloned());
    plan.delete.extend(ended.iter().cloned());
    if local.pods.is_empty() && local.wanted {
        plan.create.push(local.node.to_owned());
    }
    // One too many: the oldest stays; while surging, the oldest of each template.
    running.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let keep_both = update.rolling && update.surge > 0;
    let mut kept: Vec<bool> = Vec::new();
    for pod in running {
        let new = is_new(&pod, state.hash);
        let surplus = if keep_both { kept.contains(&new) } else { !kept.is_empty() };
        if surplus {
            plan.delete.push(pod);
        } else {
            kept.push(new);
        }
    }
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    pods::label(pod, revisions::HASH) == Some(hash)
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// Replaces pods of older templates within the bounds of the update strategy.
fn roll(plan: &mut Plan, state: &State<'_>, update: &Update, locals: &[Local<'_>]) {
    let available =
        |pod: &Arc<Pod>| !pods::is_terminating(pod) && pods::is_available(pod, min_ready(state.set), state.now);
    let (mut unavailable, mut surging) = (0, 0);
    let (mut at_once, mut candidates) = (Vec::new(), Vec::new());
    for local in locals.iter().filter(|local| local.wanted) {
        let (new, old): (Vec<_>, Vec<_>) = local.pods.iter().partition(|pod| is_new(pod, state.hash));
        let old: Vec<_> = old.into_iter().filter(|pod| !pods::is_terminating(pod)).cloned().collect();
        let new_available = new.iter().any(|pod| available(pod));
        let old_available = old.iter().any(available);
        if !new_available && !old_available {
            unavailable += 1;
        }
        match (new.is_empty(), old.first()) {
            (_, None) => {}
            (false, Some(old)) => {
                surging += 1;
                if new_available {
                    plan.delete.push(old.clone());
                }
            }
            (true, Some(old)) if old_available => candidates.push((local.node, old.clone())),
            (true, Some(old)) => at_once.push((local.node, old.clone())),
        }
    }
    let room = |bound: i32, used: i32| usize::try_from(bound - used).unwrap_or(0);
    if update.surge > 0 {
        let nodes = at_once.into_iter().chain(candidates.into_iter().take(room(update.surge, surging)));
        plan.create.extend(nodes.map(|(node, _)| node.to_owned()));
    } else {
        let replaced = at_once.into_iter().chain(candidates.into_iter().take(room(update.unavailable, unavailable)));
        plan.delete.extend(replaced.map(|(_, pod)| pod));
    }
    plan.delete.sort_by(|a, b| a.metadata.uid.cmp(&b.metadata.uid));
    plan.delete.dedup_by(|a, b| a.metadata.uid == b.metadata.uid);
}

fn status(state: &State<'_>, locals: &[Local<'_>], desired: i32, again: &mut Option<Duration>) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        desired_number_scheduled: desired,
        observed_generation: state.set.metadata.generation,
        ..state.set.status.clone().unwrap_or_default()
    };
    (status.current_number_scheduled, status.number_misscheduled, status.number_ready) = (0, 0, 0);
    let (mut available, mut updated) = (0, 0);
    for local in locals {
        let oldest = local.pods.iter().min_by_key(|p| (!pods::is_ready(p), p.metadata.creation_timestamp.clone()));
        match oldest {
            Some(pod) if local.wanted => {
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(pods::is_ready(pod));
                available += i32::from(pods::is_available(pod, min_ready(state.set), state.now));
                updated += i32::from(local.pods.iter().any(|pod| is_new(pod, state.hash)));
                if let Some(left) = pods::available_in(pod, min_ready(state.set), state.now) {
                    *again = Some(again.map_or(left, |again| again.min(left)));
                }
            }
            Some(_) => status.number_misscheduled += 1,
            None => {}
        }
    }
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    status.number_available = some(available);
    status.number_unavailable = some(desired - available);
    status.updated_number_scheduled = some(updated);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::fixture::{at, labelled, ready};

    fn set() -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"selector": {},
            "template": {"spec": {"containers": [], "nodeSelector": {"os": "linux"}}}}}))
        .unwrap()
    }

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let taints: Vec<_> = taint.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let node = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pod(name: &str, node: &str, hash: &str) -> Arc<Pod> {
        Arc::new(labelled(ready(name, node, 0), &[(revisions::HASH, hash)]))
    }

    fn run(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
        plan(&State { set, nodes, pods, hash: "new", now: at(100) })
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|p| pods::name(p)).collect()
    }

    #[test]
    fn every_fitting_node_gets_one_pod() {
        let mut other = (*node("c", None)).clone();
        other.metadata.labels = None;
        let nodes = [
            node("a", None),
            node("b", Some(("node.kubernetes.io/not-ready", "NoSchedule"))),
            Arc::new(other),
            node("d", Some(("node.kubernetes.io/memory-pressure", "NoSchedule"))),
        ];
        let plan = run(&set(), &nodes, &[pod("p", "a", "new"), pod("q", "c", "new")]);
        assert_eq!(plan.create, ["d"]);
        assert_eq!(names(&plan.delete), ["q"]);
        assert_eq!((plan.status.desired_number_scheduled, plan.status.number_misscheduled), (2, 1));
    }

    #[test]
    fn a_rolling_update_takes_one_node_at_a_time() {
        let nodes = [node("a", None), node("b", None)];
        let plan = run(&set(), &nodes, &[pod("p", "a", "old"), pod("q", "b", "old")]);
        assert_eq!(plan.delete.len(), 1);
        let plan = run(&set(), &nodes, &[pod("q", "b", "old")]);
        assert_eq!((plan.create, plan.delete.len()), (vec!["a".to_owned()], 0));
    }

    #[test]
    fn with_surge_the_new_pod_comes_before_the_old_one_goes() {
        let mut set = set();
        set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        )
        .unwrap();
        let nodes = [node("a", None)];
        let plan = run(&set, &nodes, &[pod("p", "a", "old")]);
        assert_eq!((plan.create.len(), plan.delete.len()), (1, 0));
        let plan = run(&set, &nodes, &[pod("p", "a", "old"), pod("q", "a", "new")]);
        assert_eq!((plan.create.len(), names(&plan.delete)), (0, vec!["p"]));
    }

    #[test]
    fn on_delete_leaves_old_pods_alone_and_failed_pods_are_replaced() {
        let mut set = set();
        set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
        let mut failed = (*pod("p", "a", "old")).clone();
        let plan = run(&set, &[node("a", None)], &[Arc::new(failed.clone())]);
        assert!(plan.delete.is_empty());
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        let plan = run(&set, &[node("a", None)], &[Arc::new(failed)]);
        assert_eq!((names(&plan.delete), plan.failed.len()), (vec!["p"], 1));
    }
}
