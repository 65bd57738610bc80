//! NodeRestriction: a node changes only its own Node, its own pods' status and mirror pods on itself, and asks for
//! tokens only of its pods' service accounts.

use objects::status::Status;
use serde_json::Value;

use super::{Operation, Review};
use crate::encoded::meta_str;

/// Checks a node's write.
pub(super) fn validate(review: &Review<'_>, object: Option<&Value>) -> Result<(), Status> {
    let Some(node) = review.user.node_name() else { return Ok(()) };
    if review.is("", "pods") {
        return pods(review, node, object);
    }
    if review.is("", "nodes") {
        return nodes(review, node, object);
    }
    if review.is("coordination.k8s.io", "leases") && object.is_some_and(|lease| meta_str(lease, "name") != node) {
        return Err(
            review.forbid(review.place.name, "can only access node lease with the same name as the requesting node")
        );
    }
    if review.is("storage.k8s.io", "csinodes") && object.is_some_and(|own| meta_str(own, "name") != node) {
        return Err(
            review.forbid(review.place.name, "can only access CSINode with the same name as the requesting node")
        );
    }
    Ok(())
}

fn bound_to(pod: Option<&Value>) -> &str {
    pod.and_then(|pod| pod.pointer("/spec/nodeName")).and_then(Value::as_str).unwrap_or_default()
}

fn pods(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let name = review.place.name;
    match (review.operation, review.place.subresource) {
        (Operation::Create, "") => {
            let mirror =
                object.is_some_and(|pod| pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some());
            let why = if !mirror {
                format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
                )
            } else if bound_to(object) != node {
                format!("node \"{node}\" can only create pods with spec.nodeName set to itself")
            } else {
                return Ok(());
            };
            Err(review.forbid(name, &why))
        }
        (Operation::Delete, _) if bound_to(review.old) != node => {
            let why = format!("node \"{node}\" can only delete pods with spec.nodeName set to itself");
            Err(review.forbid(name, &why))
        }
        (Operation::Update, "status") if bound_to(review.old) != node => {
            let why = format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself");
            Err(review.forbid(name, &why))
        }
        _ => Ok(()),
    }
}

fn nodes(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let name = object.map_or(review.place.name, |object| meta_str(object, "name"));
    if name != node {
        let why = format!("node \"{node}\" is not allowed to modify node \"{name}\"");
        return Err(review.forbid(name, &why));
    }
    if review.operation == Operation::Update && review.place.subresource.is_empty() {
        let taints = |value: Option<&Value>| value.and_then(|v| v.pointer("/spec/taints")).cloned();
        if taints(object) != taints(review.old) {
            return Err(review.forbid(name, &format!("node \"{node}\" is not allowed to modify taints")));
        }
        let restricted = changed_restricted_labels(object, review.old);
        if !restricted.is_empty() {
            let why = format!("is not allowed to modify labels: {}", restricted.join(", "));
            return Err(review.forbid(name, &why));
        }
    }
    Ok(())
}

/// Labels in Kubernetes' own domains that a node may not give itself.
fn changed_restricted_labels(new: Option<&Value>, old: Option<&Value>) -> Vec<String> {
    let labels = |value: Option<&Value>| {
        value.and_then(|v| v.pointer("/metadata/labels")).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (new, old) = (labels(new), labels(old));
    let mut changed: Vec<String> =
        new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).cloned().collect();
    changed.sort();
    changed.dedup();
    changed.retain(|key| is_restricted(key));
    changed
}

fn is_restricted(key: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
    ];
    let Some((domain, _)) = key.split_once('/') else { return false };
    let in_domain = |wanted: &str| domain == wanted || domain.ends_with(&format!(".{wanted}"));
    if in_domain("node-restriction.kubernetes.io") {
        return true;
    }
    (in_domain("kubernetes.io") || in_domain("k8s.io"))
        && !OWN.contains(&key)
        && !in_domain("kubelet.kubernetes.io")
        && !in_domain("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_may_describe_but_not_place_themselves() {
        assert!(!is_restricted("kubernetes.io/hostname"));
        assert!(!is_restricted("node.kubernetes.io/whatever"));
        assert!(!is_restricted("example.com/x"));
        assert!(is_restricted("node-restriction.kubernetes.io/tier"));
        assert!(is_restricted("node-role.kubernetes.io/control-plane"));
    }
}
