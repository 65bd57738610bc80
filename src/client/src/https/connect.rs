//! Opens the connection beneath the HTTP client: to the server that answered last, or else to the next of the list
//! that does.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::ServerList;
use super::resolve::{ResolveError, Resolver};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One server's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn parse(server: &str) -> Option<Self> {
        let uri: Uri = server.parse().ok()?;
        if uri.scheme_str() != Some("https") {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(443) })
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no API server could be reached; last tried {server}")]
    Unreachable { server: String, source: DialError },
    #[error("the list of API servers is empty")]
    NoServers,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("not an https://HOST:PORT address")]
    Address,
    #[error("name cannot be resolved")]
    Resolve(#[from] ResolveError),
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    servers: ServerList,
    tls: TlsConnector,
    resolver: Resolver,
    /// Position in the list of the server to try first: the one that answered last.
    first: AtomicUsize,
}

impl Connector {
    pub(super) fn new(servers: ServerList, tls: Arc<ClientConfig>) -> Self {
        let tls = TlsConnector::from(tls);
        Self { shared: Arc::new(Shared { servers, tls, resolver: Resolver::default(), first: AtomicUsize::new(0) }) }
    }
}

impl Shared {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let servers = self.servers.get();
        let first = self.first.load(Ordering::Relaxed);
        let mut last = ConnectError::NoServers;
        for position in (0..servers.len()).map(|offset| (first + offset) % servers.len()) {
            let server = &servers[position];
            match self.dial(server).await {
                Ok(stream) => {
                    self.first.store(position, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(source) => last = ConnectError::Unreachable { server: server.clone(), source },
            }
        }
        Err(last)
    }

    async fn dial(&self, server: &str) -> Result<Stream, DialError> {
        let target = Target::parse(server).ok_or(DialError::Address)?;
        let name = ServerName::try_from(target.host.clone()).map_err(|_invalid| DialError::Address)?;
        let mut last = DialError::Address;
        for address in self.resolver.resolve(&target.host).await? {
            match tokio::time::timeout(CONNECT_TIMEOUT, self.handshake((address, target.port).into(), &name)).await? {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn handshake(&self, address: SocketAddr, name: &ServerName<'static>) -> io::Result<Stream> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Stream { tls: TokioIo::new(self.tls.connect(name.clone(), tcp).await?) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let target = |host: &str, port| Some(Target { host: host.into(), port });
        assert_eq!(Target::parse("https://10.0.0.1:6443"), target("10.0.0.1", 6443));
        assert_eq!(Target::parse("https://[fd00::1]:6443"), target("fd00::1", 6443));
        assert_eq!(Target::parse("https://api.lab.example"), target("api.lab.example", 443));
        assert_eq!(Target::parse("http://10.0.0.1:6443"), None);
        assert_eq!(Target::parse("10.0.0.1:6443"), None);
    }
}
