//! The side of a living server: lets servers in, takes them for members, and answers `rk member`.

use super::credentials::Credentials;
use super::kept::Settings;
use super::tokens::Rotation;
use super::tokens::shared::{ClusterTokens, TokensError};
use super::{EnterRequest, Entered, MEMBERS_PATH, Place, presence};
use crate::https::Https;
use crate::join::server::{self as agents, Joins, is_servers_own};
use crate::peers::Peers;
use bytes::Bytes;
use client::Api;
use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::Node;
use objects::names::dns1123_subdomain;
use pki::Ca;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use storage::{MemberError, MemberId, MemberStatus, Role, Store};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Why a server is not let in, or a member not changed; each text reaches the person who asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token is not this cluster's: run `rk token server` on a server to see the right one")]
    Token,
    #[error(
        "this token lets agents in, not servers: a server joins with the one that `rk token server` shows on a server"
    )]
    AgentsToken,
    #[error("{0}")]
    Malformed(&'static str),
    #[error(
        "a server {name:?} is a member of the cluster already, at {address}: choose another name with --node-name, or, if \
         that one is gone for good, run `rk member remove {name}` on a living server first"
    )]
    NameTaken { name: String, address: String },
    #[error(
        "an agent's node is called {0:?}: choose another name with --node-name, or run `kubectl delete node {0}` if that \
         machine is gone"
    )]
    NodeTaken(String),
    #[error("this cluster runs {ours}, and {theirs} is too far from it: servers may differ by one minor version")]
    Version { ours: String, theirs: String },
    #[error("this server has no part in the cluster any more: ask another one")]
    LeftBehind,
    #[error("{0:?} is no member: `rk member list` shows them")]
    NoSuchMember(String),
    #[error("{0}")]
    Member(#[from] MemberError),
    #[error("the server could not look up its nodes")]
    Nodes(#[source] kube::Error),
    #[error("the server could not check the token")]
    TokenCheck(#[source] agents::Refusal),
    #[error("{0}")]
    Tokens(#[from] TokensError),
}

impl Refusal {
    /// 503 says: ask again.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::AgentsToken => StatusCode::FORBIDDEN,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchMember(_) => StatusCode::NOT_FOUND,
            Self::NameTaken { .. } | Self::NodeTaken(_) | Self::Version { .. } => StatusCode::CONFLICT,
            Self::LeftBehind | Self::Nodes(_) | Self::TokenCheck(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Tokens(TokensError::Secret) => StatusCode::BAD_REQUEST,
            Self::Tokens(TokensError::Raced) => StatusCode::CONFLICT,
            Self::Tokens(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Member(error) => match error {
                MemberError::Busy | MemberError::NoLeader | MemberError::Unknown | MemberError::Closed => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                _ => StatusCode::CONFLICT,
            },
        }
    }
}

/// One row of `rk member list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberRow {
    pub(crate) name: String,
    /// In hex, as members are named in messages.
    pub(crate) id: String,
    /// `voter` or `learner`.
    pub(crate) role: String,
    pub(crate) leader: bool,
    pub(crate) addresses: Vec<String>,
    /// Log entries that it lacks, as the leader knows it.
    pub(crate) lag: Option<u64>,
    /// Since the server that tells last had an answer of it.
    pub(crate) heard_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberList {
    /// `ID/GENERATION`
    pub(crate) cluster: String,
    /// Name of the server whose view this is.
    pub(crate) told_by: String,
    pub(crate) members: Vec<MemberRow>,
}

#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) store: Store,
    pub(crate) ca: Ca,
    pub(crate) ca_key: Arc<str>,
    pub(crate) service_account_key: Arc<str>,
    pub(crate) tokens: ClusterTokens,
    pub(crate) settings: Settings,
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) client: kube::Client,
    pub(crate) joins: Joins,
}

impl Gate {
    /// Hands the cluster to a server: with the server token, or with a server's certificate to that server alone.
    pub(crate) async fn enter(
        &self,
        authorization: Option<&str>,
        server: Option<&str>,
        body: &[u8],
    ) -> Result<Entered, Refusal> {
        if server.is_none() {
            self.check_token(authorization).await?;
        }
        let request: EnterRequest =
            serde_json::from_slice(body).map_err(|_| Refusal::Malformed("the request is malformed"))?;
        check_version(&crate::version(), &request.version)?;
        if server.is_some_and(|certified| certified != request.name) {
            return Err(Refusal::Malformed("the certificate is another server's"));
        }
        let cluster = self.store.cluster();
        if request.generation > cluster.generation || self.store.status().excluded.is_some() {
            return Err(Refusal::LeftBehind);
        }
        let name = request.name;
        if !dns1123_subdomain(&name).is_empty() || is_servers_own(&name) {
            return Err(Refusal::Malformed("this is no name for a server: choose another with --node-name"));
        }
        let members = self.store.members();
        if let Some(known) = members.iter().find(|known| known.member.name == name) {
            return Err(Refusal::NameTaken { name, address: known.member.addresses.join(", ") });
        }
        self.check_node(&name).await?;
        let tokens = self.tokens.current().await?;
        tracing::info!(server = %name, "server is let in");
        Ok(Entered {
            cluster: cluster.id,
            generation: cluster.generation,
            ca_cert: self.ca.cert_pem().to_owned(),
            ca_key: self.ca_key.to_string(),
            service_account_key: self.service_account_key.to_string(),
            server_token: tokens.server.to_string(),
            node_token: tokens.node.to_string(),
            settings: self.settings.clone(),
            servers: members.into_iter().flat_map(|known| known.member.addresses).collect(),
        })
    }

    async fn check_token(&self, authorization: Option<&str>) -> Result<(), Refusal> {
        let (user, secret) = authorization.and_then(agents::basic).ok_or(Refusal::Token)?;
        if self.tokens.current().await?.server.has_secret(&secret) {
            return Ok(());
        }
        match self.joins.check_token(&user, &secret).await {
            Ok(()) | Err(agents::Refusal::Expired(_)) => Err(Refusal::AgentsToken),
            Err(error @ (agents::Refusal::Store(_) | agents::Refusal::Tokens(_))) => Err(Refusal::TokenCheck(error)),
            Err(_) => Err(Refusal::Token),
        }
    }

    /// A server's node may be there from an earlier life; an agent's node is another machine. Nodes cannot give
    /// themselves the label that tells.
    async fn check_node(&self, name: &str) -> Result<(), Refusal> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get_opt(name).await.map_err(Refusal::Nodes)?;
        let of_agent =
            |node: &Node| node.metadata.labels.as_ref().is_none_or(|labels| !labels.contains_key(CONTROL_PLANE));
        if node.as_ref().is_some_and(of_agent) { Err(Refusal::NodeTaken(name.to_owned())) } else { Ok(()) }
    }

    /// Takes a server for a member where it says it is.
    pub(crate) async fn place(&self, server: &str, body: &[u8]) -> Result<(), Refusal> {
        let place: Place = serde_json::from_slice(body).map_err(|_| Refusal::Malformed("the request is malformed"))?;
        if place.name != server {
            return Err(Refusal::Malformed("the certificate is another server's"));
        }
        let (id, name, addresses) = (place.id, place.name.clone(), place.addresses.join(", "));
        // It may take this member to get the leader that records where it is.
        if let Some(known) = self.store.members().into_iter().find(|known| known.id == id && known.member.name == name)
        {
            self.peers.moved(id, &known.member, &place.addresses);
        }
        // Whoever asks can do better than wait here for one.
        if self.store.reachable_leader().is_none() {
            return Err(MemberError::NoLeader.into());
        }
        match self.store.add_member(id, place.member()).await {
            Err(MemberError::NameInUse { name, id }) => {
                let known = self.store.members().into_iter().find(|known| known.id == id);
                let address = known.map(|known| known.member.addresses.join(", ")).unwrap_or_default();
                return Err(Refusal::NameTaken { name, address });
            }
            outcome => outcome?,
        }
        tracing::info!(server = %name, id = format!("{id:016x}"), %addresses, "server is a member");
        if let Err(error) = presence::remember(&self.store, &self.settings, &self.data_dir) {
            tracing::warn!(error = format!("{error:#}"), "where the other servers are could not be kept");
        }
        Ok(())
    }

    /// The members, as the leader sees them if it can be asked: only it knows how far the others are behind.
    pub(crate) async fn list(&self, here: bool) -> MemberList {
        let status = self.store.status();
        let leader = status.members.iter().find(|known| known.leader && known.id != status.id && !here);
        if let Some(leader) = leader
            && let Some(list) = self.ask_leader(leader).await
        {
            return list;
        }
        let present =
            |known: &MemberStatus| MemberRow { addresses: self.peers.addresses(known.id, &known.member), ..row(known) };
        let mut members: Vec<_> = status.members.iter().map(present).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        MemberList { cluster: status.cluster.to_string(), told_by: self.name.clone(), members }
    }

    async fn ask_leader(&self, leader: &MemberStatus) -> Option<MemberList> {
        let address = leader.member.addresses.first()?;
        let asked = async {
            self.credentials.refresh()?;
            let https = Https::new(&format!("https://{address}"), self.credentials.client_tls()?);
            let answer = https.send(Request::get(format!("{MEMBERS_PATH}?here")).body(Bytes::new())?).await?;
            anyhow::Ok(serde_json::from_slice(&answer)?)
        };
        match tokio::time::timeout(std::time::Duration::from_secs(2), asked).await {
            Ok(Ok(list)) => Some(list),
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "the leader was not asked");
                None
            }
            Err(_) => None,
        }
    }

    /// Replaces tokens on all servers at once. Who has joined stays.
    pub(crate) async fn rotate_tokens(&self, body: &[u8]) -> Result<(), Refusal> {
        let rotation: Rotation =
            serde_json::from_slice(body).map_err(|_| Refusal::Malformed("the request is malformed"))?;
        self.tokens.rotate(&rotation).await?;
        let (servers, agents) = (rotation.server.is_some(), rotation.node.is_some());
        tracing::info!(servers, agents, "the cluster's tokens are replaced");
        Ok(())
    }

    pub(crate) async fn remove(&self, which: &str) -> Result<MemberRow, Refusal> {
        let (id, row) = self.find(which)?;
        self.store.remove_member(id).await?;
        tracing::info!(server = %row.name, id = %row.id, "server removed from the cluster");
        Ok(row)
    }

    pub(crate) async fn promote(&self, which: &str) -> Result<MemberRow, Refusal> {
        let (id, row) = self.find(which)?;
        self.store.promote(id).await?;
        Ok(row)
    }

    /// By name, or by id in hex.
    fn find(&self, which: &str) -> Result<(MemberId, MemberRow), Refusal> {
        let members = self.store.members();
        let by_name = members.iter().find(|known| known.member.name == which);
        let by_id = || members.iter().find(|known| u64::from_str_radix(which, 16) == Ok(known.id));
        let known = by_name.or_else(by_id).ok_or_else(|| Refusal::NoSuchMember(which.to_owned()))?;
        Ok((known.id, row(known)))
    }
}

