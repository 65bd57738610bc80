//! `rk agent`: join, then run a node, its API reached through the tunnel this side opens.

use super::worker;
use crate::config::AgentConfig;
use crate::https::Https;
use crate::join::client::{membership, verified_tls};
use crate::join::identity::Presented;
use crate::join::renewal;
use crate::tunnel;
use anyhow::Context;
use client::backoff::Backoff;
use client::{Credentials, HttpsConfig, Informers, ServerList};
use node::Node;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) async fn run(config: AgentConfig) -> anyhow::Result<()> {
    worker::check("rk agent")?;
    runtime::open_files::raise().context("raise the limit of open files")?;
    let membership = tokio::select! {
        joined = membership(&config) => joined?,
        stopped = super::asked_to_stop() => return stopped,
    };
    tracing::info!(node = %config.node.name, server = %config.server, "joined");
    let presented = Presented::new(&membership.client)?;
    let stop = CancellationToken::new();
    let client = client::https(HttpsConfig {
        servers: ServerList::new(vec![config.server.clone()]),
        ca_pem: membership.ca_pem.clone().into_bytes(),
        credentials: Credentials::Changing(presented.clone()),
    })?;
    let informers = Informers::new(client.clone());
    let worker =
        worker::start(&config.node, &membership.network, client, informers.clone(), None, stop.clone()).await?;
    crate::notify::ready();
    let https = Https::new(&config.server, verified_tls(&membership.ca_pem, Some(&presented))?);
    let tunnel = tokio::spawn(keep_tunnel(https, worker.node.clone(), stop.clone()));
    let renewing = tokio::spawn(renewal::keep_fresh(config, membership, presented, stop.clone()));
    super::asked_to_stop().await?;
    tracing::info!("stopping; containers go on running (rk kill-all ends them)");
    stop.cancel();
    informers.shutdown().await;
    worker.node.stopped().await;
    tunnel.await?;
    renewing.await?;
    Ok(())
}

/// Keeps a tunnel open, for as long as the agent runs.
async fn keep_tunnel(https: Https, node: Node, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = tunnel_once(&https, &node, &mut backoff) => ended,
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

async fn tunnel_once(https: &Https, node: &Node, backoff: &mut Backoff) -> anyhow::Result<()> {
    let connection = https.upgrade(tunnel::PATH, tunnel::PROTOCOL).await?;
    tracing::info!("tunnel open");
    backoff.reset();
    tunnel::agent::accept(connection, |stream| {
        let node = node.clone();
        tokio::spawn(async move { node.serve(stream).await });
    })
    .await?;
    Ok(())
}
