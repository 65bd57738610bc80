//! A node on this box, for a server and an agent alike: runtime, images, network, DNS, then the node agent.

use crate::config::{ClusterNetwork, NodeConfig, registries};
use crate::{images, local, preflight};
use anyhow::Context;
use client::{Informers, Scope};
use kube::Client;
use net::{Net, NetConfig};
use node::Node;
use runtime::{Images, Runtime, RuntimeConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// For the DNS servers of other nodes: of the link-local range, of which no Service and no pod has an address.
const DNS_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 11);

/// A running node and what it stands on.
pub(crate) struct Worker {
    pub(crate) node: Node,
    pub(crate) runtime: Runtime,
}

/// What must hold on this box before a node may start here.
pub(crate) fn check(what: &str) -> anyhow::Result<()> {
    preflight::require_root(what)?;
    preflight::require_kernel()?;
    let missing = net::probe();
    anyhow::ensure!(missing.is_empty(), "the kernel lacks what the pod network needs:\n{}", list(&missing));
    Ok(())
}

fn list(missing: &[net::Missing]) -> String {
    missing.iter().map(|feature| format!("  {feature}\n")).collect()
}

/// Starts the node; its pods of an earlier life are adopted. `pods_scope` is the scope of an informer on pods that this
/// process has anyway; `None`: the node watches its own pods only.
pub(crate) async fn start(
    config: &NodeConfig,
    network: &ClusterNetwork,
    client: Client,
    informers: Informers,
    pods_scope: Option<Scope>,
    stop: CancellationToken,
) -> anyhow::Result<Worker> {
    // Root file systems of containers, with whatever set-user-id programs are in them, and volumes with secrets.
    preflight::private_folder(&config.data_dir.join("agent"))?;
    let runtime = Runtime::open(RuntimeConfig {
        root: images::store_path(&config.data_dir),
        state: config.state_dir.clone(),
        exe: std::env::current_exe().context("find rk's own executable")?,
        cgroup_parent: config.cgroup_root.clone(),
        registries: registries::load(&config.registries)?,
    })
    .await
    .context("start the container runtime")?;
    tokio::spawn(local::serve(local::bind(&config.state_dir)?, runtime.clone(), stop.clone()));
    import_folder(runtime.images().clone(), &config.images_dir()).await?;
    let IpAddr::V4(node_ip) = config.ip else {
        anyhow::bail!("node address {} is IPv6: rk's pod network is IPv4; give an IPv4 one with --node-ip", config.ip)
    };
    let net = Net::start(NetConfig {
        state_dir: config.data_dir.join("agent/net"),
        node_ip,
        cluster_cidr: network.cluster_cidr,
        service_cidr: network.service_cidr,
        ..NetConfig::default()
    })
    .await
    .context("start the pod network")?;
    let settings = node::NodeConfig {
        name: config.name.clone(),
        // Nodes of one machine, or of machines named alike, are told apart by kubernetes.io/hostname too.
        hostname: Some(config.name.clone()),
        ip: config.ip,
        labels: config.labels.clone(),
        taints: config.taints.clone(),
        cluster_domain: network.domain.clone(),
        cluster_dns: vec![network.dns],
        dns_elsewhere: Some(DNS_ELSEWHERE),
        pods: pods_scope,
        root: config.data_dir.join("agent"),
        pod_logs: config.log_dir.join("pods"),
        container_logs: config.log_dir.join("containers"),
        cgroup_parent: config.cgroup_root.clone(),
        seccomp_root: config.data_dir.join("agent/seccomp"),
        max_pods: config.max_pods,
        version: crate::version(),
        ..node::NodeConfig::default()
    };
    let node = Node::start(settings, client, informers, runtime.clone(), net, stop).await.context("start the node")?;
    Ok(Worker { node, runtime })
}

/// Imports what lies in the images folder. A broken archive is reported, and does not keep the node from starting.
async fn import_folder(images: Images, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    for file in files {
        match images::import(images.clone(), file.clone()).await {
            Ok(records) => tracing::info!(file = %file.display(), images = records.len(), "images imported"),
            Err(error) => tracing::error!(file = %file.display(), error = format!("{error:#}"), "images not imported"),
        }
    }
    Ok(())
}
