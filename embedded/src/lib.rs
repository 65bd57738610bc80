//! Files packed into the executable.
#![forbid(unsafe_code)]

/// The Service that holds the cluster's DNS address; `${CLUSTER_DNS}` stands for it.
pub const KUBE_DNS: &str = include_str!("../manifests/kube-dns.yaml");

/// The web app of `rk server --demo`.
pub const DEMO: &str = include_str!("../manifests/demo.yaml");
