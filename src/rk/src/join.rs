//! How a machine becomes a node: the agent shows the token, the server certifies the agent's keys.
//!
//! `GET /rk/v1/ca` gives the cluster's CA certificate to anyone; the agent checks it against the hash in its token
//! before it sends anything. `POST /rk/v1/join` takes the token's user and secret (Basic authorization) and a
//! [`JoinRequest`]; only public keys travel. A node renews its certificates by the same request, shown the current one
//! instead of the token ([`renewal`]).

pub(crate) mod client;
pub(crate) mod identity;
pub(crate) mod renewal;
pub(crate) mod server;

use crate::config::ClusterNetwork;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub(crate) const CA_PATH: &str = "/rk/v1/ca";
pub(crate) const JOIN_PATH: &str = "/rk/v1/join";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) node: String,
    /// A secret this machine made at its first join; ties the node's name to the machine.
    pub(crate) machine_secret: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// PEM signing requests for the client and the serving certificate.
    pub(crate) client_request: String,
    pub(crate) serving_request: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinResponse {
    pub(crate) client_cert: String,
    pub(crate) serving_cert: String,
    pub(crate) network: ClusterNetwork,
    /// URLs of the cluster's servers, as far as the one that answers knows them.
    #[serde(default)]
    pub(crate) servers: Vec<String>,
}
