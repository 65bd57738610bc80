//! The server's end: keeps one tunnel per node and opens streams through it.

use super::pulse::{self, Pulse};
use super::relief::{self, Relief};
use super::{MAX_STREAMS, multiplexing};
use futures::channel::oneshot;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

type Reply = oneshot::Sender<Result<yamux::Stream, yamux::ConnectionError>>;

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the tunnel of node {0:?} to this server is not up: rk does not run there, or cannot reach this server")]
    NotConnected(String),
    #[error("the tunnel of node {0:?} to this server was lost")]
    Lost(String),
    #[error("node {0:?} has {MAX_STREAMS} streams open already")]
    Busy(String),
}

/// One node's tunnel, as those see it who want streams.
#[derive(Debug, Clone)]
struct Tunnel {
    requests: mpsc::Sender<Reply>,
    room: Arc<Semaphore>,
    /// Ends the tunnel: the node has opened another.
    replaced: CancellationToken,
}

/// All nodes' tunnels. A node that connects again replaces its former tunnel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tunnels {
    nodes: Arc<Mutex<HashMap<String, Tunnel>>>,
}

impl Tunnels {
    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Tunnel>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream to `node`.
    pub(crate) async fn open(&self, node: &str) -> Result<Stream, TunnelError> {
        let tunnel = self.nodes().get(node).cloned().ok_or_else(|| TunnelError::NotConnected(node.to_owned()))?;
        let room = tunnel.room.try_acquire_owned().map_err(|_| TunnelError::Busy(node.to_owned()))?;
        let (reply, stream) = oneshot::channel();
        let lost = || TunnelError::Lost(node.to_owned());
        tunnel.requests.send(reply).await.map_err(|_| lost())?;
        match stream.await {
            Ok(Ok(stream)) => Ok(Stream { inner: stream.compat(), _room: room }),
            Ok(Err(_)) | Err(_) => Err(lost()),
        }
    }

    /// Drives the tunnel of `node` over `connection` until it ends.
    pub(crate) async fn serve(&self, node: String, connection: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let (sender, requests) = mpsc::channel(16);
        let replaced = CancellationToken::new();
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        let tunnel = Tunnel { requests: sender.clone(), room, replaced: replaced.clone() };
        // What still waits for the former connection would wait for nothing.
        if let Some(former) = self.nodes().insert(node.clone(), tunnel) {
            former.replaced.cancel();
        }
        tracing::info!(%node, "node connected");
        let (connection, pulse) = pulse::listen(connection.compat());
        let (connection, relief) = relief::relieve(connection);
        let connection = yamux::Connection::new(connection, multiplexing(), yamux::Mode::Client);
        let ended = replaced.run_until_cancelled(drive(connection, (pulse, relief), requests)).await.unwrap_or(Ok(()));
        self.forget(&node, &sender);
        tracing::info!(%node, error = ended.err().map(tracing::field::display), "node disconnected");
    }

    /// Unless another tunnel has taken its place.
    fn forget(&self, node: &str, tunnel: &mpsc::Sender<Reply>) {
        let mut nodes = self.nodes();
        if nodes.get(node).is_some_and(|current| current.requests.same_channel(tunnel)) {
            nodes.remove(node);
        }
    }
}

/// Opens a stream per request. yamux makes progress only while polled for inbound streams, which this side never
/// accepts: an agent has no business opening any.
async fn drive<T>(
    mut connection: yamux::Connection<T>,
    (mut pulse, relief): (Pulse, Relief),
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
                Poll::Pending if relief.is_given() => {}
                Poll::Pending => return pulse.poll_lost(context).map(|silent| Err(silent.into())),
            }
        }
    })
    .await
}

/// A stream to a node's HTTP API; counts against the tunnel's limit until it is dropped.
pub(crate) struct Stream {
    inner: Compat<yamux::Stream>,
    _room: OwnedSemaphorePermit,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
