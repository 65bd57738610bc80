//! How many pods the owner of a pod wants: from the informers for the kinds that have one, from the `scale`
//! subresource for all others.

use client::Informer;
use client::informer::Observed;
use client::retry::{is_not_found, optional};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::core::{DynamicObject, GroupVersionKind, TypeMeta};
use kube::discovery::pinned_kind;

use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;

pub(super) struct Scales {
    client: kube::Client,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) deployments: Informer<Deployment>,
    pub(super) stateful_sets: Informer<StatefulSet>,
    pub(super) controllers: Informer<ReplicationController>,
}

fn get<K: Observed>(informer: &Informer<K>, namespace: &str, owner: &OwnerReference) -> Option<std::sync::Arc<K>> {
    informer.get(namespace, &owner.name).filter(|object| object.meta().uid.as_ref() == Some(&owner.uid))
}

impl Scales {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            replica_sets: context.informers.of(),
            deployments: context.informers.of(),
            stateful_sets: context.informers.of(),
            controllers: context.informers.of(),
        }
    }

    pub(super) fn synced(&self) -> Vec<BoxFuture<'static, ()>> {
        vec![
            synced(&self.replica_sets),
            synced(&self.deployments),
            synced(&self.stateful_sets),
            synced(&self.controllers),
        ]
    }

    /// UID and wanted pods of the object that decides about the number: `owner` itself, or the deployment above it.
    pub(super) async fn of(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<(String, i32)>, ReconcileError> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let replicas = |wanted: Option<i32>| Some((owner.uid.clone(), wanted.unwrap_or(1)));
        Ok(match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let Some(set) = get(&self.replica_sets, namespace, owner) else { return Ok(None) };
                match claim::controller_of(&set.metadata) {
                    Some(above) if above.kind == "Deployment" => get(&self.deployments, namespace, above)
                        .map(|d| (above.uid.clone(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))),
                    _ => replicas(set.spec.as_ref().and_then(|s| s.replicas)),
                }
            }
            ("apps", "StatefulSet") => get(&self.stateful_sets, namespace, owner)
                .and_then(|set| replicas(set.spec.as_ref().and_then(|s| s.replicas))),
            ("", "ReplicationController") => get(&self.controllers, namespace, owner)
                .and_then(|set| replicas(set.spec.as_ref().and_then(|s| s.replicas))),
            _ => self.subresource(namespace, owner).await?,
        })
    }

    async fn subresource(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<(String, i32)>, ReconcileError> {
        let types = TypeMeta { api_version: owner.api_version.clone(), kind: owner.kind.clone() };
        let Ok(gvk) = GroupVersionKind::try_from(types) else { return Ok(None) };
        let resource = match pinned_kind(&self.client, &gvk).await {
            Ok((resource, _)) => resource,
            Err(kube::Error::Discovery(_)) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let Some(scale) = optional(api.get_scale(&owner.name).await)? else { return Ok(None) };
        let same = scale.metadata.uid.as_ref() == Some(&owner.uid);
        Ok(scale.spec.filter(|_| same).map(|spec| (owner.uid.clone(), spec.replicas.unwrap_or(0))))
    }
}
