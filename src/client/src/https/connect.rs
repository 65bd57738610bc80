//! Opens the connection beneath the HTTP client: to the server that answered last, or else to the next of the list
//! that does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::ServerList;
use crate::dial::{DialError, Dialer};

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no API server could be reached; last tried {server}")]
    Unreachable { server: String, source: DialError },
    #[error("the list of API servers is empty")]
    NoServers,
}

#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    servers: ServerList,
    dialer: Dialer,
    /// Position in the list of the server to try first: the one that answered last.
    first: AtomicUsize,
}

impl Connector {
    pub(super) fn new(servers: ServerList, dialer: Dialer) -> Self {
        Self { shared: Arc::new(Shared { servers, dialer, first: AtomicUsize::new(0) }) }
    }
}

impl Shared {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let servers = self.servers.get();
        let first = self.first.load(Ordering::Relaxed);
        let mut last = ConnectError::NoServers;
        for position in (0..servers.len()).map(|offset| (first + offset) % servers.len()) {
            let server = &servers[position];
            match self.dialer.dial(server).await {
                Ok(stream) => {
                    self.first.store(position, Ordering::Relaxed);
                    return Ok(Stream { tls: TokioIo::new(stream) });
                }
                Err(source) => last = ConnectError::Unreachable { server: server.clone(), source },
            }
        }
        Err(last)
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _pooled_name: Uri) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.connect().await })
    }
}

/// A TLS connection that always speaks HTTP/2.
pub(super) struct Stream {
    tls: TokioIo<TlsStream<TcpStream>>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().negotiated_h2()
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write_vectored(cx, bufs)
    }
}
