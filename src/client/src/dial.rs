//! TLS connections to servers named by a URL: beneath the HTTPS transport, and for whoever speaks something else on
//! such a connection (joining, the agent's tunnel, benches).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::resolve::{ResolveError, Resolver};

/// For one address, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("not an https://HOST:PORT address")]
    Address,
    #[error("name cannot be resolved")]
    Resolve(#[from] ResolveError),
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Opens connections, all with the same idea of whom to trust.
pub struct Dialer {
    tls: TlsConnector,
    resolver: Resolver,
    /// Whom the certificate must be for, whatever the address; else it must be for the host called.
    name: Option<ServerName<'static>>,
}

/// In the certificate of every API server, and in no node's.
const API_SERVER: &str = "kubernetes.default.svc";

impl Dialer {
    pub fn new(tls: ClientConfig) -> Self {
        Self { tls: TlsConnector::from(Arc::new(tls)), resolver: Resolver::default(), name: None }
    }

    /// Takes any server of the cluster, wherever it is, and nobody else: a node's certificate is of the same CA, and it is
    /// for the node's address.
    #[must_use]
    pub fn to_api_server(self) -> Self {
        Self { name: ServerName::try_from(API_SERVER).ok(), ..self }
    }

    /// Connects to `server`, `https://HOST:PORT`: to the first of its addresses that answers.
    pub async fn dial(&self, server: &str) -> Result<TlsStream<TcpStream>, DialError> {
        let target = Target::parse(server).ok_or(DialError::Address)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(target.host.clone()).map_err(|_invalid| DialError::Address)?,
        };
        self.first(&target, |address| self.handshake(address, &name)).await
    }

    /// The same without TLS, for `http://HOST:PORT`.
    pub async fn dial_plain(&self, server: &str) -> Result<TcpStream, DialError> {
        let target = Target::parse_as(server, "http", 80).ok_or(DialError::Address)?;
        self.first(&target, connect).await
    }

    async fn first<T, F: Future<Output = io::Result<T>>>(
        &self,
        target: &Target,
        connect: impl Fn(SocketAddr) -> F,
    ) -> Result<T, DialError> {
        let mut last = DialError::Address;
        for address in self.resolver.resolve(&target.host).await? {
            match tokio::time::timeout(CONNECT_TIMEOUT, connect((address, target.port).into())).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(elapsed) => last = elapsed.into(),
            }
        }
        Err(last)
    }

    async fn handshake(&self, address: SocketAddr, name: &ServerName<'static>) -> io::Result<TlsStream<TcpStream>> {
        self.tls.connect(name.clone(), connect(address).await?).await
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// One server's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

impl Target {
    pub(crate) fn parse(server: &str) -> Option<Self> {
        Self::parse_as(server, "https", 443)
    }

    fn parse_as(server: &str, scheme: &str, port: u16) -> Option<Self> {
        let uri: Uri = server.parse().ok()?;
        if uri.scheme_str() != Some(scheme) {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(port) })
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
