//! The only place that wires components: what starts after what, and the reverse on the way out.
//!
//! ```text
//! server:  (join) ─► files ─► store ─► API server ─► listener ─► controllers, scheduler ─► node ─► manifests, demo
//! agent:   join ─► client ─► node ─► tunnels
//! ```
//! Stopping goes the other way. Containers are not part of it: they go on running, and are found again.

pub(crate) mod agent;
pub(crate) mod dialer;
mod elected;
mod etcd;
mod files;
mod node_tunnels;
pub(crate) mod routes;
pub(crate) mod server;
mod serving;
pub(crate) mod worker;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
