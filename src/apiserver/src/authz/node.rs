//! The node authorizer: a node may read the secrets, config maps, claims, volumes and service accounts that the pods
//! bound to it use, its own pods, Node, Lease and CSINode, and nothing else of these. What a pod uses is read from
//! the pod in the cache when asked; a node has at most a few hundred.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    resource::v1::ResourceSlice,
    storage::v1::VolumeAttachment,
};
use objects::status::Status;

use super::{Attributes, Decision};
use crate::{
    cache::{Entry, Hub},
    pod_refs,
};

const LEASES: &str = "kube-node-lease";

/// See the module's documentation.
pub(crate) struct NodeAuthorizer {
    hub: Arc<Hub>,
}

fn allow() -> Result<Decision, Status> {
    Ok(Decision::Allow(String::new()))
}

fn refuse(reason: impl Into<String>) -> Result<Decision, Status> {
    Ok(Decision::NoOpinion(reason.into()))
}

fn allow_if(allowed: bool, reason: impl Into<String>) -> Result<Decision, Status> {
    if allowed { allow() } else { refuse(reason) }
}

impl NodeAuthorizer {
    pub(crate) fn new(hub: Arc<Hub>) -> NodeAuthorizer {
        NodeAuthorizer { hub }
    }

    /// Decides a request of the node named `node`.
    pub(crate) fn authorize(&self, node: &str, wanted: &Attributes<'_>) -> Result<Decision, Status> {
        if !wanted.is_resource() {
            return refuse("");
        }
        let reading = matches!(wanted.verb, "get" | "list" | "watch");
        match (wanted.group, wanted.resource, wanted.subresource) {
            ("", "secrets" | "configmaps", "") if reading => self.named(node, wanted),
            ("", "persistentvolumeclaims" | "persistentvolumes", "") if wanted.verb == "get" => {
                self.named(node, wanted)
            }
            ("", "serviceaccounts", "") if wanted.verb == "get" => self.named(node, wanted),
            ("", "serviceaccounts", "token") if wanted.verb == "create" => self.named(node, wanted),
            ("", "persistentvolumeclaims", "status") if matches!(wanted.verb, "get" | "update" | "patch") => {
                self.named(node, wanted)
            }
            ("resource.k8s.io", "resourceclaims", "") if wanted.verb == "get" => self.named(node, wanted),
            ("coordination.k8s.io", "leases", "") => allow_if(
                wanted.namespace == LEASES && (wanted.name == node || wanted.verb == "create") && !is_sweeping(wanted),
                "can only access its own lease",
            ),
            ("storage.k8s.io", "csinodes", "") => {
                allow_if(wanted.name == node || wanted.verb == "create", "can only access its own CSINode")
            }
            ("storage.k8s.io", "volumeattachments", "") if wanted.verb == "get" => self.attachment(node, wanted.name),
            ("resource.k8s.io", "resourceslices", "") => self.slice(node, wanted),
            ("", "nodes", "") => {
                allow_if(reading || matches!(wanted.verb, "create" | "update" | "patch"), "cannot delete nodes")
            }
            ("", "nodes", "status") => allow_if(matches!(wanted.verb, "get" | "update" | "patch"), ""),
            ("", "pods", "") => self.pods(node, wanted),
            ("", "pods", "status") => allow_if(matches!(wanted.verb, "get" | "update" | "patch"), ""),
            ("", "pods", "eviction") => allow_if(wanted.verb == "create", ""),
            ("certificates.k8s.io", "certificatesigningrequests", "") => {
                allow_if(matches!(wanted.verb, "create" | "get" | "list" | "watch"), "")
            }
            ("" | "events.k8s.io", "events", "") => allow_if(matches!(wanted.verb, "create" | "update" | "patch"), ""),
            ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
                allow_if(wanted.verb == "create", "")
            }
            ("", "services", "") | ("storage.k8s.io", "csidrivers", "") | ("node.k8s.io", "runtimeclasses", "") => {
                allow_if(reading, "")
            }
            _ => refuse(""),
        }
    }

    fn pods(&self, node: &str, wanted: &Attributes<'_>) -> Result<Decision, Status> {
        match wanted.verb {
            "list" | "watch" if wanted.name.is_empty() => {
                allow_if(wanted.selected_node == node, "can only list/watch pods with spec.nodeName field selector")
            }
            "get" | "list" | "watch" => {
                let pod = self.hub.kind("pods")?.get_in(wanted.namespace, wanted.name);
                // Not there: the answer is "not found" anyway.
                let own = pod.is_none_or(|pod| pod_refs::node_of(&pod, &self.hub) == Some(node.into()));
                allow_if(own, "can only read pods that are bound to it")
            }
            // NodeRestriction looks closer.
            "create" | "delete" => allow(),
            _ => refuse(""),
        }
    }

    fn attachment(&self, node: &str, name: &str) -> Result<Decision, Status> {
        let found = self.hub.kind("storage.k8s.io/volumeattachments")?.get(name);
        let own =
            found.and_then(|entry| entry.typed::<VolumeAttachment>().ok()).is_some_and(|a| a.spec.node_name == node);
        allow_if(own, format!("no relationship found between node '{node}' and this object (volumeattachment)"))
    }

    /// A node's own slices; that it makes none for others is seen to by NodeRestriction.
    fn slice(&self, node: &str, wanted: &Attributes<'_>) -> Result<Decision, Status> {
        if wanted.name.is_empty() {
            let selected = wanted.verb == "create" || wanted.selected_node == node;
            return allow_if(
                selected,
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            );
        }
        let found = self.hub.kind("resource.k8s.io/resourceslices")?.get(wanted.name);
        let own = match found {
            Some(entry) => entry.typed::<ResourceSlice>()?.spec.node_name.as_deref() == Some(node),
            None => true,
        };
        allow_if(own, format!("no relationship found between node '{node}' and this object (resourceslice)"))
    }

    /// Whether a pod of this node uses the named object.
    fn named(&self, node: &str, wanted: &Attributes<'_>) -> Result<Decision, Status> {
        if wanted.name.is_empty() {
            return refuse(format!("No Object name found: node '{node}' can only read single objects"));
        }
        let pods = pod_refs::on_node(&self.hub, node)?;
        let in_namespace = |entry: &&Arc<Entry>| entry.namespace() == wanted.namespace;
        let used = match wanted.resource {
            "persistentvolumes" => self.uses_volume(&pods, wanted.name)?,
            "secrets" if self.mounts_with(&pods, wanted.namespace, wanted.name)? => true,
            resource => pods
                .iter()
                .filter(in_namespace)
                .filter_map(|entry| entry.typed::<Pod>().ok())
                .any(|pod| pod_refs::uses(&pod, resource, wanted.name)),
        };
        let kind = wanted.resource.trim_end_matches('s');
        allow_if(used, format!("no relationship found between node '{node}' and this object ({kind})"))
    }

    /// Whether a volume that one of the pods claims is mounted with the help of a secret.
    fn mounts_with(&self, pods: &[Arc<Entry>], namespace: &str, secret: &str) -> Result<bool, Status> {
        let (claims, volumes) = (self.hub.kind("persistentvolumeclaims")?, self.hub.kind("persistentvolumes")?);
        for entry in pods {
            let Ok(pod) = entry.typed::<Pod>() else { continue };
            let names = pod_refs::names(&pod, "persistentvolumeclaims");
            let bound = names.iter().filter_map(|name| claims.get_in(entry.namespace(), name));
            let bound = bound.filter_map(|claim| claim.typed::<PersistentVolumeClaim>().ok()?.spec?.volume_name);
            let mut bound = bound.filter_map(|name| volumes.get(&name)?.typed::<PersistentVolume>().ok());
            if bound.any(|volume| volume_secrets(&volume).contains(&(namespace.to_owned(), secret.to_owned()))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn uses_volume(&self, pods: &[Arc<Entry>], name: &str) -> Result<bool, Status> {
        let Some(volume) = self.hub.kind("persistentvolumes")?.get(name) else { return Ok(false) };
        let volume: PersistentVolume = volume.typed()?;
        let Some(claim) = volume.spec.and_then(|spec| spec.claim_ref) else { return Ok(false) };
        let (namespace, name) = (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
        let bound = self
            .hub
            .kind("persistentvolumeclaims")?
            .get_in(&namespace, &name)
            .and_then(|entry| entry.typed::<PersistentVolumeClaim>().ok())
            .is_some_and(|found| claim.uid.is_none() || found.metadata.uid == claim.uid);
        Ok(bound
            && pods
                .iter()
                .filter(|entry| entry.namespace() == namespace)
                .filter_map(|entry| entry.typed::<Pod>().ok())
                .any(|pod| pod_refs::uses(&pod, "persistentvolumeclaims", &name)))
    }
}

/// Namespace and name of each secret that a node needs to mount a volume.
fn volume_secrets(volume: &PersistentVolume) -> Vec<(String, String)> {
    let Some(spec) = &volume.spec else { return Vec::new() };
    let home = spec.claim_ref.as_ref().and_then(|claim| claim.namespace.clone()).unwrap_or_default();
    let csi = spec.csi.as_ref().map(|csi| {
        [&csi.node_publish_secret_ref, &csi.node_stage_secret_ref, &csi.node_expand_secret_ref].into_iter().flatten()
    });
    let others = [
        spec.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        spec.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        spec.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        spec.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
    ];
    let references = csi.into_iter().flatten().chain(others.into_iter().flatten());
    let named = references.filter_map(|reference| {
        Some((reference.namespace.clone().unwrap_or_else(|| home.clone()), reference.name.clone()?))
    });
    let azure = spec
        .azure_file
        .iter()
        .map(|source| (source.secret_namespace.clone().unwrap_or_else(|| home.clone()), source.secret_name.clone()));
    named.chain(azure).collect()
}

fn is_sweeping(wanted: &Attributes<'_>) -> bool {
    matches!(wanted.verb, "deletecollection" | "list" | "watch")
}
