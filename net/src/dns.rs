//! The node's DNS server: the cluster's zone from memory, other names from the host's own servers.
//!
//! [`answer`] and [`zone`] decide, pure; [`server`] owns the listening sockets, [`upstream`] asks other servers,
//! [`cache`] remembers what they said. Nothing happens between queries: no timers, no refreshes.

mod answer;
mod cache;
mod resolv;
mod server;
mod upstream;
mod zone;

pub use zone::{Record, Zone};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use server::Shared;

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
    shared: Arc<Shared>,
    stop: CancellationToken,
    _stop_on_drop: Arc<DropGuard>,
}

impl Dns {
    /// Binds both sockets and begins to answer. Everything gets SERVFAIL, which clients retry, until the first
    /// [`Dns::set_zone`].
    pub async fn start(config: DnsConfig) -> Result<Dns, DnsError> {
        let listen = |source| DnsError::Listen { addr: config.listen, source };
        let (udp, tcp) = server::bind(config.listen).await.map_err(listen)?;
        let addr = udp.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared::new(addr, config.resolv_conf.clone()));
        let stop = CancellationToken::new();
        server::spawn(udp, tcp, &shared, &stop);
        let guard = Arc::new(stop.clone().drop_guard());
        Ok(Dns { addr, shared, stop, _stop_on_drop: guard })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the zone.
    pub fn set_zone(&self, zone: Zone) {
        self.shared.set_zone(zone);
    }

    /// Stops answering and closes the sockets.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.shared.stopped().await;
    }
}
