//! The agent's side of a join: verify the server by the token's CA hash, then have fresh keys certified.

use super::{CA_PATH, JOIN_PATH, JoinRequest, JoinResponse};
use crate::config::{AgentConfig, ClusterNetwork};
use crate::https::{Https, Refused};
use crate::join::identity::{Presented, certified_key};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::backoff::Backoff;
use client::{ServerList, tls};
use http::{Request, StatusCode, header};
use jiff::Timestamp;
use pki::{Identity, JoinToken, KeyCert, files};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// What a joined agent holds.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) ca_pem: String,
    pub(crate) client: KeyCert,
    pub(crate) network: ClusterNetwork,
}

/// The membership kept on disk when it is still good; else joins, waiting for a server as long as it takes.
/// A refusal (token, name, other cluster) is final.
pub(crate) async fn membership(config: &AgentConfig, servers: &ServerList) -> anyhow::Result<Membership> {
    let files = Files::of(config);
    if let Some(kept) = files.load(&config.node.name, &config.token, Timestamp::now())? {
        return Ok(kept);
    }
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut told = false;
    loop {
        match rejoin(config, servers).await {
            Ok(membership) => return Ok(membership),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let servers = servers.candidates().join(" ");
                    tracing::warn!(%servers, error = format!("{error:#}"), "server not reachable; trying until it is");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// The server answered, and said no.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server at {0} is another cluster than the token's (its CA hash differs): \
     run `rk token` on that server to see its token, or correct --server"
)]
struct OtherCluster(String);

/// Whether the cluster has refused: every server of it would.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status != StatusCode::SERVICE_UNAVAILABLE)
}

pub(crate) fn is_final(error: &anyhow::Error) -> bool {
    error.is::<OtherCluster>() || is_refusal(error)
}

/// The Authorization header that shows a token.
pub(crate) fn basic(token: &JoinToken) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", token.user(), token.secret())))
}

/// What a machine is let in for.
#[derive(Clone, Copy)]
enum Shown<'a> {
    /// The cluster's CA is not known yet but by the token's hash.
    Token,
    Certificate(&'a Membership, &'a Arc<Presented>),
}

/// Joins, by the token, at any server; again, if need be.
pub(super) async fn rejoin(config: &AgentConfig, servers: &ServerList) -> anyhow::Result<Membership> {
    certified(config, servers, Shown::Token).await
}

/// New keys and certificates for a member, who shows the certificate it has.
pub(super) async fn renew(
    config: &AgentConfig,
    servers: &ServerList,
    membership: &Membership,
    presented: &Arc<Presented>,
) -> anyhow::Result<Membership> {
    certified(config, servers, Shown::Certificate(membership, presented)).await
}

