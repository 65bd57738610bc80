//! Several servers, one cluster: how a server is let in, what it is given, and how it keeps its place.
//!
//! ```text
//! new server                                       any living server
//!   GET  /rk/v1/ca         the CA, checked against the token's hash
//!   POST /rk/v1/servers    the token (or a server's certificate) ─► keys, tokens, settings, cluster id
//!   … opens its store as one that joins, and serves …
//!   POST /rk/v1/members    its own server certificate, its id and address ─► a learner
//!   … catches up, and makes itself a voter ([`presence`])
//! ```
//! Everything up to the last step may be cut at any moment and begun again. What is given out in the second step is the
//! whole cluster: it goes to private files ([`kept`]) and never to a log.

pub(crate) mod credentials;
pub(crate) mod enter;
pub(crate) mod gate;
pub(crate) mod kept;
pub(crate) mod presence;
pub(crate) mod tokens;

use kept::Settings;
use serde::{Deserialize, Serialize};
use storage::{ClusterId, Member, MemberId};

pub(crate) const RAFT_PATH: &str = "/rk/v1/raft";
pub(crate) const ENTER_PATH: &str = "/rk/v1/servers";
pub(crate) const TOKENS_PATH: &str = "/rk/v1/tokens";
pub(crate) const MEMBERS_PATH: &str = "/rk/v1/members";

/// What a machine says that wants to become a server of the cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnterRequest {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The cluster must be of this generation at least: a server that is left behind itself lets nobody in.
    #[serde(default)]
    pub(crate) generation: u64,
}

/// The cluster, for one who is let in. No `Debug`: these are its secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Entered {
    pub(crate) cluster: u64,
    pub(crate) generation: u64,
    pub(crate) ca_cert: String,
    pub(crate) ca_key: String,
    pub(crate) service_account_key: String,
    pub(crate) server_token: String,
    pub(crate) node_token: String,
    pub(crate) settings: Settings,
    /// `HOST:PORT` of each server.
    pub(crate) servers: Vec<String>,
}

impl Entered {
    pub(crate) fn cluster(&self) -> ClusterId {
        ClusterId { id: self.cluster, generation: self.generation }
    }
}

/// A server's place in the membership, as it tells it itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) id: MemberId,
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
}

impl Place {
    pub(crate) fn member(self) -> Member {
        Member { name: self.name, addresses: self.addresses }
    }
}
