//! Pods: binding, QoS, generations, gates, graceful deletion.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, Time};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::decode::decode;
use crate::field::{Errors, Path};
use crate::resources::QosClass;
use crate::status::{Qualified, Status};
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::strategy::{Context, Grace, Part, SelectableField};
use crate::validation::{pod, text};
use crate::{defaults, validation};

const PODS: Qualified<'static> = Qualified { group: "", name: "pods" };

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "spec.nodeName", path: &["spec", "nodeName"], absent: "" },
    SelectableField { label: "spec.restartPolicy", path: &["spec", "restartPolicy"], absent: "" },
    SelectableField { label: "spec.schedulerName", path: &["spec", "schedulerName"], absent: "" },
    SelectableField { label: "spec.serviceAccountName", path: &["spec", "serviceAccountName"], absent: "" },
    SelectableField { label: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false" },
    SelectableField { label: "status.phase", path: &["status", "phase"], absent: "" },
    SelectableField { label: "status.podIP", path: &["status", "podIP"], absent: "" },
    SelectableField { label: "status.podIPs", path: &["status", "podIPs"], absent: "" },
    SelectableField { label: "status.nominatedNodeName", path: &["status", "nominatedNodeName"], absent: "" },
];

pub struct PodRules;

impl Rules for PodRules {
    type Object = Pod;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::pods::COLUMNS;

    fn default(pod: &mut Pod) {
        defaults::pod::pod(pod);
    }

    fn prepare_create(pod: &mut Pod, context: &Context<'_>) {
        let Some(spec) = &mut pod.spec else { return };
        merge_label_keys(spec, pod.metadata.labels.as_ref());
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(QosClass::of(spec).as_str().to_owned()),
            conditions: gated.then(|| vec![gated_condition(context.now)]),
            ..PodStatus::default()
        });
    }

    fn validate_create(pod: &Pod, errors: &mut Errors) {
        pod::create(errors, pod);
    }

    fn validate_update(new: &Pod, old: &Pod, errors: &mut Errors) {
        pod::update::update(errors, new, old);
    }

    fn prepare_part(part: Part, new: &mut Pod, old: &Pod) {
        match part {
            Part::Status => {
                new.metadata.owner_references.clone_from(&old.metadata.owner_references);
                let status = new.status.get_or_insert_default();
                if text(status.qos_class.as_ref()).is_empty() {
                    let before = old.status.as_ref();
                    status.qos_class = before.and_then(|status| status.qos_class.clone());
                }
            }
            Part::EphemeralContainers => {
                let added = new.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
                restore(new, old);
                if let Some(spec) = &mut new.spec {
                    spec.ephemeral_containers = added;
                }
            }
            Part::Resize => {
                let wanted = new.spec.take();
                restore(new, old);
                if let (Some(spec), Some(wanted)) = (&mut new.spec, wanted) {
                    take_resources(spec, wanted);
                }
            }
            _ => {}
        }
    }

    fn validate_part(part: Part, new: &Pod, old: &Pod, errors: &mut Errors) {
        match part {
            Part::Status => pod::status::update(errors, new, old),
            Part::EphemeralContainers => pod::update::ephemeral_containers(errors, new, old),
            Part::Resize => pod::update::resize(errors, new, old),
            _ => {}
        }
    }

    fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
        columns::pods::cells(pod, now)
    }

    /// Nothing runs for a pod without a node, nor for one that has ended: it goes at once.
    fn grace(pod: &Pod, requested: Option<i64>) -> Grace {
        let spec = pod.spec.as_ref();
        let wanted = requested.or(spec.and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(0);
        let unscheduled = spec.is_none_or(|spec| text(spec.node_name.as_ref()).is_empty());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if unscheduled || matches!(phase, Some("Failed" | "Succeeded")) {
            return Grace::Seconds(0);
        }
        Grace::Seconds(if wanted < 0 { 1 } else { wanted })
    }
}

/// Takes everything but metadata from the old pod.
fn restore(new: &mut Pod, old: &Pod) {
    new.spec.clone_from(&old.spec);
    new.status.clone_from(&old.status);
}

