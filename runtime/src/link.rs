//! The runtime's end of a shim's socket: a shared connection for calls and notices, or one of its own per session.

use crate::error::RuntimeError;
use crate::protocol::{self, Call, Failure, FailureKind, Kind, Notice, Reply, Request, Response};
use crate::records::PodDir;
use crate::spec::{ContainerId, PodId};
use crate::sys;
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// A shim that takes longer than this is given up on. Making a container may have to wait for a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);

type Waiter = oneshot::Sender<Result<Reply, Failure>>;

/// The shared connection. Its other half, [`Inbox`], has to be driven for calls to be answered.
#[derive(Debug)]
pub(crate) struct Link {
    pod: PodId,
    /// The shim's process, as the kernel knows it.
    peer: Option<i32>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    next: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Inbox(OwnedReadHalf);

/// Connecting to a local socket does not block for longer than its backlog is full. The path may be of any length.
pub(crate) fn connect(pod: &PodDir) -> io::Result<UnixStream> {
    let stream = sys::fd::connect_in(pod.path(), PodDir::SOCKET)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Link {
    pub(crate) fn new(pod: PodId, stream: UnixStream) -> (Self, Inbox) {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (read, write) = stream.into_split();
        let link = Self {
            pod,
            peer,
            writer: tokio::sync::Mutex::new(write),
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
        };
        (link, Inbox(read))
    }

    /// The shim's process, known before it has said a word.
    pub(crate) fn peer(&self) -> Option<i32> {
        self.peer
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Reply, RuntimeError> {
        let subject = subject(&call);
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => waiting.insert(seq, sender),
            None => return Err(self.gone()),
        };
        let sent = match serde_json::to_vec(&Request { seq, call }) {
            Ok(payload) => write_frame(&mut *self.writer.lock().await, Kind::Request, &payload).await,
            Err(error) => Err(error.into()),
        };
        sent.map_err(|source| RuntimeError::Channel { pod: self.pod.clone(), source })?;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(result)) => result.map_err(|failure| refused(failure, subject.as_ref())),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(RuntimeError::Channel { pod: self.pod.clone(), source: io::ErrorKind::TimedOut.into() }),
        }
    }

    /// The first call of all, which reads the answer itself: what the shim says after it stays for
    /// [`Link::next_notice`], and none of it is lost.
    pub(crate) async fn greet(&self, inbox: &mut Inbox) -> Result<Reply, RuntimeError> {
        let channel = |source| RuntimeError::Channel { pod: self.pod.clone(), source };
        let request = Request { seq: 0, call: Call::Hello };
        let payload = serde_json::to_vec(&request).map_err(|error| channel(error.into()))?;
        write_frame(&mut *self.writer.lock().await, Kind::Request, &payload).await.map_err(channel)?;
        loop {
            let (kind, payload) = read_frame(&mut inbox.0).await.map_err(channel)?;
            if kind == Kind::Response {
                let response: Response = serde_json::from_slice(&payload).map_err(|error| channel(error.into()))?;
                return response.result.map_err(|failure| refused(failure, None));
            }
        }
    }

    fn gone(&self) -> RuntimeError {
        RuntimeError::ShimGone { pod: self.pod.clone(), reason: "its socket was closed".into() }
    }

    /// The next notice; `None` when the shim is gone, and all calls have failed.
    pub(crate) async fn next_notice(&self, inbox: &mut Inbox) -> Option<Notice> {
        loop {
            let Ok((kind, payload)) = read_frame(&mut inbox.0).await else {
                lock(&self.waiting).take();
                return None;
            };
            match kind {
                Kind::Response => self.answer(&payload),
                Kind::Notice => match serde_json::from_slice(&payload) {
                    Ok(notice) => return Some(notice),
                    Err(error) => tracing::warn!(pod = %self.pod, %error, "unreadable notice"),
                },
                _ => {}
            }
        }
    }

    fn answer(&self, payload: &[u8]) {
        match serde_json::from_slice::<Response>(payload) {
            Ok(response) => {
                let waiter = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&response.seq));
                if waiter.is_none_or(|waiter| waiter.send(response.result).is_err()) {
                    tracing::debug!(pod = %self.pod, "nobody waits for this answer any more");
                }
            }
            Err(error) => tracing::warn!(pod = %self.pod, %error, "unreadable answer"),
        }
    }
}

/// Opens a session: the stream, once the shim has agreed.
pub(crate) async fn open_session(pod: &PodId, dir: &PodDir, call: Call) -> Result<UnixStream, RuntimeError> {
    let channel = |source| RuntimeError::Channel { pod: pod.clone(), source };
    let subject = subject(&call);
    let mut stream = connect(dir).map_err(channel)?;
    let payload = serde_json::to_vec(&Request { seq: 1, call }).map_err(|e| channel(e.into()))?;
    write_frame(&mut stream, Kind::Request, &payload).await.map_err(channel)?;
    let (kind, payload) = read_frame(&mut stream).await.map_err(channel)?;
    if kind != Kind::Response {
        return Err(channel(io::ErrorKind::InvalidData.into()));
    }
    let response: Response = serde_json::from_slice(&payload).map_err(|e| channel(e.into()))?;
    response.result.map_err(|failure| refused(failure, subject.as_ref()))?;
    Ok(stream)
}

fn subject(call: &Call) -> Option<ContainerId> {
    match call {
        Call::Create(id)
        | Call::Start(id)
        | Call::Kill(id, _)
        | Call::Forget(id)
        | Call::ReopenLog(id)
        | Call::Exec(id, _)
        | Call::Attach(id, _) => Some(id.clone()),
        Call::Hello | Call::Shutdown => None,
    }
}

fn refused(failure: Failure, subject: Option<&ContainerId>) -> RuntimeError {
    match (failure.kind, subject) {
        (FailureKind::NoSuchContainer, Some(id)) => RuntimeError::NoSuchContainer(id.clone()),
        (FailureKind::NotRunning, Some(id)) => RuntimeError::NotRunning(id.clone()),
        (FailureKind::CannotRun, _) => RuntimeError::CannotRun(failure.message),
        _ => RuntimeError::Refused(failure.message),
    }
}

pub(crate) async fn write_frame(
    writer: &mut (impl AsyncWriteExt + Unpin),
    kind: Kind,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = Vec::with_capacity(protocol::HEADER + payload.len());
    frame.extend_from_slice(&protocol::header(kind, payload.len()));
    frame.extend_from_slice(payload);
    writer.write_all(&frame).await
}

pub(crate) async fn read_frame(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<(Kind, Vec<u8>)> {
    let mut header = [0; protocol::HEADER];
    reader.read_exact(&mut header).await?;
    let (kind, length) = protocol::parse_header(header).ok_or(io::ErrorKind::InvalidData)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok((kind, payload))
}

/// A poisoned lock only means that some task panicked while it read or replaced plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
