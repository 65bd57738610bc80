//! Feeds the node network what the API says of nodes: its own pod range and the other nodes as peers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node as NodeObject;
use net::Peer;

use crate::context::Context;

const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Follows the Node objects for ever.
pub(crate) fn task(context: &Arc<Context>) -> futures::future::BoxFuture<'static, ()> {
    let context = context.clone();
    Box::pin(run(context))
}

async fn run(context: Arc<Context>) {
    let mut changes = context.node.subscribe();
    let mut known = Known::default();
    let mut pause = FIRST_PAUSE;
    let mut settled = true;
    loop {
        // A change, or another try at what the kernel refused.
        tokio::select! {
            change = changes.next() => if change.is_none() { return },
            () = tokio::time::sleep(pause), if !settled => pause = (pause * 2).min(Duration::from_secs(30)),
        }
        settled = known.range(&context).await & known.peers(&context).await;
        if settled {
            pause = FIRST_PAUSE;
        }
    }
}

/// What the network has been told.
#[derive(Default)]
struct Known {
    range: Option<Ipv4Net>,
    peers: Option<Vec<Peer>>,
}

impl Known {
    /// Tells the node's own range; false: it was refused.
    async fn range(&mut self, context: &Context) -> bool {
        let wanted = context.own_node().and_then(|n| pod_cidr(&n));
        let Some(wanted) = wanted.filter(|w| self.range != Some(*w)) else { return true };
        if let Err(error) = context.net.set_pod_cidr(wanted).await {
            tracing::error!(%wanted, error = %chain(&error), "cannot use the pod range");
            return false;
        }
        self.range = Some(wanted);
        // Pods that were waiting for the network can go on.
        context.workers.wake_all();
        context.health.send_modify(|health| health.network = true);
        true
    }

    /// Tells the other nodes; false: they were refused.
    async fn peers(&mut self, context: &Context) -> bool {
        let nodes = context.node.list();
        let others = nodes.iter().filter(|n| n.metadata.name.as_deref() != Some(context.config.name.as_str()));
        let mut wanted: Vec<Peer> = others.filter_map(|n| peer(n)).collect();
        wanted.sort();
        if self.peers.as_ref() == Some(&wanted) {
            return true;
        }
        if let Err(error) = context.net.set_peers(wanted.clone()).await {
            tracing::error!(error = %chain(&error), "cannot set the peers of the overlay");
            return false;
        }
        self.peers = Some(wanted);
        true
    }
}

fn pod_cidr(node: &NodeObject) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    let listed = spec.pod_cidrs.iter().flatten().find_map(|c| c.parse().ok());
    listed.or_else(|| spec.pod_cidr.as_deref()?.parse().ok())
}

fn peer(node: &NodeObject) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|a| a.type_ == "InternalIP");
    let node_ip = internal.filter_map(|a| a.address.parse::<Ipv4Addr>().ok()).next()?;
    Some(Peer { node_ip, pod_cidr: pod_cidr(node)? })
}

/// An error with its sources, for one log line or event.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_range_or_address_is_no_peer() {
        let node = |spec: serde_json::Value, address: &str| -> NodeObject {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}, "spec": spec,
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}))
            .unwrap()
        };
        let full = node(serde_json::json!({"podCIDR": "10.42.1.0/24"}), "192.168.0.2");
        assert_eq!(
            peer(&full),
            Some(Peer { node_ip: Ipv4Addr::new(192, 168, 0, 2), pod_cidr: "10.42.1.0/24".parse().unwrap() })
        );
        assert_eq!(peer(&node(serde_json::json!({}), "192.168.0.2")), None);
        assert_eq!(peer(&node(serde_json::json!({"podCIDR": "10.42.1.0/24"}), "::1")), None);
    }
}
