//! The network on real kernels: hosts and pods are network namespaces made for each test and removed after it.
//!
//! Needs root; skipped loudly otherwise. `ip` and `nft` are only used to look.

#[path = "network/lab.rs"]
mod lab;

#[path = "network/pods.rs"]
mod pods;

#[path = "network/services.rs"]
mod services;
