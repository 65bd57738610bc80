//! Publishes the certificate by which pods trust the API server, as `kube-root-ca.crt` in every namespace.

use std::collections::BTreeMap;

use client::retry::{is_already_exists, is_namespace_terminating};
use client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::namespace::is_active;
use crate::runner::{Next, Reconcile};

pub(crate) const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
}

pub(crate) fn start(context: &Context) {
    let (namespaces, config_maps) = (context.informers.of::<Namespace>(), context.informers.of::<ConfigMap>());
    let queue = context.queue("root-ca-certificate-publisher");
    context.feed_own(&namespaces, &queue);
    context.feed(&config_maps, &queue, |change| {
        let meta = &change.object().metadata;
        let ours = meta.name.as_deref() == Some(NAME);
        meta.namespace.iter().filter(|_| ours).map(ObjectKey::cluster).collect()
    });
    let ready = vec![synced(&namespaces), synced(&config_maps)];
    context.run(queue, Controller { context: context.clone(), namespaces, config_maps }, ready);
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Create,
    Replace,
}

fn plan(namespace: Option<&Namespace>, published: Option<&ConfigMap>, data: &BTreeMap<String, String>) -> Plan {
    match (namespace, published) {
        (Some(namespace), None) if is_active(namespace) => Plan::Create,
        (Some(namespace), Some(map)) if is_active(namespace) && map.data.as_ref() != Some(data) => Plan::Replace,
        _ => Plan::Nothing,
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let data = BTreeMap::from([(KEY.to_owned(), self.context.config.root_ca_pem.clone())]);
        let published = self.config_maps.get(&key.name, NAME);
        let api = self.context.api::<ConfigMap>(&key.name);
        match plan(self.namespaces.get_key(&key).as_deref(), published.as_deref(), &data) {
            Plan::Nothing => {}
            Plan::Create => {
                let annotation = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                                  internal endpoints such as the internal service IP or \
                                  kubernetes.default.svc. No other usage is guaranteed across distributions of \
                                  Kubernetes clusters.";
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    annotations: Some([("kubernetes.io/description".to_owned(), annotation.to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                match api.create(&PostParams::default(), &map).await {
                    Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => {}
                    other => drop(other?),
                }
            }
            Plan::Replace => {
                let stale = published.iter().flat_map(|map| map.data.iter().flatten()).map(|(name, _)| name);
                let mut fields: serde_json::Map<_, _> = stale.map(|name| (name.clone(), json!(null))).collect();
                fields.extend(data.into_iter().map(|(name, value)| (name, json!(value))));
                api.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"data": fields}))).await?;
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_restored_when_changed_but_not_in_a_dying_namespace() {
        let data = BTreeMap::from([(KEY.to_owned(), "pem".to_owned())]);
        let namespace = Namespace::default();
        let map = |data: &BTreeMap<_, _>| ConfigMap { data: Some(data.clone()), ..ConfigMap::default() };
        assert_eq!(plan(Some(&namespace), None, &data), Plan::Create);
        assert_eq!(plan(Some(&namespace), Some(&map(&data)), &data), Plan::Nothing);
        assert_eq!(plan(Some(&namespace), Some(&map(&BTreeMap::new())), &data), Plan::Replace);
        assert_eq!(plan(None, None, &data), Plan::Nothing);
        let mut dying = namespace;
        dying.status.get_or_insert_default().phase = Some("Terminating".into());
        assert_eq!(plan(Some(&dying), None, &data), Plan::Nothing);
    }
}
