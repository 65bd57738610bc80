//! What may change in a pod that exists.

use k8s_openapi::api::core::v1::{Container, Pod, PodSchedulingGate, PodSpec, ResourceRequirements, Toleration};

use crate::field::{Errors, Path};
use crate::resources::{QosClass, is_sidecar};
use crate::validation::shown;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `ValidatePodUpdate`, metadata apart.
pub fn update(errors: &mut Errors, new: &Pod, old: &Pod) {
    super::of_pod(errors, new);
    let default = PodSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
    let path = &Path::root("spec");
    if !images(errors, &path.child("containers"), &new.containers, &old.containers)
        || !images(errors, &path.child("initContainers"), super::init_containers(new), super::init_containers(old))
        || !deadline(errors, &path.child("activeDeadlineSeconds"), new, old)
    {
        return;
    }
    let tolerations = (new.tolerations.as_deref().unwrap_or_default(), old.tolerations.as_deref().unwrap_or_default());
    only_added_tolerations(errors, &path.child("tolerations"), tolerations.0, tolerations.1);
    let gates =
        (new.scheduling_gates.as_deref().unwrap_or_default(), old.scheduling_gates.as_deref().unwrap_or_default());
    only_removed_gates(errors, &path.child("schedulingGates"), gates.0, gates.1);
    if new == old {
        return;
    }
    let mut munged = new.clone();
    take_images(&mut munged, old);
    munged.active_deadline_seconds = old.active_deadline_seconds;
    munged.scheduling_gates.clone_from(&old.scheduling_gates);
    munged.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|grace| grace < 0)
        && munged.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !gates.1.is_empty() {
        gated(errors, path, &mut munged, old);
    }
    if munged != *old {
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(&munged, old));
        errors.forbidden(path, &detail);
    }
}

/// The top-level fields that differ, with their values before (-) and after (+).
fn difference(new: &PodSpec, old: &PodSpec) -> String {
    let object =
        |spec: &PodSpec| serde_json::to_value(spec).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
    let (new, old) = (object(new), object(old));
    let mut out = String::new();
    for key in new.keys().chain(old.keys().filter(|key| !new.contains_key(*key))) {
        let (after, before) = (new.get(key), old.get(key));
        if after != before {
            for (sign, value) in [('-', before), ('+', after)].into_iter().filter_map(|(s, v)| Some((s, v?))) {
                out.push_str(&format!("{sign} {key}: {value}\n"));
            }
        }
    }
    out
}

fn images(errors: &mut Errors, path: &Path<'_>, new: &[Container], old: &[Container]) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (n, container) in new.iter().enumerate() {
        let image = container.image.as_deref().unwrap_or_default();
        if image.is_empty() {
            errors.required(&path.index(n).child("image"), "");
        }
        super::containers::image_has_no_padding(errors, &path.index(n), image);
    }
    true
}

fn take_images(spec: &mut PodSpec, old: &PodSpec) {
    for (container, old) in spec.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&old.image);
    }
    for (container, old) in spec.init_containers.iter_mut().flatten().zip(super::init_containers(old)) {
        container.image.clone_from(&old.image);
    }
}

/// May be set, and made sooner.
fn deadline(errors: &mut Errors, path: &Path<'_>, new: &PodSpec, old: &PodSpec) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, new, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, shown(&None::<i64>), "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(errors: &mut Errors, path: &Path<'_>, new: &[Toleration], old: &[Toleration]) {
    let kept = |old: &Toleration| {
        new.iter().any(|new| {
            let seconds = new.toleration_seconds;
            Toleration { toleration_seconds: seconds, ..old.clone() } == *new
        })
    };
    if !old.iter().all(kept) {
        return errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
    super::tolerations(errors, path, new);
}

fn only_removed_gates(errors: &mut Errors, path: &Path<'_>, new: &[PodSchedulingGate], old: &[PodSchedulingGate]) {
    for (n, gate) in new.iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(n).child("name"), &detail);
    }
}

/// A gated pod's node selector and node affinity may be narrowed.
fn gated(errors: &mut Errors, path: &Path<'_>, munged: &mut PodSpec, old: &PodSpec) {
    let wanted = munged.node_selector.clone().unwrap_or_default();
    for (key, value) in old.node_selector.iter().flatten() {
        if wanted.get(key) != Some(value) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&path.child("nodeSelector"), shown(&wanted), detail);
            break;
        }
    }
    munged.node_selector.clone_from(&old.node_selector);
    let node = |spec: &PodSpec| spec.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let (new_node, old_node) = (node(munged), node(old));
    if new_node != old_node {
        narrowed(errors, &path.child("affinity.nodeAffinity"), new_node.as_ref(), old_node.as_ref());
        match (&mut munged.affinity, &old.affinity) {
            (Some(affinity), Some(_)) => affinity.node_affinity = old_node,
            (Some(affinity), None) if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() => {
                munged.affinity = None;
            }
            (Some(affinity), None) => affinity.node_affinity = None,
            (None, old) => munged.affinity.clone_from(old),
        }
    }
}

