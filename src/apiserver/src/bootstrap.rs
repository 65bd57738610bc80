//! The objects every cluster has: system namespaces, roles and bindings, priority classes, flow control, the
//! `kubernetes` Service, and the ConfigMap by which extension servers know this one. Written at each start of each
//! server, several at the same time among them, through the same create and update code as any request, as a user that
//! may do all; what is there is completed, never reset.

mod flow_control;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use k8s_openapi::api::rbac::v1::PolicyRule;
use objects::{
    status::{Reason, Status},
    strategy::Part,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    alloc::{repair, service::nth},
    authn::{User, user::MASTERS},
    authz::roles,
    encoded::{child_mut, meta_str},
    rest::{
        Place,
        create::create_object,
        options::WriteOptions,
        update::{self, Change, Mode},
    },
    server::Inner,
    servers,
};

const NAMESPACES: [&str; 4] = ["kube-system", "default", "kube-public", "kube-node-lease"];
/// Writes in flight during start.
const SIDE_BY_SIDE: usize = 64;
/// How often a change is made anew because another server was quicker.
const CONFLICTS: usize = 8;
const RBAC: &str = "rbac.authorization.k8s.io/v1";
const NETWORKING: &str = "networking.k8s.io/v1";

/// Writes everything that is not there yet, once this server has what the cluster has.
pub(crate) async fn run(inner: &Arc<Inner>) -> Result<(), Status> {
    inner.hub.linearize().await?;
    let writer = Writer::new(inner);
    for name in NAMESPACES {
        writer.ensure("v1", "namespaces", json!({"metadata": {"name": name}}), |_, _| false).await?;
    }
    rbac(&writer).await?;
    priority_classes(&writer).await?;
    flow_control::write(&writer).await?;
    authentication_config(&writer).await?;
    service_range(&writer).await?;
    let leads = inner.config.store.is_leader();
    if leads {
        repair::once(inner).await?;
    }
    kubernetes_service(&writer).await?;
    crate::crd::registrar::sync(inner)?;
    // Others find this done, or see the leader do it.
    if leads {
        servers::write_endpoints(inner).await?;
        crate::role_sums::once(inner).await?;
        crate::api_services::sync(inner).await?;
    }
    Ok(())
}

/// Writes objects as this server itself.
pub(crate) struct Writer<'w> {
    inner: &'w Arc<Inner>,
    user: User,
}

impl<'w> Writer<'w> {
    /// On this server's behalf.
    pub(crate) fn new(inner: &'w Arc<Inner>) -> Writer<'w> {
        Writer { inner, user: Self::user() }
    }

    pub(crate) fn user() -> User {
        User::new("system:apiserver", [MASTERS])
    }
}

impl Writer<'_> {
    fn options() -> WriteOptions {
        WriteOptions { field_manager: "rk".into(), ..WriteOptions::default() }
    }

    /// Creates an object, or lets `complete` change the one that is there; it says whether it did.
    pub(crate) async fn ensure(
        &self,
        group_version: &str,
        plural: &str,
        object: Value,
        complete: impl Fn(&mut Value, &Value) -> bool + Send + Sync,
    ) -> Result<(), Status> {
        let resource =
            self.inner.registry.load().find(group_version, plural).cloned().ok_or_else(Status::unknown_path)?;
        let (namespace, name) = (meta_str(&object, "namespace").to_owned(), meta_str(&object, "name").to_owned());
        let place = Place { resource, namespace: &namespace, name: &name, subresource: "" };
        let options = Self::options();
        let mut warnings = Vec::new();
        if crate::rest::store::read(self.inner, &place.store_key()).await?.is_none() {
            let created = create_object(self.inner, &self.user, &place, object.clone(), &options, &mut warnings).await;
            match created {
                Ok(_) => return Ok(()),
                Err(status) if status.reason() == Reason::AlreadyExists => {}
                // A server that starts at the same time may have made it, and hold the address that was asked for.
                Err(status) if crate::rest::store::read(self.inner, &place.store_key()).await?.is_none() => {
                    return Err(status);
                }
                Err(_) => {}
            }
        }
        let next = |old: &Value| {
            let mut new = old.clone();
            complete(&mut new, &object);
            new
        };
        self.update(group_version, plural, Part::Main, &object, next).await
    }

    /// Changes the object of that namespace and name, which is there.
    async fn update(
        &self,
        group_version: &str,
        plural: &str,
        part: Part,
        object: &Value,
        next: impl Fn(&Value) -> Value + Send + Sync,
    ) -> Result<(), Status> {
        let resource =
            self.inner.registry.load().find(group_version, plural).cloned().ok_or_else(Status::unknown_path)?;
        let (namespace, name) = (meta_str(object, "namespace"), meta_str(object, "name"));
        let place = Place { resource, namespace, name, subresource: "" };
        let options = Self::options();
        let change = Change { inner: self.inner, user: &self.user, part, options: &options, mode: Mode::Plain };
        // What is made from the stored object insists on its revision, and another server may do the same right now.
        for _ in 1..CONFLICTS {
            match update::apply(&change, &place, &mut Vec::new(), |old| Ok(next(old))).await {
                Err(status) if status.is_conflict() => {}
                outcome => return outcome.map(drop),
            }
        }
        update::apply(&change, &place, &mut Vec::new(), |old| Ok(next(old))).await.map(drop)
    }

