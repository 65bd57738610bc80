//! Connections to registries: names resolved without NSS, plain TCP or TLS with the host's certificate authorities.

use super::{ImageError, RegistriesConfig};
use hickory_resolver::TokioResolver;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
/// Where distributions keep all certificate authorities in one file.
const CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How to speak to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Security {
    Verified,
    /// TLS with whatever certificate.
    Unverified,
    Plain,
}

#[derive(Debug)]
pub(super) struct Dialer {
    /// By `host` or `host:port`.
    ca_files: BTreeMap<String, PathBuf>,
}

impl Dialer {
    pub(super) fn new(config: &RegistriesConfig) -> Self {
        Self { ca_files: config.ca_files.clone() }
    }

    pub(super) async fn dial(&self, host: &str, port: u16, security: Security) -> Result<Box<dyn Io>, ImageError> {
        let unreachable = |reason: String| ImageError::Unreachable { host: format!("{host}:{port}"), reason };
        let dialing = async {
            let tcp = self.tcp(host, port).await.map_err(unreachable)?;
            if security == Security::Plain {
                return Ok(Box::new(tcp) as Box<dyn Io>);
            }
            let name = ServerName::try_from(bare(host).to_owned()).map_err(|e| unreachable(e.to_string()))?;
            let connector = TlsConnector::from(Arc::new(self.tls(host, port, security)?));
            let tls = connector.connect(name, tcp).await.map_err(|e| unreachable(format!("TLS: {e}")))?;
            Ok(Box::new(tls) as Box<dyn Io>)
        };
        tokio::time::timeout(CONNECT_PATIENCE, dialing).await.unwrap_or_else(|_| Err(unreachable("timed out".into())))
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let addresses = resolve(host).await?;
        let mut last = format!("{host} has no address");
        for address in addresses {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    fn tls(&self, host: &str, port: u16, security: Security) -> Result<ClientConfig, ImageError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| ImageError::Unsupported(format!("TLS: {e}")))?;
        let mut config = if security == Security::Unverified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            builder.with_root_certificates(self.roots(host, port)?)
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The machine's authorities and the registry's own. Read anew each time, so that a changed bundle counts without a
    /// restart.
    fn roots(&self, host: &str, port: u16) -> Result<RootCertStore, ImageError> {
        let own =
            self.ca_files.get(&format!("{host}:{port}")).or_else(|| self.ca_files.get(host)).map(PathBuf::as_path);
        let machine = CA_FILES.iter().map(Path::new).find(|path| path.exists());
        if own.is_none() && machine.is_none() {
            let what = "TLS without certificate authorities (install ca-certificates)".into();
            return Err(ImageError::Unsupported(what));
        }
        let mut roots = RootCertStore::empty();
        for file in machine.into_iter().chain(own) {
            let unreadable = |error: rustls::pki_types::pem::Error| ImageError::Io {
                path: file.to_path_buf(),
                source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
            };
            let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect::<Result<Vec<_>, _>>();
            let (added, ignored) = roots.add_parsable_certificates(certificates.map_err(unreadable)?);
            tracing::trace!(?file, added, ignored, "certificate authorities read");
        }
        Ok(roots)
    }
}

/// Without the brackets that IPv6 addresses have in URLs.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Without NSS: literals, `localhost`, then /etc/hosts and the name servers of /etc/resolv.conf.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let bare = bare(host);
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    if bare == "localhost" {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
    }
    let resolver = TokioResolver::builder_tokio().and_then(|b| b.build()).map_err(|e| format!("DNS set-up: {e}"))?;
    let found = resolver.lookup_ip(bare).await.map_err(|e| format!("looking up {bare}: {e}"))?;
    Ok(found.iter().collect())
}

/// Whether a registry's host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = bare(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// For registries the administrator has called insecure.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_names() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("registry.example"));
    }
}
