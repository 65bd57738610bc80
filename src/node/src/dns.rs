//! Cluster DNS on this node: the server on the pods' gateway address, its zone from Services and EndpointSlices, and
//! the redirection of the cluster's DNS address to it. Every node answers for itself; no pod is involved. While rk is not
//! running on a node, pods' resolvers turn to the second address that they have, which leads to the other nodes.

pub mod zone;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use client::Informers;
use client::backoff::Backoff;
use net::dns::{Dns, DnsConfig, DnsError};
use net::{DnsRedirect, Net, NetError};

use crate::Node;
use crate::network::chain;
use crate::services::Sources;

const PORT: u16 = 53;
const RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the pod network has no gateway yet")]
    NoGateway,
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    Net(#[from] NetError),
}

struct Settings {
    domain: String,
    vip: Ipv4Addr,
    elsewhere: Option<Ipv4Addr>,
    resolv_conf: std::path::PathBuf,
}

/// Serves names from the time the pod network is up until the node stops. Without a DNS address there is nothing to do.
pub fn start(node: &Node) {
    let config = node.config();
    let Some(vip) = config.cluster_dns.first().copied() else { return };
    let settings = Settings {
        domain: config.cluster_domain.clone(),
        vip,
        elsewhere: config.dns_elsewhere,
        resolv_conf: config.resolv_conf.clone(),
    };
    let (informers, net) = (node.informers().clone(), node.net().clone());
    let mut health = node.context.health.subscribe();
    let stop = node.stopping().clone();
    let task = async move {
        if health.wait_for(|health| health.network).await.is_ok() {
            run(informers, net, settings).await;
        }
    };
    node.tasks().spawn(async move { stop.run_until_cancelled(task).await });
}

async fn run(informers: Informers, net: Net, settings: Settings) {
    let mut backoff = Backoff::new(RETRY, SLOWEST_RETRY);
    let dns = loop {
        match open(&net, &settings).await {
            Ok(dns) => break dns,
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!(error = %chain(&error), ?delay, "cannot start the DNS server; trying again");
                tokio::time::sleep(delay).await;
            }
        }
    };
    tracing::info!(address = %dns.addr(), vip = %settings.vip, domain = %settings.domain, "cluster DNS is up");
    let sources = Sources::of(&informers);
    let mut changes = sources.subscribe();
    sources.synced().await;
    loop {
        dns.set_zone(zone::build(&settings.domain, &sources.services.list(), &sources.slices.list()));
        if !changes.next().await {
            return;
        }
    }
}

async fn open(net: &Net, settings: &Settings) -> Result<Dns, OpenError> {
    let gateway = net.gateway().ok_or(OpenError::NoGateway)?;
    let config = |port| DnsConfig { listen: (gateway, port).into(), resolv_conf: settings.resolv_conf.clone() };
    let dns = match Dns::start(config(PORT)).await {
        Ok(dns) => dns,
        // A resolver of the host has the port on all addresses: any other will do, packets are redirected.
        Err(error) => {
            tracing::debug!(error = %chain(&error), "DNS takes another port");
            Dns::start(config(0)).await?
        }
    };
    if let SocketAddr::V4(server) = dns.addr() {
        let server = SocketAddrV4::new(gateway, server.port());
        let (vip, elsewhere) = (settings.vip, settings.elsewhere);
        net.set_dns(Some(DnsRedirect { vip, server, elsewhere })).await?;
    }
    Ok(dns)
}
