//! Steps on new pods: Priority, DefaultTolerationSeconds, RuntimeClass (overhead and scheduling); and on updated ones,
//! DefaultTolerationSeconds again.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Pod, PodSpec, Toleration},
    node::v1::RuntimeClass,
    scheduling::v1::PriorityClass,
};
use objects::status::{Qualified, Status};
use serde_json::Value;

use super::Review;

const TOLERATION_SECONDS: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Completes a new pod.
pub(super) fn mutate(review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
    let mut pod: Pod = objects::decode::decode(object.clone()).map_err(Status::internal)?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    runtime_class(review, &name, spec)?;
    priority(review, &name, spec)?;
    tolerate(spec);
    object["spec"] = serde_json::to_value(spec).map_err(Status::internal)?;
    Ok(())
}

/// Gives an updated pod back the tolerations that its author never wrote. True when one was missing.
pub(super) fn mutate_update(object: &mut Value) -> Result<bool, Status> {
    let mut pod: Pod = objects::decode::decode(object.clone()).map_err(Status::internal)?;
    let Some(spec) = pod.spec.as_mut() else { return Ok(false) };
    let before = spec.tolerations.as_ref().map(Vec::len);
    tolerate(spec);
    if spec.tolerations.as_ref().map(Vec::len) == before {
        return Ok(false);
    }
    object["spec"]["tolerations"] = serde_json::to_value(&spec.tolerations).map_err(Status::internal)?;
    Ok(true)
}

fn priority(review: &Review<'_>, name: &str, spec: &mut PodSpec) -> Result<(), Status> {
    let classes = review.inner.hub.kind("scheduling.k8s.io/priorityclasses")?;
    let wanted = spec.priority_class_name.clone().filter(|class| !class.is_empty());
    let class: Option<PriorityClass> = match &wanted {
        Some(wanted) => match classes.get(wanted) {
            Some(entry) => Some(entry.typed()?),
            None => {
                let why = format!("no PriorityClass with name {wanted} was found");
                return Err(review.forbid(name, &why));
            }
        },
        None => {
            let all = classes.list("", |_| true).entries;
            let defaults = all.iter().filter_map(|entry| entry.typed::<PriorityClass>().ok());
            defaults.filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
        }
    };
    let value = class.as_ref().and_then(|class| class.value).unwrap_or(0);
    let policy = class.as_ref().and_then(|class| class.preemption_policy.clone());
    if let Some(given) = spec.priority.filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(review.forbid(name, &why));
    }
    spec.priority = Some(value);
    spec.priority_class_name = wanted.or_else(|| class.and_then(|class| class.metadata.name));
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(review.forbid(name, &why));
    }
    spec.preemption_policy = Some(policy);
    Ok(())
}

fn runtime_class(review: &Review<'_>, name: &str, spec: &mut PodSpec) -> Result<(), Status> {
    let Some(class_name) = spec.runtime_class_name.clone() else {
        if spec.overhead.as_ref().is_some_and(|overhead| !overhead.is_empty()) {
            return Err(review
                .forbid(name, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
        }
        return Ok(());
    };
    let Some(entry) = review.inner.hub.kind("node.k8s.io/runtimeclasses")?.get(&class_name) else {
        let missing = Status::not_found(Qualified::new("node.k8s.io", "runtimeclasses"), &class_name);
        return Err(review.forbid(name, &format!("pod rejected: RuntimeClass \"{class_name}\" not found: {missing}")));
    };
    let class: RuntimeClass = entry.typed()?;
    if let Some(fixed) = class.overhead.and_then(|overhead| overhead.pod_fixed) {
        match &spec.overhead {
            Some(own) if *own != fixed => {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(review.forbid(name, why));
            }
            _ => spec.overhead = Some(fixed),
        }
    }
    let Some(scheduling) = class.scheduling else { return Ok(()) };
    let mut selector: BTreeMap<String, String> = spec.node_selector.clone().unwrap_or_default();
    for (key, value) in scheduling.node_selector.unwrap_or_default() {
        if selector.get(&key).is_some_and(|own| *own != value) {
            let why = "pod rejected: conflict: runtimeClass.scheduling.nodeSelector and pod.spec.nodeSelector differ";
            return Err(review.forbid(name, why));
        }
        selector.insert(key, value);
    }
    if !selector.is_empty() {
        spec.node_selector = Some(selector);
    }
    for toleration in scheduling.tolerations.unwrap_or_default() {
        add(spec, toleration);
    }
    Ok(())
}

fn add(spec: &mut PodSpec, toleration: Toleration) {
    let own = spec.tolerations.get_or_insert_default();
    if !own.contains(&toleration) {
        own.push(toleration);
    }
}

/// Whether one of the pod's tolerations covers `key` with `effect`.
fn tolerates(spec: &PodSpec, key: &str, effect: &str) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let any_key = toleration.key.as_deref().unwrap_or_default().is_empty();
        let any_effect = toleration.effect.as_deref().unwrap_or_default().is_empty();
        (any_key || toleration.key.as_deref() == Some(key))
            && (any_effect || toleration.effect.as_deref() == Some(effect))
    })
}

fn tolerate(spec: &mut PodSpec) {
    for key in [NOT_READY, UNREACHABLE] {
        if !tolerates(spec, key, "NoExecute") {
            add(spec, toleration(key, "NoExecute", Some(TOLERATION_SECONDS)));
        }
    }
}

fn toleration(key: &str, effect: &str, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        toleration_seconds: seconds,
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_only_where_missing() {
        let mut spec = PodSpec::default();
        tolerate(&mut spec);
        tolerate(&mut spec);
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(2));
        let mut all = PodSpec {
            tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]),
            ..PodSpec::default()
        };
        tolerate(&mut all);
        assert_eq!(all.tolerations.map(|t| t.len()), Some(1));
    }

    #[test]
    fn an_update_that_leaves_the_added_tolerations_out_gets_them_back() {
        let own = serde_json::json!({"key": "a", "operator": "Exists"});
        let mut pod = serde_json::json!({"spec": {"containers": [], "tolerations": [own]}});
        assert!(mutate_update(&mut pod).unwrap());
        let keys: Vec<_> =
            pod["spec"]["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["a", NOT_READY, UNREACHABLE]);
        assert!(!mutate_update(&mut pod).unwrap());
    }
}
