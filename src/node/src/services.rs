//! Feeds the node network what the API says of services: [`table`] makes the whole table from Services, EndpointSlices
//! and the node's zone, and it is set whenever it differs from the one before.
//!
//! Level-triggered: no single event matters, only what the informers hold after it.

pub mod endpoints;
pub mod table;

use std::time::Duration;

use client::backoff::Backoff;
use client::{Informer, Informers, Observed, Subscription};
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::{Net, ServiceTable};

use self::table::{Place, Skip};
use crate::Node;
use crate::network::chain;

/// Changes that come together are worked off together.
const GATHER: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_millis(500);
const SLOWEST_RETRY: Duration = Duration::from_secs(30);

/// Keeps the node's service table until the node stops.
pub fn start(node: &Node) {
    let config = node.config();
    let place = Place { node: config.name.clone(), zone: None };
    let skip = Skip { dns: config.cluster_dns.clone() };
    let task = run(node.informers().clone(), node.net().clone(), place, skip);
    let stop = node.stopping().clone();
    node.tasks().spawn(async move { stop.run_until_cancelled(task).await });
}

/// Services and their endpoints, as both the service table and the DNS zone are made from.
pub(crate) struct Sources {
    pub(crate) services: Informer<Service>,
    pub(crate) slices: Informer<EndpointSlice>,
}

/// Tells when the sources have changed.
pub(crate) struct Changes {
    services: Subscription<Service>,
    slices: Subscription<EndpointSlice>,
}

impl Sources {
    pub(crate) fn of(informers: &Informers) -> Sources {
        Sources { services: informers.of(), slices: informers.of() }
    }

    pub(crate) fn subscribe(&self) -> Changes {
        Changes { services: self.services.subscribe(), slices: self.slices.subscribe() }
    }

    pub(crate) async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced());
    }
}

impl Changes {
    /// Waits for a change and takes those that come with it. False: the informers have stopped.
    pub(crate) async fn next(&mut self) -> bool {
        let alive = tokio::select! {
            change = self.services.next() => change.is_some(),
            change = self.slices.next() => change.is_some(),
        };
        tokio::time::sleep(GATHER).await;
        drain(&mut self.services);
        drain(&mut self.slices);
        alive
    }
}

fn drain<K: Observed>(changes: &mut Subscription<K>) {
    while changes.try_next().is_some() {}
}

async fn run(informers: Informers, net: Net, mut place: Place, skip: Skip) {
    let sources = Sources::of(&informers);
    let nodes: Informer<NodeObject> = informers.of();
    let (mut changes, mut node_changes) = (sources.subscribe(), nodes.subscribe());
    tokio::join!(sources.synced(), nodes.synced());
    let mut set: Option<ServiceTable> = None;
    let mut backoff = Backoff::new(RETRY, SLOWEST_RETRY);
    loop {
        place.zone = nodes.get("", &place.node).and_then(|n| zone_of(&n));
        let wanted = table::build(&sources.services.list(), &sources.slices.list(), &place, &skip);
        let mut retry = None;
        if set.as_ref() != Some(&wanted) {
            match net.set_services(wanted.clone()).await {
                Ok(()) => {
                    tracing::debug!(ports = wanted.ports.len(), "service table set");
                    set = Some(wanted);
                    backoff.reset();
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(error = %chain(&error), ?delay, "cannot set the service table; trying again");
                    retry = Some(delay);
                }
            }
        }
        let alive = tokio::select! {
            alive = changes.next() => alive,
            alive = zone_changed(&mut node_changes, &nodes, &place) => alive,
            () = sleep(retry) => true,
        };
        if !alive {
            return;
        }
    }
}

/// Nodes change often; only this node's zone matters here.
async fn zone_changed(changes: &mut Subscription<NodeObject>, nodes: &Informer<NodeObject>, place: &Place) -> bool {
    loop {
        if changes.next().await.is_none() {
            return false;
        }
        if nodes.get("", &place.node).and_then(|n| zone_of(&n)) != place.zone {
            return true;
        }
    }
}

async fn sleep(delay: Option<Duration>) {
    match delay {
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}

fn zone_of(node: &NodeObject) -> Option<String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
}
