//! The objects every cluster has: system namespaces, roles and bindings, priority classes, flow control, the
//! `kubernetes` Service with its endpoints, and the ConfigMap by which extension servers know this one. Written at
//! each start through the same create and update code as any request, as a user that may do all; what is there is
//! completed, never reset.

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
};

const NAMESPACES: [&str; 4] = ["kube-system", "default", "kube-public", "kube-node-lease"];
/// Writes in flight during start.
const SIDE_BY_SIDE: usize = 64;
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Writes everything, and starts what keeps it so.
pub(crate) async fn run(inner: &Arc<Inner>) -> Result<(), Status> {
    let writer = Writer { inner, user: User::new("system:apiserver", [MASTERS]) };
    for name in NAMESPACES {
        writer.ensure("v1", "namespaces", json!({"metadata": {"name": name}}), |_, _| false).await?;
    }
    rbac(&writer).await?;
    priority_classes(&writer).await?;
    flow_control::write(&writer).await?;
    authentication_config(&writer).await?;
    repair::once(inner).await?;
    kubernetes_service(&writer).await?;
    crate::crd::registrar::sync(inner)?;
    crate::role_sums::once(inner).await?;
    crate::api_services::sync(inner).await?;
    crate::background::spawn(inner);
    Ok(())
}

struct Writer<'w> {
    inner: &'w Arc<Inner>,
    user: User,
}

impl Writer<'_> {
    fn options() -> WriteOptions {
        WriteOptions { field_manager: "rk".into(), ..WriteOptions::default() }
    }

    /// Creates an object, or lets `complete` change the one that is there; it says whether it did.
    async fn ensure(
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
            match create_object(self.inner, &self.user, &place, object.clone(), &options, &mut warnings).await {
                Ok(_) => return Ok(()),
                Err(status) if status.reason() == Reason::AlreadyExists => {}
                Err(status) => return Err(status),
            }
        }
        let change =
            Change { inner: self.inner, user: &self.user, part: Part::Main, options: &options, mode: Mode::Plain };
        let next = |old: &Value| {
            let mut new = old.clone();
            complete(&mut new, &object);
            Ok(new)
        };
        update::apply(&change, &place, &mut warnings, next).await.map(|_| ())
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

/// The Service by which pods reach this server, at the first address of the range, and its endpoint.
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
    writer.ensure("v1", "services", service, complete).await?;
    let ip = config.advertise.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        // Such an address means another machine in every pod; better no endpoint than a wrong one.
        tracing::warn!(%ip, "the advertised address cannot be reached from pods: the kubernetes service gets no endpoint");
        return Ok(());
    }
    let port = json!({"name": "https", "port": config.advertise.port(), "protocol": "TCP"});
    let endpoints = json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": [port]}],
    });
    let take = |name: &'static str| {
        move |object: &mut Value, wanted: &Value| {
            object[name] = wanted[name].clone();
            if name == "endpoints" {
                object["ports"] = wanted["ports"].clone();
            }
            true
        }
    };
    writer.ensure("v1", "endpoints", endpoints, take("subsets")).await?;
    let slice = json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": [port],
    });
    writer.ensure("discovery.k8s.io/v1", "endpointslices", slice, take("endpoints")).await
}
