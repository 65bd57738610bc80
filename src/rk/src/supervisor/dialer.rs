//! How the API server reaches nodes: the node of this process over a pipe, others through their tunnels.

use crate::tunnel::server::{TunnelError, Tunnels};
use apiserver::{NodeDialer, NodeStream};
use futures::future::BoxFuture;
use node::Node;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;

const PIPE_BYTES: usize = 64 * 1024;

/// The local node is set once it has started.
#[derive(Clone, Default)]
pub(crate) struct Dialer {
    local: Arc<OnceLock<(String, Node)>>,
    tunnels: Tunnels,
}

impl Dialer {
    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    pub(crate) fn set_local(&self, name: &str, node: Node) {
        if self.local.set((name.to_owned(), node)).is_err() {
            tracing::error!("the local node was set twice");
        }
    }
}

impl NodeDialer for Dialer {
    fn dial(&self, node: String) -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>> {
        let dialer = self.clone();
        Box::pin(async move {
            if let Some((name, local)) = dialer.local.get()
                && *name == node
            {
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                let local = local.clone();
                tokio::spawn(async move { local.serve(theirs).await });
                return Ok(Box::new(ours) as Box<dyn NodeStream>);
            }
            let stream = dialer.tunnels.open(&node).await;
            stream.map(|stream| Box::new(stream) as Box<dyn NodeStream>).map_err(|error| match error {
                TunnelError::NotConnected(_) => io::Error::new(io::ErrorKind::NotConnected, error),
                TunnelError::Lost(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
                TunnelError::Busy(_) => io::Error::new(io::ErrorKind::QuotaExceeded, error),
            })
        })
    }

    // The pod network spans the nodes, this server's own included.
    fn dial_tcp(&self, _: Option<String>, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(target).await?) as Box<dyn NodeStream>) })
    }
}
