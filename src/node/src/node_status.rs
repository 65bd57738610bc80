//! The node's status: written when it changes, and now and then so that its age says the node is well.

use std::sync::Arc;

use client::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, Node as NodeObject, NodeCondition, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use client::{EventType, Subscription};

use crate::context::Context;
use crate::extended;
use crate::pressure::Health;
use crate::registration;

/// As many images as upstream tells.
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;
const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                          message:the node has no pod range yet";

/// Writes the status for ever.
pub(crate) fn task(context: &Arc<Context>) -> futures::future::BoxFuture<'static, ()> {
    let context = context.clone();
    Box::pin(run(context))
}

async fn run(context: Arc<Context>) {
    let api: Api<NodeObject> = Api::all(context.client.clone());
    let mut health = context.health.subscribe();
    let mut images = context.puller.changes();
    let mut nodes = context.node.subscribe();
    let mut written: Option<NodeStatus> = None;
    context.node_event(EventType::Normal, "Starting", "Starting kubelet.");
    loop {
        let now = Timestamp::now();
        let current = *health.borrow_and_update();
        images.mark_unchanged();
        let status = compute(&context, current, written.as_ref(), now);
        let refresh = context.config.timing.status_refresh;
        let wait = match write(&context, &api, &status).await {
            Ok(()) => {
                announce(&context, written.as_ref(), &status);
                written = Some(status);
                refresh
            }
            Err(error) => {
                tracing::debug!(error = %error, "cannot write the node's status");
                std::time::Duration::from_secs(2)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = health.changed() => {}
            Ok(()) = images.changed() => {}
            () = contradicted(&context, &mut nodes, written.as_ref()) => {}
        }
    }
}

/// Ends when the API holds other conditions than this node wrote (the control plane gave the node up for a while), or
/// resources that somebody announced and that are not allocatable yet.
async fn contradicted(context: &Context, nodes: &mut Subscription<NodeObject>, written: Option<&NodeStatus>) {
    while nodes.next().await.is_some() {
        let stored = context.own_node().and_then(|node| node.status.clone());
        if let (Some(stored), Some(written)) = (stored, written)
            && (differ(written, &stored) || !extended::missing(&stored).is_empty())
        {
            return;
        }
    }
    std::future::pending().await
}

fn differ(written: &NodeStatus, stored: &NodeStatus) -> bool {
    let holds = |condition: &NodeCondition| {
        stored.conditions.iter().flatten().any(|c| c.type_ == condition.type_ && c.status == condition.status)
    };
    !written.conditions.iter().flatten().all(holds)
}

/// Writes with the heartbeat times of this moment; they alone are no reason to write.
async fn write(context: &Context, api: &Api<NodeObject>, status: &NodeStatus) -> Result<(), kube::Error> {
    let mut patch = json!({"status": status});
    let stored = context.own_node().and_then(|node| node.status.clone()).unwrap_or_default();
    for (name, amount) in extended::missing(&stored) {
        patch["status"]["allocatable"][name] = json!(amount);
    }
    let patch = Patch::Strategic(patch);
    api.patch_status(&context.config.name, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn compute(context: &Context, health: Health, old: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    NodeStatus {
        addresses: Some(registration::addresses(&context.config, &context.machine)),
        node_info: Some(registration::node_info(&context.config, &context.machine)),
        images: Some(images(context)),
        conditions: Some(conditions(context, health, old, now)),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(false),
            }),
        }]),
        ..registration::resources(&context.config, &context.machine)
    }
}

fn images(context: &Context) -> Vec<ContainerImage> {
    let mut records = context.runtime.images().list();
    records.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let images = records.into_iter().take(MAX_IMAGES).map(|record| {
        let names = record.repo_digests.into_iter().chain(record.names).take(MAX_IMAGE_NAMES).collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(record.size).ok() }
    });
    images.collect()
}

fn conditions(context: &Context, health: Health, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let table = [
        (
            "MemoryPressure",
            health.memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "kubelet has insufficient memory available",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            health.disk,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has disk pressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            health.pids,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "kubelet has insufficient PID available",
            "kubelet has sufficient PID available",
        ),
    ];
    let former = context.own_node();
    let known = |kind: &str| {
        let from = |status: &NodeStatus| status.conditions.iter().flatten().find(|c| c.type_ == kind).cloned();
        old.and_then(from).or_else(|| former.as_ref()?.status.as_ref().and_then(from))
    };
    let make = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let since = known(kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        }
    };
    let mut all: Vec<_> = table
        .into_iter()
        .map(|(kind, holds, bad, good, bad_text, good_text)| {
            make(kind, holds, if holds { bad } else { good }, if holds { bad_text } else { good_text })
        })
        .collect();
    all.push(match context.net.gateway() {
        Some(_) => make("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        None => make("Ready", false, "KubeletNotReady", NO_NETWORK),
    });
    all
}

/// Events for conditions that changed, as `kubectl describe node` shows them.
fn announce(context: &Context, old: Option<&NodeStatus>, new: &NodeStatus) {
    let state = |status: &NodeStatus, kind: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == kind);
        found.map(|c| c.status.clone())
    };
    for (kind, yes, no) in [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ] {
        let now = state(new, kind);
        if old.and_then(|o| state(o, kind)) != now {
            let reason = if now.as_deref() == Some("True") { yes } else { no };
            let message = format!("Node {} status is now: {reason}", context.config.name);
            context.node_event(EventType::Normal, reason, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_the_control_plane_overwrote_is_noticed() {
        let status = |ready: &str| NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        };
        assert!(differ(&status("True"), &status("Unknown")));
        assert!(!differ(&status("True"), &status("True")));
        assert!(differ(&status("True"), &NodeStatus::default()));
    }
}
