//! openraft's network over a [`Link`]. Without a transport no peer can be reached, and a sole voter needs none.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetwork, RaftNetworkFactory, StorageError, StorageIOError, Vote};

use super::Types;
use super::honest::{self, Sent};
use super::log_store::LogFiles;
use crate::disk::{self, Disk, DiskFile};
use crate::link::{CallError, Link};
use crate::members::Member;
use crate::rpc::{Offer, Request, Response};

type Failure<E = openraft::error::Infallible> = RPCError<u64, Member, RaftError<u64, E>>;
type SnapshotFailure = StreamingError<Types, Fatal<u64>>;

/// The first pause after something went wrong; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a snapshot in one request.
const CHUNK: usize = 2 << 20;
/// Tries of one request before the transfer is given up for now; it is taken up where it ended.
const TRIES: u32 = 5;

#[derive(Debug, thiserror::Error)]
#[error("member {0:016x} did not answer what it was asked")]
struct WrongAnswer(u64);

#[derive(Debug, thiserror::Error)]
#[error("member {0:016x} found the snapshot damaged; it is sent again from the start")]
struct Damaged(u64);

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) link: Arc<Link>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Arc<LogFiles>,
    /// How long to leave a member alone that could not be reached, after a few shorter pauses.
    pub(crate) pause: Duration,
    /// How long to wait for the answer to a part of a snapshot.
    pub(crate) patience: Duration,
}

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    id: u64,
    member: Member,
    /// Failures since the last success.
    failures: u32,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer { network: self.clone(), id: target, member: node.clone(), failures: 0 }
    }
}

impl Peer {
    async fn call(&self, request: &Request, limit: Duration) -> Result<Response, CallError> {
        self.network.link.call(self.id, &self.member, request, limit).await
    }

    fn wrong(&self) -> WrongAnswer {
        tracing::info!(member = self.id, "a member's answer does not fit what it was asked");
        WrongAnswer(self.id)
    }

    /// Whatever went wrong, the Raft core tries again at once, or, told to wait, does so in a way that no simulation can
    /// repeat. A member that refuses quickly would be asked thousands of times in a second; so the pause is made here.
    async fn pause(&mut self) {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(self.network.pause);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause).await;
    }

    async fn failed<T, E: std::error::Error>(
        &mut self,
        error: impl std::error::Error + Send + 'static,
    ) -> Result<T, Failure<E>> {
        self.pause().await;
        Err(RPCError::Network(NetworkError::new(&error)))
    }

    /// How long an answer may take that comes after a flush. Where this member's disk is slow, so may be the others'.
    fn patience(&self, usual: Duration) -> Duration {
        usual.max(self.network.files.slowest_flush() * 3).min(self.network.patience)
    }

    /// Asks until there is an answer; each request of a transfer may be repeated.
    async fn insist(&self, request: &Request, limit: Duration) -> Result<Response, SnapshotFailure> {
        let mut tries = 1;
        loop {
            match self.call(request, limit).await {
                Ok(response) => return Ok(response),
                Err(CallError::Lost) if tries < TRIES => tries += 1,
                Err(error) => return Err(NetworkError::new(&error).into()),
            }
        }
    }

    async fn send(
        &self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        limit: Duration,
    ) -> Result<SnapshotResponse<u64>, SnapshotFailure> {
        let (disk, file) = (&*self.network.disk, snapshot.snapshot.0);
        let measured = file.clone();
        let (size, crc) = reading(disk, move || measure(&*measured)).await?;
        let meta = snapshot.meta;
        let offer = Request::Offer(Box::new(Offer { vote, meta, size, crc }));
        let patience = self.network.patience;
        let mut answer = self.insist(&offer, patience).await?;
        loop {
            let offset = match answer {
                Response::Have { vote: theirs, .. } if theirs > vote => return Ok(SnapshotResponse::new(theirs)),
                Response::Have { offset, .. } if offset < size => offset,
                Response::Have { .. } => break,
                Response::Restart => return Err(NetworkError::new(&Damaged(self.id)).into()),
                _ => return Err(NetworkError::new(&WrongAnswer(self.id)).into()),
            };
            let from = file.clone();
            let data = reading(disk, move || chunk(&*from, size, offset)).await?;
            answer = self.insist(&Request::Chunk { crc, offset, data }, patience).await?;
        }
        match self.insist(&Request::Install { crc }, limit).await? {
            Response::Installed(vote) => Ok(SnapshotResponse::new(vote)),
            Response::Restart => Err(NetworkError::new(&Damaged(self.id)).into()),
            _ => Err(NetworkError::new(&WrongAnswer(self.id)).into()),
        }
    }

    async fn send_patiently(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        limit: Duration,
    ) -> Result<SnapshotResponse<u64>, SnapshotFailure> {
        let sent = self.send(vote, snapshot, limit).await;
        match &sent {
            Ok(_) => self.failures = 0,
            Err(_) => self.pause().await,
        }
        sent
    }
}

/// Reads from a snapshot where it may wait for the disk.
async fn reading<T: Send + 'static>(
    disk: &dyn Disk,
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SnapshotFailure> {
    let read = disk::blocking(disk, read).await.map_err(io::Error::from).flatten();
    read.map_err(|error| StorageError::from(StorageIOError::read_snapshot(None, &error)).into())
}

/// Size and checksum of a whole file.
pub(crate) fn measure(file: &dyn DiskFile) -> io::Result<(u64, u32)> {
    let size = file.len()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut offset = 0;
    while offset < size {
        let data = chunk(file, size, offset)?;
        hasher.update(&data);
        offset += data.len() as u64;
    }
    Ok((size, hasher.finalize()))
}

fn chunk(file: &dyn DiskFile, size: u64, offset: u64) -> io::Result<Bytes> {
    let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(CHUNK).min(CHUNK);
    let mut data = vec![0; length];
    file.read_exact_at(&mut data, offset)?;
    Ok(Bytes::from(data))
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let sent = Sent::from(&request);
        let limit = self.patience(option.hard_ttl());
        match self.call(&Request::Append(request), limit).await {
            Ok(Response::Append(response)) if sent.fits(&response, self.network.link.me) => {
                self.failures = 0;
                Ok(response)
            }
            Ok(_) => self.failed(self.wrong()).await,
            Err(error) => self.failed(error).await,
        }
    }

    /// A voter has its vote on disk before it answers, however long that takes.
    async fn vote(&mut self, request: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        let (asked, limit) = (request.vote, self.network.patience);
        match self.call(&Request::Vote(request), limit).await {
            Ok(Response::Vote(response)) if honest::vote_fits(&asked, &response, self.network.link.me) => Ok(response),
            Ok(_) => self.failed(self.wrong()).await,
            Err(error) => self.failed(error).await,
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, SnapshotFailure> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_patiently(vote, snapshot, option.hard_ttl()) => sent,
        }
    }
}
