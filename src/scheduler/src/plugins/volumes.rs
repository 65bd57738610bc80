//! Persistent volumes: claims must exist, be bound or wait for the first consumer, and bound volumes must be
//! reachable from the node.

use super::Rejection;
use crate::affinity::selector_matches;
use crate::state::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

#[derive(Debug, Clone)]
pub(super) struct Prepared<'a> {
    bound: Vec<&'a PersistentVolume>,
}

impl<'a> Prepared<'a> {
    /// `Err` says why the pod cannot be placed anywhere yet.
    pub(super) fn new(pod: &PodInfo, cluster: &'a Cluster) -> Result<Self, String> {
        let mut bound = Vec::new();
        for name in claim_names(pod) {
            let missing = || format!("persistentvolumeclaim {name:?} not found");
            let claim = cluster.claims.get(&(pod.namespace().to_owned(), name.clone())).ok_or_else(missing)?;
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            match volume_name(claim) {
                Some(volume) => bound.extend(cluster.volumes.get(volume).map(AsRef::as_ref)),
                None if waits_for_consumer(claim, cluster) => {}
                None => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
            }
        }
        Ok(Self { bound })
    }

    pub(super) fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let reachable = |volume: &&PersistentVolume| {
            let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
            affinity.is_none_or(|selector| selector_matches(selector, node))
        };
        match self.bound.iter().all(reachable) {
            true => Ok(()),
            false => Err(Rejection::fixed("node(s) didn't match PersistentVolume's node affinity")),
        }
    }
}

/// Names of the claims a pod uses, those of ephemeral volumes included.
fn claim_names(pod: &PodInfo) -> Vec<String> {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral)
    {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        (None, None) => None,
    };
    volumes.iter().filter_map(name).collect()
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn waits_for_consumer(claim: &PersistentVolumeClaim, cluster: &Cluster) -> bool {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let mode = class.and_then(|class| cluster.classes.get(class)?.volume_binding_mode.as_deref());
    mode == Some("WaitForFirstConsumer")
}

/// Claims of a pod that wait for it to be placed.
pub(crate) fn waiting_claims(pod: &PodInfo, cluster: &Cluster) -> Vec<String> {
    let waits = |name: &String| {
        let claim = cluster.claims.get(&(pod.namespace().to_owned(), name.clone()));
        claim.is_some_and(|claim| volume_name(claim).is_none() && waits_for_consumer(claim, cluster))
    };
    claim_names(pod).into_iter().filter(waits).collect()
}
