//! `rk agent`: join, then run a node, its API reached through the tunnel this side opens.

use super::worker;
use crate::config::AgentConfig;
use crate::https::Https;
use crate::join::client::{Membership, membership};
use crate::tunnel;
use client::backoff::Backoff;
use client::tls::{self, Identity};
use client::{Credentials, HttpsConfig, Informers, ServerList};
use node::Node;
use pki::KeyCert;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) async fn run(config: AgentConfig) -> anyhow::Result<()> {
    worker::check("rk agent")?;
    let membership = tokio::select! {
        joined = membership(&config) => joined?,
        stopped = super::asked_to_stop() => return stopped,
    };
    tracing::info!(node = %config.node.name, server = %config.server, "joined");
    let stop = CancellationToken::new();
    let client = client::https(HttpsConfig {
        servers: ServerList::new(vec![config.server.clone()]),
        ca_pem: membership.ca_pem.clone().into_bytes(),
        credentials: Credentials::Certificate {
            cert_pem: membership.client.cert_pem.clone().into_bytes(),
            key_pem: membership.client.key_pem.clone().into_bytes(),
        },
    })?;
    let informers = Informers::new(client.clone());
    let worker =
        worker::start(&config.node, &membership.network, client, informers.clone(), None, stop.clone()).await?;
    crate::notify::ready();
    let tunnel = tokio::spawn(keep_tunnel(config.server.clone(), membership, worker.node.clone(), stop.clone()));
    super::asked_to_stop().await?;
    tracing::info!("stopping; containers go on running");
    stop.cancel();
    informers.shutdown().await;
    worker.node.stopped().await;
    tunnel.await?;
    Ok(())
}

/// Keeps a tunnel open, for as long as the agent runs.
async fn keep_tunnel(server: String, membership: Membership, node: Node, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = tunnel_once(&server, &membership, &node, &mut backoff) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(error = format!("{error:#}"), "tunnel ended");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn tunnel_once(server: &str, membership: &Membership, node: &Node, backoff: &mut Backoff) -> anyhow::Result<()> {
    let Membership { ca_pem, client: KeyCert { cert_pem, key_pem }, .. } = membership;
    let identity = Identity { cert_pem: cert_pem.as_bytes(), key_pem: key_pem.as_bytes() };
    let https = Https::new(server, tls::trusting(ca_pem.as_bytes(), Some(identity))?);
    let connection = https.upgrade(tunnel::PATH, tunnel::PROTOCOL).await?;
    tracing::info!(%server, "tunnel open");
    backoff.reset();
    tunnel::agent::accept(connection, |stream| {
        let node = node.clone();
        tokio::spawn(async move { node.serve(stream).await });
    })
    .await?;
    Ok(())
}
