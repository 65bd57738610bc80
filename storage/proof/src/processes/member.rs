//! The process that is one member: a store on real files, other members and clients over Unix sockets.
//!
//! A client says a line and gets one: `ok REVISION`, `found REVISION VALUE VERSION`, `swapped REVISION yes|no`,
//! `refused WHY` when it is sure that nothing happened, and `unknown WHY`. Watches answer with a line for each revision.

use std::error::Error;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storage::{
    Answer, Bytes, ClusterId, Compare, Config, Durability, Event, EventKind, Member, MemberError, MemberId, Op,
    OpResult, PeerIdentity, Store, StoreError, Timing, Transport, TransportError, Txn, WatchRequest,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};

use super::wire;

/// The variable that tells the process which member it is.
pub const MEMBER: &str = "PROOF_MEMBER";

/// Which member a process is, and where.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) id: MemberId,
    pub(super) dir: PathBuf,
    pub(super) run: PathBuf,
    pub(super) join: Option<ClusterId>,
}

impl Identity {
    pub(super) fn encode(&self) -> String {
        let join = self.join.map_or_else(|| "- 0".to_owned(), |join| format!("{} {}", join.id, join.generation));
        format!("{} {join} {} {}", self.id, self.dir.display(), self.run.display())
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let id = words.next()?.parse().ok()?;
        let (cluster, generation) = (words.next()?, words.next()?.parse().ok()?);
        let join = cluster.parse().ok().map(|id| ClusterId { id, generation });
        Some(Self { id, join, dir: words.next()?.into(), run: words.next()?.into() })
    }
}

#[derive(Debug)]
struct Wire {
    run: PathBuf,
    me: MemberId,
}

async fn call(path: &Path, me: MemberId, request: &[u8]) -> Result<Bytes, TransportError> {
    let mut stream = UnixStream::connect(path).await.map_err(|_| TransportError::Unreachable)?;
    wire::ask(&mut stream, me, request).await.map_err(|_| TransportError::Lost)?;
    match wire::answered(&mut stream).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(TransportError::Unreachable),
        Err(_) => Err(TransportError::Lost),
    }
}

impl Transport for Wire {
    fn call<'a>(&'a self, id: MemberId, _to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(async move { call(&wire::link(&self.run, self.me, id), self.me, &request).await })
    }
}

pub(super) fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), addresses: vec![format!("m{id}")] }
}

/// Runs until it is killed, or until who started it is gone.
pub fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let identity = std::env::var(MEMBER)?;
    let identity = Identity::decode(&identity).ok_or("no member is named")?;
    // The other end of the input goes with the driver, however that ends.
    std::thread::spawn(|| {
        drop(io::stdin().read(&mut [0; 1]));
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(identity))
}

async fn serve(identity: Identity) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Identity { id, dir, run, join } = identity;
    let config = Config {
        member: member(id),
        join,
        transport: Some(Arc::new(Wire { run: run.clone(), me: id })),
        timing: Timing {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(500), Duration::from_millis(800)),
            request: Duration::from_secs(3),
            answer: Duration::from_secs(3),
            hold: Duration::from_millis(200),
        },
        segment_bytes: 256 << 10,
        snapshot_after_bytes: 256 << 10,
        ..Config::new(dir, id)
    };
    let store = Store::open(config).await?;
    let listen = |path: PathBuf| {
        drop(std::fs::remove_file(&path));
        UnixListener::bind(path)
    };
    let (members, clients) = (listen(wire::door(&run, id))?, listen(wire::counter(&run, id))?);
    loop {
        let store = store.clone();
        tokio::select! {
            accepted = members.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(async move { take(store, stream).await });
            }
            accepted = clients.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(async move { attend(store, stream).await });
            }
        }
    }
}

async fn take(store: Store, mut stream: UnixStream) -> io::Result<()> {
    let (from, request) = wire::asked(&mut stream).await?;
    let peer = PeerIdentity { name: Some(format!("m{from}")) };
    // It is carried out even if the one that asks stops waiting.
    let answer = tokio::spawn(async move { store.handle(request, &peer).await }).await?;
    wire::answer(&mut stream, Some(&answer)).await
}

