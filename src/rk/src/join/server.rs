//! The server's side of a join: checks the token, ties the node's name to the machine, certifies its keys.

use super::{JoinRequest, JoinResponse};
use crate::config::ClusterNetwork;
use crate::members::tokens::shared::{ClusterTokens, TokensError};
use crate::server_list;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Api;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use objects::names::dns1123_subdomain;
use pki::{Ca, Identity, Leaf};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use storage::Store;

const NAMESPACE: &str = "kube-system";
const HASH_KEY: &str = "hash";
/// How long a name is kept for a machine whose node is not there (yet).
const CLAIM_HOLDS: SignedDuration = SignedDuration::from_secs(60);

/// Why a join is refused; each text reaches the person at the joining machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token is not this cluster's: run `rk token` on the server to see the right one")]
    Token,
    #[error("the token expired at {0}: make another with `rk token create` on the server")]
    Expired(String),
    #[error(
        "node name {0:?} belongs to another machine: choose another with --node-name, or on the server run \
         `kubectl delete node {0}` if that machine is gone"
    )]
    NameTaken(String),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the server could not look up its secrets")]
    Store(#[source] kube::Error),
    #[error("the server could not look up the cluster's tokens")]
    Tokens(#[from] TokensError),
    #[error("a certificate request was refused")]
    Certificate(#[from] pki::CaError),
}

impl Refusal {
    pub(crate) fn status(&self) -> http::StatusCode {
        match self {
            Self::Token | Self::Expired(_) => http::StatusCode::UNAUTHORIZED,
            Self::NameTaken(..) => http::StatusCode::FORBIDDEN,
            Self::Malformed(_) | Self::Certificate(_) => http::StatusCode::BAD_REQUEST,
            Self::Store(_) | Self::Tokens(_) => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What the server needs to answer joins.
#[derive(Clone)]
pub(crate) struct Joins {
    pub(crate) ca: Ca,
    pub(crate) tokens: ClusterTokens,
    pub(crate) network: ClusterNetwork,
    pub(crate) store: Store,
    /// How long an agent's certificates hold.
    pub(crate) certificate_life: SignedDuration,
    pub(crate) client: kube::Client,
}

/// What an agent shows to be let in.
pub(crate) struct Proof<'a> {
    /// The request's Authorization header: a token.
    pub(crate) authorization: Option<&'a str>,
    /// The node whose certificate the connection has.
    pub(crate) node: Option<&'a str>,
}

impl Joins {
    /// With a token, a machine joins under a free name or its own; with the node's certificate, it renews that one.
    pub(crate) async fn join(&self, proof: Proof<'_>, body: &[u8]) -> Result<JoinResponse, Refusal> {
        match (proof.authorization, proof.node) {
            (None, Some(_)) => {}
            (authorization, _) => {
                let (user, secret) = authorization.and_then(basic).ok_or(Refusal::Token)?;
                self.check_token(&user, &secret).await?;
            }
        }
        let request: JoinRequest =
            serde_json::from_slice(body).map_err(|_| Refusal::Malformed("the join request is malformed"))?;
        if proof.authorization.is_none() && proof.node != Some(request.node.as_str()) {
            return Err(Refusal::NameTaken(request.node));
        }
        if request.machine_secret.len() < 16 {
            return Err(Refusal::Malformed("the machine secret is too short"));
        }
        if !dns1123_subdomain(&request.node).is_empty() || is_servers_own(&request.node) {
            return Err(Refusal::Malformed("this is no name for a node: choose another with --node-name"));
        }
        self.claim_name(&request.node, &request.machine_secret).await?;
        let now = Timestamp::now();
        let client = Leaf::Client(Identity::node(&request.node));
        let serving = Leaf::Server {
            common_name: format!("system:node:{}", request.node),
            dns_names: vec![request.node.clone()],
            addresses: nodes_own(request.addresses, &self.network, &self.servers_addresses()),
        };
        tracing::info!(node = %request.node, "node joins");
        Ok(JoinResponse {
            client_cert: self.ca.sign_request(&request.client_request, &client, now, self.certificate_life)?,
            serving_cert: self.ca.sign_request(&request.serving_request, &serving, now, self.certificate_life)?,
            network: self.network.clone(),
            servers: self.servers().await,
        })
    }

    fn servers_addresses(&self) -> Vec<IpAddr> {
        let addresses = self.store.members().into_iter().flat_map(|known| known.member.addresses);
        addresses.filter_map(|address| Some(address.parse::<SocketAddr>().ok()?.ip())).collect()
    }

    /// What a machine could learn as a node, told at once: it need not begin at the server that it joins by.
    async fn servers(&self) -> Vec<String> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), server_list::NAMESPACE);
        let label = format!("{}={}", server_list::SERVICE_LABEL, server_list::SERVICE);
        match slices.list(&ListParams::default().labels(&label)).await {
            Ok(slices) => server_list::of_slices(&slices),
            Err(error) => {
                tracing::debug!(%error, "the joining machine is not told of the servers");
                Vec::new()
            }
        }
    }

    pub(crate) async fn check_token(&self, user: &str, secret: &str) -> Result<(), Refusal> {
        let tokens = self.tokens.current().await?;
        // Whoever may be a server may as well be less.
        if tokens.node.accepts(user, secret) || tokens.server.accepts(user, secret) {
            return Ok(());
        }
        let name = format!("bootstrap-token-{user}");
        let known = user.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let stored = match known {
            true => self.secrets().get_opt(&name).await.map_err(Refusal::Store)?.ok_or(Refusal::Token)?,
            false => return Err(Refusal::Token),
        };
        let data = stored.data.unwrap_or_default();
        let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
        let right = text("token-secret").is_some_and(|wanted| Sha256::digest(wanted) == Sha256::digest(secret));
        if !right {
            return Err(Refusal::Token);
        }
        match text("expiration").map(|expiration| (expiration, expiration.parse::<Timestamp>())) {
            Some((_, Ok(at))) if at > Timestamp::now() => Ok(()),
            Some((expiration, _)) => Err(Refusal::Expired(expiration.to_owned())),
            None => Ok(()),
        }
    }

    /// The first machine to join under a name keeps it: a stolen token must not take over a living node.
    async fn claim_name(&self, node: &str, machine_secret: &str) -> Result<(), Refusal> {
        let name = format!("{node}.node-password.rk");
        let hash = STANDARD.encode(Sha256::digest(machine_secret));
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            immutable: Some(true),
            data: Some(BTreeMap::from([(HASH_KEY.to_owned(), ByteString(hash.clone().into_bytes()))])),
            ..Secret::default()
        };
        let taken = || Refusal::NameTaken(node.to_owned());
        match self.secrets().get_opt(&name).await.map_err(Refusal::Store)? {
            Some(claim) if claims(&claim, &hash) => return Ok(()),
            Some(claim) if !self.given_up(node, &claim).await? => return Err(taken()),
            // That claim and no other: somebody else may have joined under the name meanwhile.
            Some(claim) => {
                let preconditions = Preconditions { uid: claim.metadata.uid, resource_version: None };
                let params = DeleteParams::default().preconditions(preconditions);
                match self.secrets().delete(&name, &params).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                    Err(error) => return Err(Refusal::Store(error)),
                }
            }
            // A server's own node never joined.
            None if self.node_exists(node).await? => return Err(taken()),
            None => {}
        }
        match self.secrets().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Err(taken()),
            Err(error) => Err(Refusal::Store(error)),
        }
    }

    /// Whether somebody deleted the node that the claim was for. A claim without a node may be a join that goes on
    /// right now, so a new one holds anyway.
    async fn given_up(&self, node: &str, claim: &Secret) -> Result<bool, Refusal> {
        let made = claim.metadata.creation_timestamp.as_ref().map(|at| at.0);
        if made.is_none_or(|made| Timestamp::now().duration_since(made) < CLAIM_HOLDS) {
            return Ok(false);
        }
        Ok(!self.node_exists(node).await?)
    }

    async fn node_exists(&self, node: &str) -> Result<bool, Refusal> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        Ok(nodes.get_opt(node).await.map_err(Refusal::Store)?.is_some())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// Names that the API server's own certificate is for: a node must not get one for them.
pub(crate) fn is_servers_own(node: &str) -> bool {
    node == "localhost" || node == "kubernetes" || node.starts_with("kubernetes.default")
}

/// Addresses that a node may have a certificate for: not those by which somebody finds a server.
fn nodes_own(asked: Vec<IpAddr>, network: &ClusterNetwork, servers: &[IpAddr]) -> Vec<IpAddr> {
    let service = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if network.service_cidr.contains(ip));
    let of_servers = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || service(ip) || servers.contains(ip);
    asked.into_iter().filter(|ip| !of_servers(ip)).collect()
}

fn claims(claim: &Secret, hash: &str) -> bool {
    claim.data.as_ref().and_then(|data| data.get(HASH_KEY)).is_some_and(|value| value.0 == hash.as_bytes())
}

pub(crate) fn basic(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let (user, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::Given;

    #[test]
    fn a_node_gets_no_certificate_for_an_address_of_a_server() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let asked = ["10.0.0.9", "10.0.0.1", "127.0.0.1", "::1", "0.0.0.0", "10.43.0.1"].map(ip).to_vec();
        let network = Given::defaults().network;
        assert_eq!(nodes_own(asked, &network, &[ip("10.0.0.1")]), [ip("10.0.0.9")]);
    }
}
