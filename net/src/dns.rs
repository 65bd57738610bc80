//! The node's DNS server: the cluster's zone from memory, other names from the host's own servers.

mod zone;

pub use zone::{Record, Zone};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where to listen and whom to ask.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// UDP and TCP; port 0 picks one that is free for both.
    pub listen: SocketAddr,
    /// Read again when it changes; `/run/systemd/resolve/resolv.conf` is read when it only names a loopback stub.
    pub resolv_conf: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot listen on {addr}")]
    Listen { addr: SocketAddr, source: io::Error },
}

/// A running server; stops when the last clone is dropped or on [`Dns::stop`].
#[derive(Clone, Debug)]
pub struct Dns {
    addr: SocketAddr,
}

#[expect(clippy::unused_async, reason = "the signatures come first; the bodies follow")]
impl Dns {
    /// Binds both sockets and begins to answer. Cluster names get SERVFAIL until the first [`Dns::set_zone`].
    pub async fn start(config: DnsConfig) -> Result<Dns, DnsError> {
        Ok(Dns { addr: config.listen })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the zone.
    pub fn set_zone(&self, _zone: Zone) {}

    pub async fn stop(&self) {}
}
