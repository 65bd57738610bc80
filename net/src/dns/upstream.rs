//! Asks other servers: UDP first, TCP when the answer was cut short, the next server when one fails.
//!
//! Each question goes out from a socket of its own with a fresh id, and only an answer from the asked server with
//! that id and question counts.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::cache::{Cache, Key};
use super::resolv::Servers;
use super::zone::normal;

/// How long one server may take, and how often all of them are tried: within the five seconds most clients wait.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const PAYLOAD: u16 = 1232;

pub(super) struct Upstream {
    servers: Mutex<Servers>,
    cache: Mutex<Cache>,
}

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf, own: SocketAddr) -> Self {
        Self { servers: Mutex::new(Servers::new(resolv_conf, own)), cache: Mutex::default() }
    }

    /// The answer to `question`; none when no server gave one.
    pub(super) async fn resolve(&self, question: &Query, dnssec: bool) -> Option<Message> {
        let servers = self.servers();
        let key: Key = (normal(&question.name().to_ascii()), question.query_type(), dnssec);
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key, Instant::now());
        if cached.is_some() {
            return cached;
        }
        let answer = ask_all(&servers, question, dnssec).await?;
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, &answer, Instant::now());
        Some(answer)
    }

    /// Other servers may know other names: what the former ones said is forgotten.
    fn servers(&self) -> Vec<SocketAddr> {
        let (list, changed) = self.servers.lock().unwrap_or_else(PoisonError::into_inner).current(Instant::now());
        if changed {
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        list
    }
}

async fn ask_all(servers: &[SocketAddr], question: &Query, dnssec: bool) -> Option<Message> {
    let mut refusal = None;
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        match timeout(PATIENCE, ask(*server, question, dnssec)).await {
            Ok(Ok(answer)) => match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some(answer),
                _ => refusal = Some(answer),
            },
            Ok(Err(error)) => tracing::debug!(%server, %error, "dns server failed"),
            Err(_) => tracing::debug!(%server, "dns server did not answer in time"),
        }
    }
    refusal
}

async fn ask(server: SocketAddr, question: &Query, dnssec: bool) -> io::Result<Message> {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.queries.push(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(dnssec);
    query.edns = Some(edns);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = over_udp(server, &query, &bytes).await?;
    if answer.metadata.truncation { over_tcp(server, &query, &bytes).await } else { Ok(answer) }
}

async fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(PAYLOAD)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(&buffer[..length], query) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, bytes).await?;
    let answer = read_framed(&mut stream).await?;
    matching(&answer, query)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
}

/// The answer, if it is one to this very query.
fn matching(bytes: &[u8], query: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.iter().map(question).eq(query.queries.iter().map(question));
    same.then_some(answer)
}

fn question(query: &Query) -> (Name, hickory_proto::rr::RecordType) {
    (query.name().to_lowercase(), query.query_type())
}

/// A message over TCP: two bytes of length before it (RFC 1035 section 4.2.2).
pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}

pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
