//! Files packed into the executable.
//!
//! Bytes only: what they mean is known to the crates that use them. Tables of API facts (`tables/`) are included by
//! `objects` itself.
#![forbid(unsafe_code)]

/// Descriptions of the API's types and fields, gzip; see `build.rs` for the form and `objects::openapi` for the
/// reader.
pub static API_DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

/// The Service that holds the cluster's DNS address; `${CLUSTER_DNS}` stands for it.
pub const KUBE_DNS: &str = include_str!("../manifests/kube-dns.yaml");

/// The web app of `rk server --demo`.
pub const DEMO: &str = include_str!("../manifests/demo.yaml");