/// Asks one server after another until one answers. Of the errors, one that may pass is told rather than that some
/// server is another cluster's.
async fn certified(config: &AgentConfig, servers: &ServerList, shown: Shown<'_>) -> anyhow::Result<Membership> {
    let mut last: Option<anyhow::Error> = None;
    for server in servers.candidates() {
        match certified_by(&server, config, servers, shown).await {
            Ok(membership) => return Ok(membership),
            Err(error) if is_refusal(&error) => return Err(error),
            Err(error) => {
                servers.failed(&server);
                if !error.is::<OtherCluster>() || last.is_none() {
                    last = Some(error);
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("the list of servers is empty")))
}

async fn certified_by(
    server: &str,
    config: &AgentConfig,
    servers: &ServerList,
    shown: Shown<'_>,
) -> anyhow::Result<Membership> {
    let (ca_pem, identity, authorization) = match shown {
        Shown::Token => {
            let ca_pem = trusted_ca(server, &config.token).await?;
            (ca_pem, None, Some(basic(&config.token)))
        }
        Shown::Certificate(membership, presented) => (membership.ca_pem.clone(), Some(presented), None),
    };
    let https = Https::new(server, verified_tls(&ca_pem, identity)?).by_name();
    let (membership, known) = certify(config, ca_pem, &https, authorization).await?;
    servers.learn(known);
    Ok(membership)
}

/// Has fresh keys certified. Also says which servers the one that answered knows.
async fn certify(
    config: &AgentConfig,
    ca_pem: String,
    https: &Https,
    authorization: Option<String>,
) -> anyhow::Result<(Membership, Vec<String>)> {
    let files = Files::of(config);
    let (client_key, client_request) = pki::authority::signing_request()?;
    let (serving_key, serving_request) = pki::authority::signing_request()?;
    let request = JoinRequest {
        node: config.node.name.clone(),
        machine_secret: files.machine_secret()?,
        addresses: vec![config.node.ip],
        client_request,
        serving_request,
    };
    let mut http = Request::post(JOIN_PATH).header(header::CONTENT_TYPE, "application/json");
    if let Some(authorization) = authorization {
        http = http.header(header::AUTHORIZATION, authorization);
    }
    let answer = https.send(http.body(Bytes::from(serde_json::to_vec(&request)?))?).await?;
    let answer: JoinResponse = serde_json::from_slice(&answer).context("the server's answer is malformed")?;
    let client = KeyCert { key_pem: client_key, cert_pem: answer.client_cert };
    let serving = KeyCert { key_pem: serving_key, cert_pem: answer.serving_cert };
    let membership = Membership { ca_pem, client, network: answer.network };
    files.store(&membership, &serving)?;
    Ok((membership, answer.servers))
}

/// Fetches the CA certificate, and trusts it only when the token's hash says so.
pub(crate) async fn trusted_ca(server: &str, token: &JoinToken) -> anyhow::Result<String> {
    let https = Https::new(server, tls::unverified()?);
    let pem = https.send(Request::get(CA_PATH).body(Bytes::new())?).await?;
    let der = CertificateDer::from_pem_slice(&pem).context("the server sent no CA certificate")?;
    if !token.is_for(&der) {
        bail!(OtherCluster(server.to_owned()));
    }
    String::from_utf8(pem.into()).context("the server sent no CA certificate")
}

/// TLS that trusts the cluster's CA alone, and shows `identity` when there is one.
pub(crate) fn verified_tls(ca_pem: &str, identity: Option<&Arc<Presented>>) -> anyhow::Result<ClientConfig> {
    let mut tls = tls::trusting(ca_pem.as_bytes(), None)?;
    if let Some(identity) = identity {
        tls.client_auth_cert_resolver = identity.clone();
    }
    Ok(tls)
}

/// The agent's folder of keys and certificates.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn of(config: &AgentConfig) -> Self {
        Self { folder: config.node.data_dir.join("agent/pki") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The secret that ties the node's name to this machine; made once.
    fn machine_secret(&self) -> anyhow::Result<String> {
        let path = self.path("machine-secret");
        if let Some(secret) = files::read_if_present(&path)? {
            return Ok(secret);
        }
        let secret = JoinToken::random_secret();
        files::write_private(&path, secret.as_bytes())?;
        Ok(secret)
    }

    fn store(&self, membership: &Membership, serving: &KeyCert) -> anyhow::Result<()> {
        let write = |name: &str, content: &[u8]| files::write_private(&self.path(name), content);
        write("serving.key", serving.key_pem.as_bytes())?;
        write("serving.crt", serving.cert_pem.as_bytes())?;
        write("client.key", membership.client.key_pem.as_bytes())?;
        write("network.json", &serde_json::to_vec(&membership.network)?)?;
        write("ca.crt", membership.ca_pem.as_bytes())?;
        // Last: its presence says that all the others are whole.
        write("client.crt", membership.client.cert_pem.as_bytes())?;
        Ok(())
    }

    /// What an earlier join left, when it is of the token's cluster, for this node's name, and still holds.
    fn load(&self, node: &str, token: &JoinToken, now: Timestamp) -> anyhow::Result<Option<Membership>> {
        let read = |name: &str| files::read_if_present(&self.path(name));
        let Some(cert_pem) = read("client.crt")? else { return Ok(None) };
        let (Some(key_pem), Some(ca_pem), Some(network)) =
            (read("client.key")?, read("ca.crt")?, read("network.json")?)
        else {
            return Ok(None);
        };
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("read the kept CA certificate")?;
        if !token.is_for(&ca_der) {
            bail!(
                "this machine joined another cluster before; to join this one, remove {}",
                Path::new(&self.folder).parent().unwrap_or(&self.folder).display()
            );
        }
        let certificate = CertificateDer::from_pem_slice(cert_pem.as_bytes()).context("read client.crt")?;
        let renamed = Identity::of_certificate(&certificate) != Some(Identity::node(node));
        if renamed || pki::leaf::expired(&cert_pem, now) {
            return Ok(None);
        }
        let client = KeyCert { key_pem, cert_pem };
        // A renewal that was cut short: the key is new, its certificate never came.
        if certified_key(&client).is_ok_and(|pair| pair.keys_match().is_err()) {
            return Ok(None);
        }
        let network = serde_json::from_str(&network).context("read network.json")?;
        Ok(Some(Membership { ca_pem, client, network }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::{Ca, Leaf};

    #[test]
    fn a_membership_is_kept_for_its_cluster_and_node_name_alone() {
        let folder = std::env::temp_dir().join(format!("rk-join-files-{}", std::process::id()));
        let files = Files { folder: folder.join("agent/pki") };
        let now = Timestamp::now();
        let ca = Ca::from_pem(&Ca::generate("rk-test", now).unwrap()).unwrap();
        let client = ca.issue(&Leaf::Client(Identity::node("edge-1")), now).unwrap();
        let network = ClusterNetwork {
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            dns: "10.43.0.10".parse().unwrap(),
            domain: "cluster.local".into(),
        };
        let membership = Membership { ca_pem: ca.cert_pem().into(), client: client.clone(), network };
        files.store(&membership, &client).unwrap();
        let token = JoinToken::new(ca.cert_der(), "node", "secret");
        assert!(files.load("edge-1", &token, now).unwrap().is_some());
        assert!(files.load("edge-2", &token, now).unwrap().is_none(), "the certificate says edge-1");
        let other = JoinToken::new(b"another cluster", "node", "secret");
        assert!(files.load("edge-1", &other, now).unwrap_err().to_string().contains("another cluster"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
