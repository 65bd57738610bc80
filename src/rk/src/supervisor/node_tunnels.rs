//! A server's own node, as the other servers reach it: by tunnels like any agent's, opened with the node's identity.
//! While there is no other server, nothing of this wakes up.

use crate::https::Https;
use crate::join::client::verified_tls;
use crate::join::identity::Presented;
use crate::server_list;
use crate::tunnel::standing::{self, Caller};
use client::{Informers, ServerList};
use jiff::Timestamp;
use node::Node;
use pki::{Ca, Identity, Leaf};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Keeps tunnels to the other servers until `stop`. `advertise` is where this server is in the list.
pub(crate) async fn keep(ca: Ca, advertise: SocketAddr, node: Node, informers: Informers, stop: CancellationToken) {
    let own = server_list::url(advertise.ip(), advertise.port());
    let list = ServerList::new(Vec::new());
    let identity = Leaf::Client(Identity::node(&node.config().name));
    let caller: Caller = Arc::new(move |server| {
        // Fresh for each connection: there is nothing to renew.
        let presented = Presented::new(&ca.issue(&identity, Timestamp::now())?)?;
        Ok(Https::new(server, verified_tls(ca.cert_pem(), Some(&presented))?))
    });
    let tunnels = standing::keep(list.standing(), Some(own), standing::serve(caller, node), stop.clone());
    tokio::join!(stop.run_until_cancelled(server_list::follow(list, informers, None)), tunnels);
}
