//! Ingresses, network policies, and the cluster's address ranges.

pub mod addresses;
pub mod ingress;
pub mod policy;
