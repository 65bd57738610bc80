//! The server's end: keeps one tunnel per node and opens streams through it.

use super::multiplexing;
use futures::channel::oneshot;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// A stream to a node's HTTP API.
pub(crate) type Stream = tokio_util::compat::Compat<yamux::Stream>;
type Reply = oneshot::Sender<Result<yamux::Stream, yamux::ConnectionError>>;

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("node {0:?} has no connection to this server")]
    NotConnected(String),
    #[error("the connection of node {0:?} was lost")]
    Lost(String),
}

/// All nodes' tunnels. A node that connects again replaces its former tunnel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tunnels {
    nodes: Arc<Mutex<HashMap<String, mpsc::Sender<Reply>>>>,
}

impl Tunnels {
    /// Opens a stream to `node`.
    pub(crate) async fn open(&self, node: &str) -> Result<Stream, TunnelError> {
        let requests = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned();
        let requests = requests.ok_or_else(|| TunnelError::NotConnected(node.to_owned()))?;
        let (reply, stream) = oneshot::channel();
        let lost = || TunnelError::Lost(node.to_owned());
        requests.send(reply).await.map_err(|_| lost())?;
        match stream.await {
            Ok(Ok(stream)) => Ok(stream.compat()),
            Ok(Err(_)) | Err(_) => Err(lost()),
        }
    }

    /// Drives the tunnel of `node` over `connection` until it ends.
    pub(crate) async fn serve(&self, node: String, connection: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let (sender, requests) = mpsc::channel(16);
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone(), sender.clone());
        tracing::info!(%node, "node connected");
        let connection = yamux::Connection::new(connection.compat(), multiplexing(), yamux::Mode::Client);
        let ended = drive(connection, requests).await;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&node).is_some_and(|current| current.same_channel(&sender)) {
            nodes.remove(&node);
        }
        drop(nodes);
        tracing::info!(%node, "node disconnected");
        if let Err(error) = ended {
            tracing::debug!(%node, %error, "a tunnel broke");
        }
    }
}

/// Opens a stream per request. yamux makes progress only while polled for inbound streams, which this side never
/// accepts: an agent has no business opening any.
async fn drive<T>(
    mut connection: yamux::Connection<T>,
    mut requests: mpsc::Receiver<Reply>,
) -> Result<(), yamux::ConnectionError>
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut asked: Option<Reply> = None;
    poll_fn(|context| {
        loop {
            if asked.is_none()
                && let Poll::Ready(next) = requests.poll_recv(context)
            {
                asked = next;
            }
            if asked.is_none() {
                break;
            }
            let Poll::Ready(opened) = connection.poll_new_outbound(context) else { break };
            // Whoever asked may have given up: the stream closes with the drop.
            if asked.take().is_some_and(|reply| reply.send(opened).is_err()) {
                tracing::trace!("nobody waits for the stream any more");
            }
        }
        loop {
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(stream))) => drop(stream),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn streams_reach_the_agent_and_end_with_the_tunnel() {
        let (server_end, agent_end) = tokio::io::duplex(64 * 1024);
        let tunnels = Tunnels::default();
        assert!(matches!(tunnels.open("edge").await, Err(TunnelError::NotConnected(_))));
        let served = tokio::spawn({
            let tunnels = tunnels.clone();
            async move { tunnels.serve("edge".into(), server_end).await }
        });
        let agent = tokio::spawn(crate::tunnel::agent::accept(agent_end, |mut stream| {
            tokio::spawn(async move {
                let mut got = [0; 4];
                stream.read_exact(&mut got).await.unwrap();
                got.reverse();
                stream.write_all(&got).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }));
        let mut stream = loop {
            match tunnels.open("edge").await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(b"ping").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "gnip");
        agent.abort();
        served.await.unwrap();
        assert!(matches!(tunnels.open("edge").await, Err(TunnelError::NotConnected(_))));
    }
}
