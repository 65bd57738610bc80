//! Why a network operation failed.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("the node has no pod CIDR yet")]
    NotReady,
    #[error("pod CIDR {0} is too small")]
    CidrTooSmall(Ipv4Net),
    #[error("all addresses of {0} are leased")]
    Exhausted(Ipv4Net),
    #[error("no interface has the node address {0}")]
    NoUplink(Ipv4Addr),
    #[error("interface {name} exists and is not a {wanted}")]
    ForeignLink { name: String, wanted: &'static str },
    #[error("interface {name} went away")]
    LinkGone { name: String },
    #[error("cannot {doing}")]
    Netlink { doing: String, source: nlink::Error },
    #[error("cannot open network namespace {}", path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("lease file {} is not readable", path.display())]
    Leases { path: PathBuf, source: serde_json::Error },
    #[error("the network thread ended early")]
    ThreadEnded,
}
