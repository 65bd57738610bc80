//! `rk agent`: join, then run a node, its API reached through the tunnels this side opens to
//! every server.

use super::worker;
use crate::config::AgentConfig;
use crate::https::Https;
use crate::join::client::{membership, verified_tls};
use crate::join::identity::Presented;
use crate::join::renewal;
use crate::server_list;
use crate::tunnel::standing::{self, Caller};
use anyhow::Context;
use client::{Credentials, HttpsConfig, Informers, ServerList};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub(crate) async fn run(config: AgentConfig) -> anyhow::Result<()> {
    worker::check("rk agent")?;
    runtime::open_files::raise().context("raise the limit of open files")?;
    let kept = server_list::path(&config.node.data_dir);
    let servers = ServerList::spread(config.servers.clone(), &config.node.name, server_list::load(&kept));
    let membership = tokio::select! {
        joined = membership(&config, &servers) => joined?,
        stopped = super::asked_to_stop() => return stopped,
    };
    tracing::info!(node = %config.node.name, servers = %servers.candidates().join(" "), "joined");
    let presented = Presented::new(&membership.client)?;
    let stop = CancellationToken::new();
    let client = client::https(HttpsConfig {
        servers: servers.clone(),
        ca_pem: membership.ca_pem.clone().into_bytes(),
        credentials: Credentials::Changing(presented.clone()),
    })?;
    let informers = Informers::new(client.clone());
    tokio::spawn(server_list::follow(servers.clone(), informers.clone(), Some(kept)));
    let worker =
        worker::start(&config.node, &membership.network, client, informers.clone(), None, stop.clone()).await?;
    crate::notify::ready();
    let (ca_pem, identity) = (membership.ca_pem.clone(), presented.clone());
    let caller: Caller = Arc::new(move |server| Ok(Https::new(server, verified_tls(&ca_pem, Some(&identity))?)));
    let tunnels = standing::keep(servers.standing(), None, standing::serve(caller, worker.node.clone()), stop.clone());
    let tunnels = tokio::spawn(tunnels);
    let renewing = tokio::spawn(renewal::keep_fresh(config, servers, membership, presented, stop.clone()));
    super::asked_to_stop().await?;
    tracing::info!("stopping; containers go on running (rk kill-all ends them)");
    stop.cancel();
    informers.shutdown().await;
    worker.node.stopped().await;
    tunnels.await?;
    renewing.await?;
    Ok(())
}
