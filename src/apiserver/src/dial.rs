//! The way from the API server to a node: a byte stream that speaks HTTP/1.1 to that node's kubelet API. The stream
//! is already authenticated and encrypted by whoever made it (an agent's own outbound connection, or a socket pair
//! within this process), so nothing here knows about TLS. Called by the pods, nodes and services proxies.

use std::{io, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A full-duplex byte stream to a node.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// Opens streams to nodes.
pub trait NodeDialer: Send + Sync + 'static {
    /// A new stream to the kubelet API of `node`. An unknown or disconnected node is an error of kind `NotConnected`.
    fn dial(&self, node: String) -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>>;

    /// A new TCP stream to `target` as seen from `node`; used to proxy to pods and services. `None` lets any node
    /// that reaches the pod network do it.
    fn dial_tcp(&self, node: Option<String>, target: SocketAddr)
    -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>>;
}

/// For a cluster without nodes (tests, a server without an agent): every dial fails as not connected.
pub struct NoNodes;

impl NodeDialer for NoNodes {
    fn dial(&self, node: String) -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>> {
        Box::pin(
            async move { Err(io::Error::new(io::ErrorKind::NotConnected, format!("node {node} is not connected"))) },
        )
    }

    fn dial_tcp(&self, _: Option<String>, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn NodeStream>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(target).await?;
            Ok(Box::new(stream) as Box<dyn NodeStream>)
        })
    }
}

/// Shared handle on the configured dialer.
pub(crate) type SharedDialer = Arc<dyn NodeDialer>;