async fn attend(store: Store, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["watch", from, key] => return watch(&store, from, key, write).await,
            ["put", key, value] => wrote(put(&store, key, value, Durability::Synced).await),
            ["coalesce", key, value] => wrote(put(&store, key, value, Durability::Coalesced).await),
            ["delete", key] => {
                wrote(run(&store, Txn { success: vec![Op::delete((*key).to_owned())], ..Txn::default() }).await)
            }
            ["swap", key, version, value] => swap(&store, key, version, value).await,
            ["get", key] => get(&store, key).await,
            ["barrier"] => match store.read_barrier().await {
                Ok(revision) => format!("ok {revision}"),
                Err(error) => failed(&error),
            },
            ["compact", revision] => match store.compact(revision.parse().unwrap_or(0)).await {
                Ok(()) => "ok 0".to_owned(),
                Err(error) => failed(&error),
            },
            ["status"] => status(&store),
            ["add", id] => {
                let id = id.parse().unwrap_or(0);
                changed(store.add_member(id, member(id)).await)
            }
            ["promote", id] => changed(store.promote(id.parse().unwrap_or(0)).await),
            ["remove", id] => changed(store.remove_member(id.parse().unwrap_or(0)).await),
            ["lead", id] => changed(store.transfer_leader(id.parse().unwrap_or(0)).await),
            _ => "refused what is that".to_owned(),
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

fn failed(error: &StoreError) -> String {
    match error {
        StoreError::Unknown | StoreError::Failed | StoreError::Closed => format!("unknown {error}"),
        _ => format!("refused {error}"),
    }
}

fn changed(outcome: Result<(), MemberError>) -> String {
    outcome.map_or_else(|error| format!("refused {error}"), |()| "ok 0".to_owned())
}

async fn run(store: &Store, txn: Txn) -> Result<storage::TxnResponse, StoreError> {
    store.txn(txn).await
}

fn wrote(outcome: Result<storage::TxnResponse, StoreError>) -> String {
    outcome.map_or_else(|error| failed(&error), |response| format!("ok {}", response.revision))
}

async fn put(
    store: &Store,
    key: &str,
    value: &str,
    durability: Durability,
) -> Result<storage::TxnResponse, StoreError> {
    let success = vec![Op::put(key.to_owned(), padded(value))];
    run(store, Txn { success, durability, ..Txn::default() }).await
}

/// Values are numbers; some length makes disks fill up and logs grow.
fn padded(value: &str) -> String {
    format!("{value:0>400}")
}

async fn swap(store: &Store, key: &str, version: &str, value: &str) -> String {
    let compares = vec![Compare::unchanged(key.to_owned(), version.parse().unwrap_or(0))];
    let success = vec![Op::put(key.to_owned(), padded(value))];
    match run(store, Txn { compares, success, ..Txn::default() }).await {
        Ok(response) => format!("swapped {} {}", response.revision, if response.succeeded { "yes" } else { "no" }),
        Err(error) => failed(&error),
    }
}

async fn get(store: &Store, key: &str) -> String {
    match run(store, Txn { success: vec![Op::get(key.to_owned())], ..Txn::default() }).await {
        Ok(response) => {
            let found = response.results.first().and_then(|result| match result {
                OpResult::Range(range) => range.kvs.first(),
                _ => None,
            });
            match found {
                Some(kv) => format!("found {} {} {}", response.revision, number(&kv.value), kv.mod_revision),
                None => format!("found {} - 0", response.revision),
            }
        }
        Err(error) => failed(&error),
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(u64::MAX)
}

fn status(store: &Store) -> String {
    let status = store.status();
    let cluster = store.cluster();
    let leader = status.leader.unwrap_or(0);
    let (term, applied, last) = (status.term, status.applied, status.last);
    format!("status {leader} {} {} {term} {applied} {last} {}", cluster.id, cluster.generation, store.revision())
}

fn change(event: &Event) -> String {
    let key = String::from_utf8_lossy(&event.kv.key);
    match event.kind {
        EventKind::Put => format!(" {key}={}", number(&event.kv.value)),
        EventKind::Delete => format!(" {key}=-"),
    }
}

/// Everything, or one key, from a revision on: `batch REVISION KEY=VALUE…`, a bare `batch REVISION` for progress.
async fn watch(store: &Store, from: &str, key: &str, mut write: OwnedWriteHalf) -> io::Result<()> {
    let from = from.parse().unwrap_or(1);
    let all = WatchRequest { from, end: Some(Bytes::new()), ..WatchRequest::default() };
    let request =
        if key == "*" { all } else { WatchRequest { key: key.to_owned().into(), from, ..WatchRequest::default() } };
    let mut watcher = match store.watch(request) {
        Ok(watcher) => watcher,
        Err(error) => return write.write_all(format!("end {error}\n").as_bytes()).await,
    };
    watcher.progress_handle().request();
    loop {
        let line = match watcher.next().await {
            Ok(batch) => format!("batch {}{}\n", batch.revision, batch.events.iter().map(change).collect::<String>()),
            Err(error) => {
                return write.write_all(format!("end {error}\n").as_bytes()).await;
            }
        };
        write.write_all(line.as_bytes()).await?;
    }
}
