//! The listening sockets: reads queries, answers what the zone knows at once, and hands the rest to upstream.
//!
//! Names of the cluster are answered in the receiving task itself; a query that must wait for others gets a task of
//! its own. Both kinds of waiting are bounded, so that a flood costs a bounded amount of memory.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rand::seq::SliceRandom as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Step, answer, encode_udp, frame};
use super::upstream::{Upstream, read_framed, write_framed};
use super::zone::Zone;

/// Queries waiting for upstream at once; further ones are told to come again.
const FORWARDS: usize = 512;
const CONNECTIONS: usize = 128;
/// A TCP client that asks nothing is let go (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// After a failure of a socket (no descriptors or memory left), others get the time to give some back.
const RECOVERY: Duration = Duration::from_millis(50);
const BIND_TRIES: usize = 16;
/// What a query can be over UDP.
const QUERY_SIZE: usize = 4096;

pub(super) struct Shared {
    zone: ArcSwapOption<Zone>,
    upstream: Upstream,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(own: SocketAddr, resolv_conf: PathBuf) -> Self {
        Self {
            zone: ArcSwapOption::empty(),
            upstream: Upstream::new(resolv_conf, own),
            forwards: Arc::new(Semaphore::new(FORWARDS)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn set_zone(&self, zone: Zone) {
        self.zone.store(Some(Arc::new(zone)));
    }

    /// Returns when all tasks have ended, after a cancellation.
    pub(super) async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What the zone says, its addresses in another order each time.
    fn decide(&self, query: &Message) -> Step {
        let mut step = answer(query, self.zone.load().as_deref());
        if let Step::Reply(reply) = &mut step {
            reply.answers.shuffle(&mut rand::rng());
            // An alias comes before what it stands for.
            reply.answers.sort_by_key(|record| record.record_type() != RecordType::CNAME);
        }
        step
    }

    /// Asks upstream on behalf of `query`.
    async fn forward(&self, query: &Message) -> Message {
        let Some(question) = query.queries.first() else { return frame(query, ResponseCode::FormErr) };
        let dnssec = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let Some(answer) = self.upstream.resolve(question, dnssec).await else {
            return frame(query, ResponseCode::ServFail);
        };
        let mut reply = frame(query, answer.metadata.response_code);
        reply.metadata.authentic_data = answer.metadata.authentic_data;
        reply.answers = answer.answers;
        reply.authorities = answer.authorities;
        reply.additionals = answer.additionals;
        reply
    }

    /// Completes an alias that leads out of the cluster.
    async fn chase(&self, mut reply: Message, target: Name) -> Message {
        let Some(mut question) = reply.queries.first().cloned() else { return reply };
        question.set_name(target);
        match self.upstream.resolve(&question, false).await {
            Some(answer) => {
                reply.answers.extend(answer.answers);
                reply.metadata.response_code = answer.metadata.response_code;
            }
            None => reply.metadata.response_code = ResponseCode::ServFail,
        }
        reply.metadata.authoritative = false;
        reply
    }

    async fn finish(&self, query: &Message, step: Step) -> Message {
        match step {
            Step::Reply(reply) => reply,
            Step::Forward => self.forward(query).await,
            Step::Chase(reply, target) => self.chase(reply, target).await,
        }
    }
}

/// Both sockets on one port; with port 0, one that is free for both.
pub(super) async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let udp = UdpSocket::bind(listen).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && listen.port() == 0 && tries < BIND_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Starts both loops; they end with `stop`.
pub(super) fn spawn(udp: UdpSocket, tcp: TcpListener, shared: &Arc<Shared>, stop: &CancellationToken) {
    let datagrams = serve_udp(Arc::new(udp), Arc::clone(shared), stop.clone());
    let streams = serve_tcp(tcp, Arc::clone(shared), stop.clone());
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(datagrams));
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(streams));
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>, stop: CancellationToken) {
    let mut buffer = vec![0; QUERY_SIZE];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "dns socket");
                tokio::time::sleep(RECOVERY).await;
                continue;
            }
        };
        let Some(query) = parse(&buffer[..length]) else { continue };
        let step = shared.decide(&query);
        if let Step::Reply(reply) = step {
            send(&socket, from, &query, reply).await;
            continue;
        }
        let Ok(permit) = Arc::clone(&shared.forwards).try_acquire_owned() else {
            let reply = frame(&query, ResponseCode::ServFail);
            send(&socket, from, &query, reply).await;
            continue;
        };
        let (socket, owner) = (Arc::clone(&socket), Arc::clone(&shared));
        shared.tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let reply = owner.finish(&query, step).await;
            send(&socket, from, &query, reply).await;
            drop(permit);
        }));
    }
}

async fn send(socket: &UdpSocket, to: SocketAddr, query: &Message, reply: Message) {
    let Some(bytes) = encode_udp(reply, query) else { return };
    if let Err(error) = socket.send_to(&bytes, to).await {
        tracing::debug!(%to, %error, "dns reply not sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        // A place first: what waits for one waits in the kernel's queue.
        let Ok(permit) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "dns connection");
                tokio::time::sleep(RECOVERY).await;
                continue;
            }
        };
        let owner = Arc::clone(&shared);
        shared.tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(error) = converse(stream, &owner).await {
                tracing::debug!(%error, "dns connection ended");
            }
            drop(permit);
        }));
    }
}

/// Answers one query after the other until the client closes or idles.
async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    while let Ok(message) = timeout(IDLE, read_framed(&mut stream)).await {
        let message = match message {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let Some(query) = parse(&message) else { return Ok(()) };
        let step = shared.decide(&query);
        let reply = shared.finish(&query, step).await;
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        timeout(IDLE, write_framed(&mut stream, &bytes)).await??;
    }
    Ok(())
}

/// A query; anything else gets no answer, so that nobody can make two servers talk to each other.
fn parse(bytes: &[u8]) -> Option<Message> {
    let query = Message::from_vec(bytes).ok()?;
    (query.metadata.message_type == MessageType::Query).then_some(query)
}