    async fn ensure_all<T: Serialize>(
        &self,
        group_version: &str,
        plural: &str,
        objects: Vec<T>,
        complete: impl Fn(&mut Value, &Value) -> bool + Send + Sync + Copy,
    ) -> Result<(), Status> {
        let values = objects.into_iter().map(|object| serde_json::to_value(object).map_err(Status::internal));
        // Side by side, so that the store writes many of them to disk at once.
        futures::stream::iter(values.collect::<Result<Vec<_>, _>>()?)
            .map(|value| self.ensure(group_version, plural, value, complete))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<()>()
            .await
    }
}

async fn rbac(writer: &Writer<'_>) -> Result<(), Status> {
    writer.ensure_all(RBAC, "clusterroles", roles::cluster_roles(), add_rules).await?;
    writer.ensure_all(RBAC, "clusterrolebindings", roles::cluster_role_bindings(), add_subjects).await?;
    writer.ensure_all(RBAC, "roles", roles::roles(), add_rules).await?;
    writer.ensure_all(RBAC, "rolebindings", roles::role_bindings(), add_subjects).await
}

/// Whether an administrator has taken the object out of reconciliation.
fn is_kept(object: &Value) -> bool {
    object.pointer("/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate").is_some_and(|v| v == "false")
}

fn add_rules(object: &mut Value, wanted: &Value) -> bool {
    if is_kept(object) || object.get("aggregationRule").is_some() {
        return false;
    }
    let rules = |value: &Value| -> Vec<PolicyRule> {
        value.get("rules").and_then(|rules| objects::decode::decode(rules.clone()).ok()).unwrap_or_default()
    };
    let present = rules(object);
    let missing: Vec<_> = rules(wanted).into_iter().filter(|rule| !present.contains(rule)).collect();
    if missing.is_empty() {
        return false;
    }
    let all: Vec<PolicyRule> = present.into_iter().chain(missing).collect();
    object["rules"] = serde_json::to_value(all).unwrap_or_default();
    true
}

fn add_subjects(object: &mut Value, wanted: &Value) -> bool {
    if is_kept(object) {
        return false;
    }
    let subjects = |value: &Value| value.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = subjects(object);
    let missing: Vec<_> = subjects(wanted).into_iter().filter(|subject| !all.contains(subject)).collect();
    if missing.is_empty() {
        return false;
    }
    all.extend(missing);
    object["subjects"] = Value::Array(all);
    true
}

async fn priority_classes(writer: &Writer<'_>) -> Result<(), Status> {
    let class = |name: &str, value: i64, about: &str| json!({"metadata": {"name": name}, "value": value, "globalDefault": false, "description": about});
    let classes = [
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    for class in classes {
        writer.ensure("scheduling.k8s.io/v1", "priorityclasses", class, |_, _| false).await?;
    }
    Ok(())
}

async fn authentication_config(writer: &Writer<'_>) -> Result<(), Status> {
    let object = json!({
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": writer.inner.config.client_ca_pem},
    });
    let complete = |object: &mut Value, wanted: &Value| {
        child_mut(object, "data").insert("client-ca-file".into(), wanted["data"]["client-ca-file"].clone());
        true
    };
    writer.ensure("v1", "configmaps", object, complete).await
}

/// The range that services get their addresses from, shown as an object. It is the configuration that counts: the
/// object follows it.
async fn service_range(writer: &Writer<'_>) -> Result<(), Status> {
    let cidrs: Vec<String> = writer.inner.config.service_cidrs.iter().map(ToString::to_string).collect();
    if cidrs.is_empty() {
        return Ok(());
    }
    let object = json!({
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    });
    let complete = |object: &mut Value, wanted: &Value| {
        object["spec"] = wanted["spec"].clone();
        true
    };
    writer.ensure(NETWORKING, "servicecidrs", object.clone(), complete).await?;
    let is_ready = |object: &Value| {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready")
    };
    writer
        .update(NETWORKING, "servicecidrs", Part::Status, &object, |old| {
            let mut new = old.clone();
            if !is_ready(old) {
                new["status"] = object["status"].clone();
            }
            new
        })
        .await
}

/// The Service by which pods reach the servers, at the first address of the range; [`servers`] keeps its endpoints.
async fn kubernetes_service(writer: &Writer<'_>) -> Result<(), Status> {
    let config = &writer.inner.config;
    let Some(cidr) = config.service_cidrs.first() else { return Ok(()) };
    let address = nth(cidr, 1).to_string();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": address,
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise.port()}],
        },
    });
    let complete = |object: &mut Value, wanted: &Value| {
        child_mut(object, "spec").insert("ports".into(), wanted["spec"]["ports"].clone());
        true
    };
    writer.ensure("v1", "services", service, complete).await
}
