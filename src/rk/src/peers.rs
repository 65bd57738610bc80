//! How this server's store reaches the others': `POST /rk/v1/raft` on their API ports, HTTP/2 with mutual TLS.
//!
//! Both ends are sure of each other: a peer is spoken to only if its certificate is that of the member that is wanted, and
//! the API server passes on only what comes from the group of servers, with the sender's name. One connection carries the
//! small requests to a peer and another the large ones, so that a snapshot does not hold up the signs of life. They are
//! opened when there is something to send: a server without peers has no connection and no timer.
//!
//! Where a member is says the membership. A member that has moved tells it to the others itself, since a leader, without
//! which no membership changes, may be what is missing for want of it ([`Peers::moved`]).

mod lane;
#[cfg(test)]
mod tests;

use crate::members::RAFT_PATH;
use crate::members::credentials::Credentials;
use anyhow::{Context, ensure};
use bytes::Bytes;
use client::Dialer;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lane::{Lane, Sender};
use pki::Identity;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use storage::{Answer, Member, MemberId, Transport, TransportError};

/// From the first packet to the end of the TLS handshake.
const CONNECT: Duration = Duration::from_secs(2);
/// A peer that says nothing for so long is asked for a sign of life.
const PING: Duration = Duration::from_secs(1);
/// How long that may take; then the connection is given up, and all that waits on it.
const PONG: Duration = Duration::from_secs(3);
/// Requests larger than this go by the second connection.
const SMALL: usize = 128 * 1024;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The transport of the store. It reaches nobody before it has been given credentials.
#[derive(Default)]
pub(crate) struct Peers {
    calling: OnceLock<Arc<Calling>>,
    known: Mutex<HashMap<MemberId, Arc<Peer>>>,
    moved: Mutex<HashMap<MemberId, Moved>>,
}

/// Where a member is, for as long as the membership has not caught up with it.
#[derive(Debug)]
struct Moved {
    /// As the membership has it.
    from: Member,
    to: Vec<String>,
}

/// What it takes to open a connection.
struct Calling {
    credentials: Arc<Credentials>,
    dialer: Dialer,
}

/// The ways to one member at its present addresses.
struct Peer {
    member: Member,
    small: Lane,
    large: Lane,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// From now on peers are called with these credentials; further ones are not taken.
    pub(crate) fn start(&self, credentials: Arc<Credentials>) -> anyhow::Result<()> {
        let mut tls = credentials.client_tls()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let calling = Calling { credentials, dialer: Dialer::new(tls) };
        ensure!(self.calling.set(Arc::new(calling)).is_ok(), "the peers' transport was started twice");
        Ok(())
    }

    /// A member, known as `from` to the membership, says that it is reached at `to`. It is called where the membership
    /// has it as well, and in either place only if it is there.
    pub(crate) fn moved(&self, id: MemberId, from: &Member, to: &[String]) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if from.addresses == to {
            moved.remove(&id);
        } else {
            moved.insert(id, Moved { from: from.clone(), to: to.to_vec() });
        }
    }

    /// The same, of who has not said so itself.
    pub(crate) fn rumoured(&self, id: MemberId, from: &Member, to: &[String]) {
        let told = |known: &Moved| known.from == *from;
        let known = self.moved.lock().unwrap_or_else(PoisonError::into_inner).get(&id).is_some_and(told);
        if !known {
            self.moved(id, from, to);
        }
    }

    /// Where a member is reached, as far as that is known: first where it was heard to be, then where it was.
    pub(crate) fn addresses(&self, id: MemberId, member: &Member) -> Vec<String> {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        match moved.get(&id) {
            Some(known) if known.from == *member => known.to.iter().chain(&member.addresses).cloned().collect(),
            // The membership has been told since.
            Some(_) => {
                moved.remove(&id);
                member.addresses.clone()
            }
            None => member.addresses.clone(),
        }
    }

    fn peer(&self, id: MemberId, member: &Member) -> Arc<Peer> {
        let member = Member { name: member.name.clone(), addresses: self.addresses(id, member) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get(&id).filter(|peer| peer.member == member) {
            return peer.clone();
        }
        // Of those that left the cluster nothing remains.
        known.retain(|_, peer| peer.small.is_used() || peer.large.is_used());
        let peer = Arc::new(Peer { member, small: Lane::default(), large: Lane::default() });
        known.insert(id, peer.clone());
        peer
    }

    async fn exchange(
        &self,
        id: MemberId,
        to: &Member,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, TransportError> {
        let calling = self.calling.get().ok_or(TransportError::Unreachable)?;
        let peer = self.peer(id, to);
        let lane = if request.len() > SMALL { &peer.large } else { &peer.small };
        let connect = {
            let (calling, peer) = (calling.clone(), peer.clone());
            move || async move { calling.connect(&peer.member).await }
        };
        // Some of the time is left for the caller, who is told the truth only by an answer.
        let sender = lane.sender(connect, limit * 3 / 4).await.ok_or(TransportError::Unreachable)?;
        let address = peer.member.addresses.first().map_or("", String::as_str);
        let request = Request::post(format!("https://{address}{RAFT_PATH}")).body(Full::new(request));
        let request = request.map_err(|_invalid| TransportError::Unreachable)?;
        lane::send(lane, sender, request).await
    }
}

impl Transport for Peers {
    fn call<'a>(&'a self, id: MemberId, to: &'a Member, request: Bytes, limit: Duration) -> Answer<'a> {
        Box::pin(self.exchange(id, to, request, limit))
    }
}

impl Calling {
    /// A connection to a member at the first of its addresses where it is.
    async fn connect(&self, member: &Member) -> anyhow::Result<Sender> {
        self.credentials.refresh()?;
        let mut last = anyhow::anyhow!("the member has no address");
        for address in &member.addresses {
            match tokio::time::timeout(CONNECT, self.connect_to(&member.name, address)).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(error)) => last = error,
                Err(_) => last = anyhow::anyhow!("{address} does not answer"),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, name: &str, address: &str) -> anyhow::Result<Sender> {
        let stream = self.dialer.dial(&format!("https://{address}")).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identity = certificate.and_then(|certificate| Identity::of_certificate(certificate));
        let found = identity.as_ref().and_then(Identity::server_name);
        ensure!(found == Some(name), "{address} is server {found:?}, not {name:?}");
        crate::https::notice_silence(stream.get_ref().0).context("set TCP keepalives")?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.context("HTTP/2 handshake")?;
        let peer = name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "the connection to a peer ended");
            }
        });
        Ok(sender)
    }
}
