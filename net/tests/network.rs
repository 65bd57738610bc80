//! The network on real kernels: hosts and pods are network namespaces made for each test and removed after it.
//!
//! Needs root; skipped loudly otherwise. `ip` and `nft` are only used to look.

#[cfg(test)]
#[path = "network/lab.rs"]
mod lab;

#[cfg(test)]
#[path = "network/pods.rs"]
mod pods;

#[cfg(test)]
#[path = "network/services.rs"]
mod services;

#[cfg(test)]
#[path = "network/overlay.rs"]
mod overlay;

#[cfg(test)]
#[path = "network/dns.rs"]
mod dns;
