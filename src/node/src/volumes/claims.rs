//! Persistent volume claims that are bound to a path of this machine.

use std::path::PathBuf;

use client::Api;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::context::Context;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NotFound(String),
    #[error("persistentvolumeclaim \"{0}\" is not bound yet")]
    Unbound(String),
    #[error("persistentvolumeclaim \"{0}\" is being deleted")]
    Deleting(String),
    #[error("persistentvolume \"{0}\" not found")]
    NoVolume(String),
    #[error("persistentvolume \"{volume}\" is not bound to claim \"{claim}\"")]
    Foreign { volume: String, claim: String },
    #[error("persistentvolume \"{0}\" is of a kind this node does not support (hostPath and local are)")]
    Unsupported(String),
    #[error("persistentvolume \"{0}\" is a block device, which this node does not support")]
    Block(String),
    #[error("cannot ask the API server")]
    Api(#[source] Box<kube::Error>),
}

/// Where the claim's data is.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// As a hostPath volume's `type`.
    pub(crate) kind: String,
    /// `fsGroup` applies.
    pub(crate) owned_by_group: bool,
}

/// Follows the claim to its volume.
pub(crate) async fn resolve(context: &Context, pod: &Pod, claim: &str) -> Result<Found, ClaimError> {
    let api_error = |error| ClaimError::Api(Box::new(error));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let found = claims.get_opt(claim).await.map_err(api_error)?;
    let found = found.ok_or_else(|| ClaimError::NotFound(claim.to_owned()))?;
    let name = volume_of(&found).ok_or_else(|| ClaimError::Unbound(claim.to_owned()))?;
    if found.metadata.deletion_timestamp.is_some() && found.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
        return Err(ClaimError::Deleting(claim.to_owned()));
    }
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    let volume =
        volumes.get_opt(name).await.map_err(api_error)?.ok_or_else(|| ClaimError::NoVolume(name.to_owned()))?;
    place(&volume, &found)
}

fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| bound && !name.is_empty())
}

fn place(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<Found, ClaimError> {
    let name = || volume.metadata.name.clone().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let owner = spec.and_then(|s| s.claim_ref.as_ref());
    if owner.and_then(|r| r.uid.as_deref()) != claim.metadata.uid.as_deref() {
        return Err(ClaimError::Foreign { volume: name(), claim: claim.metadata.name.clone().unwrap_or_default() });
    }
    if spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block") {
        return Err(ClaimError::Block(name()));
    }
    if let Some(source) = spec.and_then(|s| s.host_path.as_ref()) {
        let kind = source.type_.clone().unwrap_or_default();
        return Ok(Found { path: PathBuf::from(&source.path), kind, owned_by_group: false });
    }
    if let Some(source) = spec.and_then(|s| s.local.as_ref()) {
        return Ok(Found { path: PathBuf::from(&source.path), kind: "Directory".to_owned(), owned_by_group: true });
    }
    Err(ClaimError::Unsupported(name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_volumes_bound_to_this_claim_are_used() {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "c", "uid": "1"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}),
        )
        .unwrap();
        assert_eq!(volume_of(&claim), Some("v"));
        let volume = |uid: &str, source: serde_json::Value| -> PersistentVolume {
            let mut spec = source;
            spec["claimRef"] = json!({"name": "c", "uid": uid});
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
        };
        let found = place(&volume("1", json!({"local": {"path": "/data"}})), &claim).unwrap();
        assert_eq!(found.path, PathBuf::from("/data"));
        assert!(matches!(
            place(&volume("2", json!({"local": {"path": "/d"}})), &claim),
            Err(ClaimError::Foreign { .. })
        ));
        let nfs = json!({"nfs": {"server": "s", "path": "/"}});
        assert!(matches!(place(&volume("1", nfs), &claim), Err(ClaimError::Unsupported(_))));
    }
}
