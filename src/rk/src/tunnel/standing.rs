//! A node's tunnels: one to each server of the list, so that logs, exec and port-forward work through any of them.
//!
//! A tunnel is opened when its server appears in the list, and opened again when it ends while the server is still
//! there. One that works is never closed because the list changed: as long as it works, its server lives.

use super::{PATH, PROTOCOL, agent};
use crate::https::Https;
use client::backoff::{Backoff, scatter};
use futures::FutureExt;
use node::Node;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A tunnel that ends sooner counts as one that was never open.
const SHORT: Duration = Duration::from_secs(5);
/// All nodes learn of a new server at one moment; they come to it within this time.
const SCATTER: Duration = Duration::from_millis(500);

/// How to call a server, by its URL, as the node.
pub(crate) type Caller = Arc<dyn Fn(&str) -> anyhow::Result<Https> + Send + Sync>;

/// What is done with a server for as long as it is in the list, and how.
#[derive(Clone)]
struct Keeper {
    servers: watch::Receiver<Vec<String>>,
    /// A server that needs no tunnel: the node is in its process.
    own: Option<String>,
    caller: Caller,
    node: Node,
    stop: CancellationToken,
}

/// Keeps the tunnels of `node` until `stop`.
pub(crate) async fn keep(
    mut servers: watch::Receiver<Vec<String>>,
    own: Option<String>,
    caller: Caller,
    node: Node,
    stop: CancellationToken,
) {
    let keeper = Keeper { servers: servers.clone(), own, caller, node, stop: stop.clone() };
    let mut tunnels: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut first = true;
    loop {
        let wanted = servers.borrow_and_update().clone();
        for server in wanted.into_iter().filter(|server| keeper.own.as_ref() != Some(server)) {
            tunnels.entry(server.clone()).or_insert_with(|| {
                let pause = if first { Duration::ZERO } else { scatter(SCATTER) };
                tokio::spawn(keeper.clone().keep_one(server, pause))
            });
        }
        first = false;
        if !matches!(stop.run_until_cancelled(servers.changed()).await, Some(Ok(()))) {
            break;
        }
    }
    for (_, tunnel) in tunnels {
        if let Err(error) = tunnel.await {
            tracing::error!(%error, "a tunnel ended badly");
        }
    }
}

impl Keeper {
    /// Whenever the server is in the list, a tunnel to it. The task stays for a server that left: it may come back.
    async fn keep_one(mut self, server: String, pause: Duration) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            tokio::time::sleep(pause).await;
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            while self.until_wanted(&server).await {
                let opened = Instant::now();
                let ended = AssertUnwindSafe(self.once(&server)).catch_unwind().await;
                if opened.elapsed() >= SHORT {
                    backoff.reset();
                }
                match ended {
                    Ok(Ok(())) => tracing::debug!(%server, "tunnel ended"),
                    Ok(Err(error)) => tracing::debug!(%server, error = format!("{error:#}"), "tunnel ended"),
                    Err(_) => tracing::error!(%server, "tunnel panicked"),
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        })
        .await;
    }

    /// False: the list is no more.
    async fn until_wanted(&mut self, server: &str) -> bool {
        self.servers.wait_for(|servers| servers.iter().any(|listed| listed == server)).await.is_ok()
    }

    async fn once(&self, server: &str) -> anyhow::Result<()> {
        let https = (self.caller)(server)?;
        let connection = https.upgrade(PATH, PROTOCOL).await?;
        tracing::info!(%server, "tunnel open");
        agent::accept(connection, |stream| {
            let node = self.node.clone();
            tokio::spawn(async move { node.serve(stream).await });
        })
        .await?;
        Ok(())
    }
}
