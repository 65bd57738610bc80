//! NodeRestriction: a node changes only its own Node, its own pods' status and mirror pods on itself, and asks for
//! tokens only of its pods' service accounts, for its pods.

use k8s_openapi::api::{authentication::v1::TokenRequestSpec, core::v1::Pod, storage::v1::CSIDriver};
use objects::status::Status;
use serde::Deserialize;
use serde_json::Value;

use super::{Operation, Review};
use crate::{authn::User, cache::Hub, encoded::meta_str, handler::Call, pod_refs, rest::Place};

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
    if review.is("resource.k8s.io", "resourceslices")
        && review.operation != Operation::Delete
        && bound_to(object) != node
    {
        let why = "can only create ResourceSlice with spec.NodeName set to the requesting node";
        return Err(review.forbid(review.place.name, why));
    }
    Ok(())
}

fn bound_to(pod: Option<&Value>) -> &str {
    pod.and_then(|pod| pod.pointer("/spec/nodeName")).and_then(Value::as_str).unwrap_or_default()
}

fn pods(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let name = review.place.name;
    match (review.operation, review.place.subresource) {
        (Operation::Create, "") => mirror_pod(review, node, object).map_err(|why| review.forbid(name, &why)),
        (Operation::Delete, _) if bound_to(review.old) != node => {
            let why = format!("node \"{node}\" can only delete pods with spec.nodeName set to itself");
            Err(review.forbid(name, &why))
        }
        (Operation::Update, "status") if bound_to(review.old) != node => {
            let why = format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself");
            Err(review.forbid(name, &why))
        }
        (Operation::Update, "status") => {
            let labels = |pod: Option<&Value>| pod.and_then(|pod| pod.pointer("/metadata/labels")).cloned();
            if labels(object) != labels(review.old) {
                return Err(review.forbid(name, &format!("node \"{node}\" cannot update labels through pod status")));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Why a node may not create this pod. What it makes must be the image of a pod that it runs without the API: it must
/// not reach by it what only other nodes' pods use.
fn mirror_pod(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), String> {
    let pod = object.and_then(|object| Pod::deserialize(object).ok()).unwrap_or_default();
    let annotations = pod.metadata.annotations.iter().flatten();
    if !annotations.into_iter().any(|(name, _)| name == "kubernetes.io/config.mirror") {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if bound_to(object) != node {
        return Err(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let [owner] = owners else {
        let many = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
        return Err(format!("node \"{node}\" can only create pods with {many} set to itself"));
    };
    if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
        return Err(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
    }
    if owner.block_owner_deletion == Some(true) {
        return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let known = review.inner.hub.kind("nodes").ok().and_then(|nodes| nodes.get(node));
    if known.is_none_or(|known| *known.projection.uid != owner.uid) {
        return Err(format!("node \"{node}\" can only create pods with an owner reference set to its own UID"));
    }
    for (resource, what) in [
        ("serviceaccounts", "a service account"),
        ("secrets", "secrets"),
        ("configmaps", "configmaps"),
        ("persistentvolumeclaims", "persistentvolumeclaims"),
        ("resourceclaims", "resourceclaims"),
    ] {
        if !pod_refs::names(&pod, resource).is_empty() {
            return Err(format!("node \"{node}\" can not create pods that reference {what}"));
        }
    }
    Ok(())
}

/// Checks that a node that evicts a pod runs it.
pub(crate) fn eviction(user: &User, place: &Place<'_>, pod: &Pod) -> Result<(), Status> {
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match user.node_name() {
        Some(node) if bound != Some(node) => {
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            Err(Status::forbidden(place.resource.qualified(), place.name, &why))
        }
        _ => Ok(()),
    }
}

/// Checks that a token asked for by a node is for one of its pods, and for nobody that the pod does not name. `pod` is
/// what the token is to be bound to.
pub(crate) fn token(
    call: &Call,
    place: &Place<'_>,
    spec: &TokenRequestSpec,
    pod: Option<&Value>,
) -> Result<(), Status> {
    let Some(node) = call.user.node_name() else { return Ok(()) };
    let forbid = |why: &str| Err(Status::forbidden(place.resource.qualified(), place.name, why));
    let Some(pod) = pod else { return forbid("node requested token not bound to a pod") };
    let bound = spec.bound_object_ref.as_ref().and_then(|bound| bound.uid.as_deref());
    if bound.unwrap_or_default().is_empty() {
        return forbid("node requested token with a pod binding without a uid");
    }
    let pod = Pod::deserialize(pod).map_err(Status::internal)?;
    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(node) {
        return forbid("node requested token bound to a pod scheduled on a different node");
    }
    for audience in spec.audiences.iter().flatten().filter(|audience| !audience.is_empty()) {
        let own = call.inner.config.service_accounts.audiences.contains(audience);
        if !own && !names_audience(&call.inner.hub, &pod, audience)? {
            return forbid(&format!("audience {audience:?} not found in pod spec volume"));
        }
    }
    Ok(())
}

fn names_audience(hub: &Hub, pod: &Pod, audience: &str) -> Result<bool, Status> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let mut tokens = projected.filter_map(|source| source.service_account_token.as_ref());
        if tokens.any(|token| token.audience.as_deref() == Some(audience)) {
            return Ok(true);
        }
        let Some(csi) = &volume.csi else { continue };
        let Some(driver) = hub.kind("storage.k8s.io/csidrivers")?.get(&csi.driver) else { continue };
        let driver: CSIDriver = driver.typed()?;
        if driver.spec.token_requests.iter().flatten().any(|request| request.audience == audience) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn nodes(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let name = object.map_or(review.place.name, |object| meta_str(object, "name"));
    if name != node {
        let why = format!("node \"{node}\" is not allowed to modify node \"{name}\"");
        return Err(review.forbid(name, &why));
    }
    if review.operation == Operation::Create {
        let restricted = changed_restricted_labels(object, None);
        if !restricted.is_empty() {
            let labels = restricted.join(", ");
            let why = format!("node \"{node}\" is not allowed to set the following labels: {labels}");
            return Err(review.forbid(name, &why));
        }
    }
    if review.operation == Operation::Update {
        let owners = |value: Option<&Value>| value.and_then(|v| v.pointer("/metadata/ownerReferences")).cloned();
        if owners(object) != owners(review.old) {
            return Err(review.forbid(name, &format!("node \"{node}\" is not allowed to modify ownerReferences")));
        }
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
