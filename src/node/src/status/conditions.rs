//! The pod's conditions. Pure; conditions the node does not own pass through.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::plan::view::{PodView, Sandbox};
use crate::spec::Role;

/// What the node itself answers for, in the order upstream lists them.
const OWNED: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const YES: Verdict = Verdict { holds: true, reason: None, message: None };

    fn no(reason: &'static str, message: Option<String>) -> Verdict {
        Verdict { holds: false, reason: Some(reason), message }
    }
}

/// All conditions: the node's own, then others' as `old` has them.
pub fn all(pod: &Pod, status: &PodStatus, view: &PodView, old: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let containers_ready = containers_ready(pod, status, phase);
    let ready = ready(pod, old, &containers_ready);
    let sandbox =
        Verdict { holds: view.sandbox == Sandbox::Ready && status.pod_ip.is_some(), reason: None, message: None };
    let verdicts = [sandbox, initialized(pod, status, phase), ready, containers_ready, Verdict::YES];
    let mut out: Vec<_> =
        OWNED.iter().zip(verdicts).map(|(kind, verdict)| condition(pod, kind, verdict, old, now)).collect();
    out.extend(eviction(pod, status, old, now));
    let others = old.conditions.iter().flatten().filter(|c| out.iter().all(|own| own.type_ != c.type_));
    out.extend(others.cloned().collect::<Vec<_>>());
    out
}

const DISRUPTION: &str = "DisruptionTarget";
const BY_NODE: &str = "TerminationByKubelet";

/// Tells controllers that the pod did not fail by itself.
fn eviction(pod: &Pod, status: &PodStatus, old: &PodStatus, now: Timestamp) -> Option<PodCondition> {
    let evicted = status.reason.as_deref() == Some("Evicted");
    let verdict = Verdict { holds: true, reason: Some(BY_NODE), message: status.message.clone() };
    evicted.then(|| condition(pod, DISRUPTION, verdict, old, now))
}

/// Whether the node answers for a condition of this type and reason.
pub fn is_own(kind: &str, reason: Option<&str>) -> bool {
    OWNED.contains(&kind) || (kind == DISRUPTION && reason == Some(BY_NODE))
}

/// The condition called `kind`, if it is there.
pub fn find<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Takes the conditions the node does not own from `others`.
pub fn pass_through<'a>(status: &mut PodStatus, others: impl Iterator<Item = &'a PodCondition>) {
    let list = status.conditions.get_or_insert_default();
    list.retain(|c| is_own(&c.type_, c.reason.as_deref()));
    for other in others {
        if !OWNED.contains(&other.type_.as_str()) && list.iter().all(|own| own.type_ != other.type_) {
            list.push(other.clone());
        }
    }
}

fn condition(pod: &Pod, kind: &str, verdict: Verdict, old: &PodStatus, now: Timestamp) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let unchanged = find(old, kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: unchanged.or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn initialized(pod: &Pod, status: &PodStatus, phase: &str) -> Verdict {
    let began = status.container_statuses.iter().flatten().any(|s| {
        let ran = |s: &k8s_openapi::api::core::v1::ContainerState| s.running.is_some() || s.terminated.is_some();
        s.state.as_ref().is_some_and(ran) || s.last_state.as_ref().is_some_and(ran)
    });
    let done = |s: &ContainerStatus, role: Role| match role {
        Role::Sidecar => s.started == Some(true),
        _ => s.ready,
    };
    let open = names(pod, &[Role::Init, Role::Sidecar], status.init_container_statuses.as_deref(), done);
    if phase == "Succeeded" {
        return Verdict { holds: true, reason: Some("PodCompleted"), message: None };
    }
    if began || open.is_empty() {
        return Verdict::YES;
    }
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    Verdict::no("ContainersNotInitialized", Some(message))
}

fn containers_ready(pod: &Pod, status: &PodStatus, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let ready = |s: &ContainerStatus, _: Role| s.ready;
    let mut open = names(pod, &[Role::Sidecar], status.init_container_statuses.as_deref(), ready);
    open.extend(names(pod, &[Role::Main], status.container_statuses.as_deref(), ready));
    if open.is_empty() {
        return Verdict::YES;
    }
    Verdict::no("ContainersNotReady", Some(format!("containers with unready status: [{}]", open.join(" "))))
}

fn ready(pod: &Pod, old: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return Verdict::no(containers.reason.unwrap_or("ContainersNotReady"), containers.message.clone());
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let mut open = Vec::new();
    for gate in gates {
        match find(old, &gate.condition_type) {
            None => open.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => {
                open.push(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                    gate.condition_type, c.status
                ));
            }
            Some(_) => {}
        }
    }
    if open.is_empty() { Verdict::YES } else { Verdict::no("ReadinessGatesNotReady", Some(open.join(", "))) }
}

/// Names of the pod's containers in `roles` whose status does not satisfy `done`.
fn names(
    pod: &Pod,
    roles: &[Role],
    statuses: Option<&[ContainerStatus]>,
    done: impl Fn(&ContainerStatus, Role) -> bool,
) -> Vec<String> {
    let mut out = Vec::new();
    for (role, container) in crate::spec::containers(pod) {
        let status = statuses.into_iter().flatten().find(|s| s.name == container.name);
        if roles.contains(&role) && !status.is_some_and(|s| done(s, role)) {
            out.push(container.name.clone());
        }
    }
    out
}
