//! The node's own object: made at the first start, taken over at later ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Api;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node as NodeObject, NodeAddress, NodeDaemonEndpoints, NodeSpec, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::config::NodeConfig;
use crate::context::Context;
use crate::machine::{self, Machine};
use crate::spec::amounts;

#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("the API server refuses node {name}")]
    Refused { name: String, source: Box<kube::Error> },
    #[error("stopped before the node was registered")]
    Stopped,
}

/// Makes the node object or brings its labels up to date. Retries until the API server answers.
pub(crate) async fn register(context: &Arc<Context>) -> Result<(), RegistrationError> {
    let mut pause = Duration::from_millis(20);
    let mut told = false;
    loop {
        match attempt(context).await {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 401 || status.code == 403 || status.code == 422 => {
                let source = Box::new(kube::Error::Api(status));
                return Err(RegistrationError::Refused { name: context.config.name.clone(), source });
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(node = %context.config.name, error = %error, "cannot register yet, trying again");
            }
            Err(error) => tracing::debug!(error = %error, "cannot register yet"),
        }
        let sleep = tokio::time::sleep(pause);
        if context.stop.run_until_cancelled(sleep).await.is_none() {
            return Err(RegistrationError::Stopped);
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

async fn attempt(context: &Context) -> Result<(), kube::Error> {
    let api: Api<NodeObject> = Api::all(context.client.clone());
    let node = object(&context.config, &context.machine);
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {
            tracing::info!(node = %context.config.name, "node registered");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let patch = json!({"metadata": {
                "labels": node.metadata.labels,
                "annotations": node.metadata.annotations,
            }});
            api.patch(&context.config.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            tracing::info!(node = %context.config.name, "node taken over");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn object(config: &NodeConfig, machine: &Machine) -> NodeObject {
    let status = NodeStatus {
        addresses: Some(addresses(config, machine)),
        node_info: Some(node_info(config, machine)),
        ..resources(config, machine)
    };
    NodeObject {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels(config, machine)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())].into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            provider_id: config.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

fn labels(config: &NodeConfig, machine: &Machine) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.architecture),
        ("kubernetes.io/hostname", machine.hostname.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.architecture),
        ("node.kubernetes.io/instance-type", config.instance_type.as_str()),
    ];
    let mut labels: BTreeMap<_, _> = own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    labels.extend(config.labels.clone());
    labels
}

/// How the node is reached.
pub(crate) fn addresses(config: &NodeConfig, machine: &Machine) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut all = vec![address("InternalIP", config.ip.to_string())];
    all.extend(config.external_ip.map(|ip| address("ExternalIP", ip.to_string())));
    all.push(address("Hostname", machine.hostname.clone()));
    all
}

pub(crate) fn node_info(config: &NodeConfig, machine: &Machine) -> k8s_openapi::api::core::v1::NodeSystemInfo {
    let mut info = machine.info.clone();
    info.kubelet_version.clone_from(&config.version);
    info
}

/// A status with capacity, allocatable and the daemon's port.
pub(crate) fn resources(config: &NodeConfig, machine: &Machine) -> NodeStatus {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), amounts::bytes(machine.memory)),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    if let Some((size, ..)) = machine::file_system(&config.root) {
        capacity.insert("ephemeral-storage".to_owned(), amounts::bytes(size));
    }
    for (kilobytes, bytes) in &machine.huge_pages {
        let size = if kilobytes % (1024 * 1024) == 0 {
            format!("{}Gi", kilobytes / (1024 * 1024))
        } else {
            format!("{}Mi", kilobytes / 1024)
        };
        capacity.insert(format!("hugepages-{size}"), amounts::bytes(*bytes));
    }
    let allocatable = capacity.iter().map(|(name, total)| (name.clone(), less(total, config.reserved.get(name))));
    NodeStatus {
        allocatable: Some(allocatable.collect()),
        capacity: Some(capacity),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.kubelet_port) }),
        }),
        ..NodeStatus::default()
    }
}

fn less(total: &Quantity, reserved: Option<&Quantity>) -> Quantity {
    let Some(reserved) = reserved.and_then(amounts::millis).filter(|r| *r > 0) else { return total.clone() };
    let left = (amounts::millis(total).unwrap_or(0) - reserved).max(0);
    if left % 1000 == 0 { Quantity((left / 1000).to_string()) } else { Quantity(format!("{left}m")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_resources_are_not_allocatable() {
        assert_eq!(less(&Quantity("2".into()), Some(&Quantity("250m".into()))).0, "1750m");
        assert_eq!(less(&Quantity("4Gi".into()), Some(&Quantity("1Gi".into()))).0, (3u64 << 30).to_string());
        assert_eq!(less(&Quantity("2".into()), None).0, "2");
    }

    #[test]
    fn the_object_has_the_well_known_labels() {
        let config = NodeConfig { name: "n1".into(), hostname: Some("Box".into()), ..NodeConfig::default() };
        let node = object(&config, &Machine::probe(config.hostname.clone()));
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/hostname"], "box");
        assert_eq!(labels["kubernetes.io/os"], "linux");
        let status = node.status.unwrap();
        assert_eq!(status.capacity.unwrap()["pods"].0, "110");
        assert_eq!(status.addresses.unwrap()[0].type_, "InternalIP");
    }
}