type NodeAffinity = k8s_openapi::api::core::v1::NodeAffinity;

fn narrowed(errors: &mut Errors, path: &Path<'_>, new: Option<&NodeAffinity>, old: Option<&NodeAffinity>) {
    let terms = |affinity: Option<&NodeAffinity>| {
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|selector| selector.node_selector_terms.clone())
    };
    let Some(before) = terms(old) else { return };
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let after = terms(new).unwrap_or_default();
    if before.len() != after.len() {
        return errors.invalid(
            &path,
            shown(&after),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
    }
    for (n, (after, before)) in after.iter().zip(&before).enumerate() {
        let holds = |new: &Option<Vec<_>>, old: &Option<Vec<_>>| {
            old.iter().flatten().all(|requirement| new.iter().flatten().any(|kept| kept == requirement))
        };
        if !holds(&after.match_expressions, &before.match_expressions)
            || !holds(&after.match_fields, &before.match_fields)
        {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&path.index(n), shown(after), detail);
        }
    }
}

/// `ValidatePodEphemeralContainersUpdate`: existing ones stay as they are.
pub fn ephemeral_containers(errors: &mut Errors, new: &Pod, old: &Pod) {
    super::of_pod(errors, new);
    let path = Path::root("spec");
    let path = path.child("ephemeralContainers");
    let list = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
    let new = list(new);
    for old in list(old) {
        match new.iter().find(|container| container.name == old.name) {
            None => {
                errors
                    .forbidden(&path, &format!("existing ephemeral containers \"{}\" may not be removed\n", old.name));
            }
            Some(kept) if *kept != old => {
                errors
                    .forbidden(&path, &format!("existing ephemeral containers \"{}\" may not be changed\n", old.name));
            }
            Some(_) => {}
        }
    }
}

/// `ValidatePodResize`: cpu and memory of containers may change, within the QoS class.
pub fn resize(errors: &mut Errors, new: &Pod, old: &Pod) {
    super::of_pod(errors, new);
    let default = PodSpec::default();
    let path = &Path::root("spec");
    let before = QosClass::of_pod(old);
    let (new, old) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
    if QosClass::of(new) != before {
        errors.invalid(path, QosClass::of(new).as_str(), "Pod QOS Class may not change as a result of resizing");
    }
    if new.containers.len() != old.containers.len()
        || super::init_containers(new).len() != super::init_containers(old).len()
    {
        return errors.forbidden(path, "only cpu and memory resources are mutable");
    }
    let lists = [
        ("containers", &*new.containers, &*old.containers),
        ("initContainers", super::init_containers(new), super::init_containers(old)),
    ];
    for (field, new, old) in lists {
        let path_of_list = path.child(field);
        for (n, (new, old)) in new.iter().zip(old).enumerate() {
            let init = field == "initContainers";
            if init && !is_sidecar(old) {
                if new != old {
                    errors.forbidden(path, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            let item = path_of_list.index(n);
            let resources = [&new.resources, &old.resources].map(|r| r.clone().unwrap_or_default());
            not_removed(errors, &item.child("resources"), &resources[0], &resources[1]);
            let mut munged = new.clone();
            munged.resources = Some(other_resources(&resources[0], &resources[1]));
            munged.resize_policy.clone_from(&old.resize_policy);
            if (Container { resources: Some(resources[1].clone()), ..old.clone() }) != munged {
                errors.forbidden(path, "only cpu and memory resources are mutable");
            }
        }
    }
    let rest =
        PodSpec { containers: old.containers.clone(), init_containers: old.init_containers.clone(), ..new.clone() };
    if rest != *old {
        errors.forbidden(path, "only cpu and memory resources are mutable");
    }
}

fn not_removed(errors: &mut Errors, path: &Path<'_>, new: &ResourceRequirements, old: &ResourceRequirements) {
    let pairs = [("requests", &new.requests, &old.requests), ("limits", &new.limits, &old.limits)];
    for (field, new, old) in pairs {
        let gone = old.iter().flatten().any(|(name, _)| new.as_ref().is_none_or(|new| !new.contains_key(name)));
        if gone {
            errors.forbidden(&path.child(field), &format!("resource {field} cannot be removed"));
        }
    }
}

/// `new` with the cpu and memory of `old`: what must not have changed.
fn other_resources(new: &ResourceRequirements, old: &ResourceRequirements) -> ResourceRequirements {
    let mut munged = new.clone();
    for (list, old) in [(&mut munged.requests, &old.requests), (&mut munged.limits, &old.limits)] {
        let mut map = list.take().unwrap_or_default();
        for name in ["cpu", "memory"] {
            map.remove(name);
            if let Some(value) = old.as_ref().and_then(|old| old.get(name)) {
                map.insert(name.to_owned(), value.clone());
            }
        }
        *list = (!map.is_empty()).then_some(map);
    }
    munged
}