fn row(known: &MemberStatus) -> MemberRow {
    MemberRow {
        name: known.member.name.clone(),
        id: format!("{:016x}", known.id),
        role: match known.role {
            Role::Voter => "voter",
            Role::Learner => "learner",
        }
        .to_owned(),
        leader: known.leader,
        addresses: known.member.addresses.clone(),
        lag: known.lag,
        heard_seconds: known.heard.map(|since| since.as_secs_f64()),
    }
}

/// `v1.36.0+rk0.1.0`: the minor versions of both parts may differ by one, as in a rolling upgrade.
fn check_version(ours: &str, theirs: &str) -> Result<(), Refusal> {
    let near = |a: Option<(u32, u32)>, b: Option<(u32, u32)>| {
        a.zip(b).is_some_and(|(a, b)| a.0 == b.0 && a.1.abs_diff(b.1) <= 1)
    };
    let parts = |text: &str| -> Option<((u32, u32), (u32, u32))> {
        let (kubernetes, rk) = text.strip_prefix('v')?.split_once("+rk")?;
        Some((major_minor(kubernetes)?, major_minor(rk)?))
    };
    let (mine, other) = (parts(ours), parts(theirs));
    let fits = near(mine.map(|both| both.0), other.map(|both| both.0))
        && near(mine.map(|both| both.1), other.map(|both| both.1));
    let refusal = || Refusal::Version { ours: ours.to_owned(), theirs: theirs.chars().take(64).collect() };
    if fits { Ok(()) } else { Err(refusal()) }
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_may_be_one_minor_version_apart() {
        let ours = "v1.36.0+rk0.3.1";
        for near in ["v1.36.4+rk0.3.0", "v1.35.0+rk0.2.9", "v1.37.0+rk0.4.0-rc.1"] {
            assert!(check_version(ours, near).is_ok(), "{near}");
        }
        for far in ["v1.34.0+rk0.3.1", "v1.36.0+rk0.5.0", "v2.36.0+rk0.3.1", "", "v1.36.0", "1.36.0+rk0.3.1"] {
            let error = check_version(ours, far).unwrap_err();
            assert!(matches!(error, Refusal::Version { .. }) && error.to_string().contains(ours), "{far}");
        }
    }

    #[test]
    fn only_what_may_be_asked_again_is_answered_so() {
        assert_eq!(Refusal::from(MemberError::Busy).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(Refusal::from(MemberError::LastVoter(1)).status(), StatusCode::CONFLICT);
        assert_eq!(Refusal::AgentsToken.status(), StatusCode::FORBIDDEN);
    }
}
