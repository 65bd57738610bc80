//! Port-forward: connections of a client to ports in a pod's network namespace.
//!
//! Over SPDY (bare or tunnelled) each connection is a pair of streams, data and error, with the same `requestid`
//! header; over the channels of a WebSocket, two channels for each port named in the query.

mod channels;

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::spdy::{self, Session, Stream, StreamReader, StreamWriter};
use super::{netns, tunnel};

pub(crate) use self::channels::serve as serve_channels;

/// How long one half of a pair waits for the other, as the kubelet has it.
const PAIRING: Duration = Duration::from_secs(30);
const MAX_WAITING: usize = 256;

/// Where connections lead, and how errors name it.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) netns: PathBuf,
}

impl Destination {
    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        netns::dial_localhost(&self.netns, port).await.map_err(|error| {
            let mut text = format!("error forwarding port {port} to pod {}, uid {}: {error}", self.pod, self.uid);
            if let Some(source) = error.source() {
                text.push_str(&format!(": {source}"));
            }
            text
        })
    }
}

/// Serves a connection upgraded to SPDY/3.1.
pub(crate) async fn serve<I>(io: I, destination: Destination)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    match spdy::open(io) {
        Ok(session) => run(session, destination).await,
        Err(error) => tracing::warn!(%error, "spdy connection can't be set up"),
    }
}

/// Serves SPDY/3.1 tunnelled in a WebSocket.
pub(crate) async fn serve_tunnel<I>(io: I, destination: Destination)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let tunnel::Tunnel { inner, carrier } = tunnel::open(io);
    serve(inner, destination).await;
    if tokio::time::timeout(Duration::from_secs(5), finished(carrier)).await.is_err() {
        tracing::debug!("port-forward client did not close its websocket");
    }
}

async fn finished(carrier: AbortOnDropHandle<()>) {
    if carrier.await.is_err() {
        tracing::debug!("websocket tunnel ended early");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Data,
    Error,
}

/// What a stream's headers say it is.
struct Role {
    request: String,
    half: Half,
    port: u16,
}

impl Role {
    fn of(stream: &Stream) -> Option<Role> {
        let port = stream.headers.get("port")?.parse().ok().filter(|p| *p != 0)?;
        let half = match stream.headers.get("streamtype")? {
            "data" => Half::Data,
            "error" => Half::Error,
            _ => return None,
        };
        // Old clients open one pair at a time and give no id.
        let request = stream.headers.get("requestid").unwrap_or_default().to_owned();
        Some(Role { request, half, port })
    }
}

struct Waiting {
    half: Half,
    stream: Stream,
    since: Instant,
}

async fn run(mut session: Session, destination: Destination) {
    let destination = Arc::new(destination);
    let mut pairs = Pairs::default();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = session.incoming.recv() => stream,
            () = expire(pairs.deadline()) => {
                pairs.expire();
                continue;
            }
            Some(_) = connections.join_next() => continue,
            () = session.gone.cancelled() => None,
        };
        let Some(stream) = stream else { break };
        match pairs.take(stream) {
            Taken::Pair(pair) => {
                connections.spawn(forward(destination.clone(), pair));
            }
            Taken::Waits => {}
            Taken::Refused(stream) => stream.writer.reset().await,
        }
    }
    // The client is gone: so are its connections.
    drop(connections);
    session.close().await;
}

/// The two streams of one connection.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

enum Taken {
    Pair(Pair),
    Waits,
    Refused(Stream),
}

/// Streams whose other half has not come yet, by request.
#[derive(Default)]
struct Pairs(HashMap<String, Waiting>);

impl Pairs {
    fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|w| w.since + PAIRING).min()
    }

    /// Dropping a half ends it, and the client sees that nothing came of it.
    fn expire(&mut self) {
        self.0.retain(|_, w| w.since.elapsed() < PAIRING);
    }

    fn take(&mut self, stream: Stream) -> Taken {
        let Some(Role { request, half, port }) = Role::of(&stream) else { return Taken::Refused(stream) };
        match self.0.remove(&request) {
            Some(first) if first.half != half => Taken::Pair(match half {
                Half::Data => Pair { port, data: stream, error: first.stream },
                Half::Error => Pair { port, data: first.stream, error: stream },
            }),
            // The same half twice.
            Some(first) => {
                self.0.insert(request, first);
                Taken::Refused(stream)
            }
            None if self.0.len() >= MAX_WAITING => Taken::Refused(stream),
            None => {
                self.0.insert(request, Waiting { half, stream, since: Instant::now() });
                Taken::Waits
            }
        }
    }
}

async fn expire(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn forward(destination: Arc<Destination>, pair: Pair) {
    let Pair { port, data, error } = pair;
    let mut error = error.writer;
    let told = match destination.dial(port).await {
        Ok(stream) => {
            copy(stream, data.reader, data.writer).await;
            Ok(())
        }
        Err(text) => error.write_all(text.as_bytes()).await,
    };
    if told.and(error.shutdown().await).is_err() {
        tracing::trace!("port-forward client is gone");
    }
}

/// Copies until the pod's side has ended: a client that goes on sending then would send to nobody.
async fn copy(stream: TcpStream, mut reader: StreamReader, mut writer: StreamWriter) {
    let (mut from_pod, mut to_pod) = stream.into_split();
    let outward = async {
        tokio::io::copy(&mut reader, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    let inward = async {
        tokio::io::copy(&mut from_pod, &mut writer).await?;
        writer.shutdown().await
    };
    tokio::pin!(outward, inward);
    let copied = tokio::select! {
        result = &mut inward => result,
        result = &mut outward => match result {
            Ok(()) => inward.await,
            // Reset by the client: nobody wants the rest.
            Err(error) => Err(error),
        },
    };
    if let Err(error) = copied {
        tracing::debug!(%error, "forwarded connection broke off");
    }
}