/// Container resources and resize policies; a changed list length is left for validation to refuse.
fn take_resources(spec: &mut PodSpec, wanted: PodSpec) {
    let init = wanted.init_containers.unwrap_or_default();
    let own = spec.init_containers.as_deref_mut().unwrap_or_default();
    for (container, wanted) in spec.containers.iter_mut().zip(wanted.containers).chain(own.iter_mut().zip(init)) {
        if container.name == wanted.name {
            container.resources = wanted.resources;
            container.resize_policy = wanted.resize_policy;
        }
    }
}

fn gated_condition(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: Some(1),
        ..PodCondition::default()
    }
}

type Labels = std::collections::BTreeMap<String, String>;

/// Turns `matchLabelKeys` and `mismatchLabelKeys` into requirements with the pod's own values.
fn merge_label_keys(spec: &mut PodSpec, labels: Option<&Labels>) {
    let Some(labels) = labels else { return };
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.clone().unwrap_or_default();
        merge(constraint.label_selector.as_mut(), &keys, "In", labels);
    }
    let Some(affinity) = &mut spec.affinity else { return };
    let mut terms: Vec<&mut PodAffinityTerm> = Vec::new();
    if let Some(pods) = &mut affinity.pod_affinity {
        terms.extend(pods.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
    }
    if let Some(pods) = &mut affinity.pod_anti_affinity {
        terms.extend(pods.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
    }
    for term in terms {
        let (matching, mismatching) = (term.match_label_keys.clone(), term.mismatch_label_keys.clone());
        merge(term.label_selector.as_mut(), &matching.unwrap_or_default(), "In", labels);
        merge(term.label_selector.as_mut(), &mismatching.unwrap_or_default(), "NotIn", labels);
    }
}

fn merge(selector: Option<&mut LabelSelector>, keys: &[String], operator: &str, labels: &Labels) {
    let Some(selector) = selector else { return };
    for (key, value) in keys.iter().filter_map(|key| Some((key, labels.get(key)?))) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}

/// Assigns a pod to the node that a Binding names. The result is what to store.
///
/// # Errors
/// `Conflict` when the pod has a node already or is being deleted, `Invalid` for an unusable binding.
pub fn bind(pod: &Value, binding: &Value, now: Timestamp) -> Result<Value, Status> {
    let binding: Binding = decode(binding.clone()).map_err(|e| Status::bad_request(e.to_string()))?;
    let mut pod: Pod = decode(pod.clone()).map_err(Status::internal)?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    check_binding(&binding, &name)?;
    let conflict = |why: String| Status::conflict(Qualified::new("", "pods/binding"), &name, &why);
    if let Some(uid) = binding.metadata.uid.as_deref().filter(|uid| !uid.is_empty())
        && pod.metadata.uid.as_deref() != Some(uid)
    {
        let actual = pod.metadata.uid.as_deref().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
        return Err(Status::conflict(PODS, &name, &why));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let spec = pod.spec.get_or_insert_default();
    let current = text(spec.node_name.as_ref());
    if !current.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node \"{current}\"")));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    spec.node_name = binding.target.name;
    if let Some(annotations) = binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations);
    }
    // Being placed is no change of the desired state: the generation stays.
    mark_scheduled(pod.status.get_or_insert_default(), now, pod.metadata.generation);
    serde_json::to_value(&pod).map_err(Status::internal)
}

fn check_binding(binding: &Binding, name: &str) -> Result<(), Status> {
    let mut errors = Errors::default();
    let path = Path::root("target");
    let kind = text(binding.target.kind.as_ref());
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    match text(binding.target.name.as_ref()) {
        "" => errors.required(&path.child("name"), ""),
        node => validation::check(&mut errors, &path.child("name"), node, crate::names::dns1123_subdomain(node)),
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(Qualified::new("", "Binding"), name, errors.as_slice())),
    }
}

fn mark_scheduled(status: &mut PodStatus, now: Timestamp, generation: Option<i64>) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        observed_generation: generation,
        ..PodCondition::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn binding_sets_the_node_once() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "generation": 1}, "spec": {"containers": []}});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
        let bound = bind(&pod, &binding, now()).unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        assert_eq!(
            bind(&bound, &binding, now()).unwrap_err().message(),
            "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\""
        );
        let empty = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {}});
        assert_eq!(
            bind(&pod, &empty, now()).unwrap_err().message(),
            "Binding \"a\" is invalid: target.name: Required value"
        );
    }
}
