//! The controllers: what makes the cluster become what its objects say. Each is one file or folder with a pure plan
//! (state and time in, commands out) and a thin shell that reads informers and writes through the API. They share
//! one runner (`runner`), one kind of work queue (`queue`) and one way of knowing that their own writes have come
//! back to them (`writes`).
//!
//! Called by the executable alone, on the server that is elected, perhaps again after a while without. Invariant: plans use no clock, task or file.
#![forbid(unsafe_code)]

mod affinity;
mod claim;
mod conditions;
mod context;
mod discovery;
mod disruption_target;
mod error;
mod hash;
mod intstr;
mod metrics;
mod pods;
mod queue;
mod revisions;
mod runner;
mod template;
mod writes;

mod certificates;
mod claim_protection;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod replicaset;
mod resource_quota;
mod root_ca;
mod service_account;
mod statefulset;

use client::Informers;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;

/// What the controllers have to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificate that pods are to trust the API server by, PEM: published in every namespace.
    pub root_ca_pem: String,
    /// Pod addresses of all nodes.
    pub cluster_cidr: ipnet::IpNet,
    /// The prefix length of one node's share of `cluster_cidr`.
    pub node_cidr_mask: u8,
    /// How many finished pods are kept before the oldest are deleted.
    pub terminated_pod_threshold: usize,
    /// Signs approved certificate requests; without it they wait for somebody else.
    pub signer: Option<pki::Ca>,
    pub metrics: Metrics,
}

impl Config {
    /// The defaults: a /24 per node, 12,500 finished pods.
    pub fn new(root_ca_pem: String, cluster_cidr: ipnet::IpNet) -> Self {
        Self {
            root_ca_pem,
            cluster_cidr,
            node_cidr_mask: 24,
            terminated_pod_threshold: 12_500,
            signer: None,
            metrics: Metrics::default(),
        }
    }
}

/// Runs all controllers until `stop` is cancelled and their work in flight has ended.
pub async fn run(client: kube::Client, informers: Informers, config: Config, stop: CancellationToken) {
    let context = context::Context::new(client, informers, config, stop.clone());
    namespace::start(&context);
    service_account::start(&context);
    root_ca::start(&context);
    replicaset::start(&context);
    deployment::start(&context);
    daemonset::start(&context);
    job::start(&context);
    cronjob::start(&context);
    statefulset::start(&context);
    endpoints::start(&context);
    node_ipam::start(&context);
    node_lifecycle::start(&context);
    pod_gc::start(&context);
    garbage::start(&context);
    disruption::start(&context);
    claim_protection::start(&context);
    resource_quota::start(&context);
    certificates::start(&context);
    stop.cancelled().await;
    context.drained().await;
}

#[cfg(test)]
mod tests;
