//! etcd's v3 gRPC interface to a [`Store`]: keys, watches, leases, members, maintenance.
//!
//! It speaks to any byte stream ([`Endpoint::serve`]); who may connect is for the caller to decide, since there are no
//! users here: authentication answers as in an etcd that has it off. Fields, codes and words are etcd's 3.5. Differences
//! are listed in `docs/adr/0010-etcd-endpoint.md`. Called by the executable.

mod backup;
pub mod client;
mod cluster;
mod grpc;
mod http2;
mod keys;
mod leader;
mod lease;
mod limits;
mod maintenance;
mod pages;
mod range;
mod serve;
mod short;
mod space;
mod status;
mod txn;
mod watch;
pub mod wire;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use backup::BackupError;
pub use grpc::MAX_MESSAGE;
pub use http2::{Violation, read_frames, read_headers};
pub use limits::{MAX_CALLS, MAX_READERS, MAX_WATCHES};
pub use serve::ServeError;

use crate::error::StoreError;
use crate::members::MemberId;
use crate::store::Store;

/// The version of etcd whose behaviour clients may expect.
pub const VERSION: &str = "3.5.21";

/// How this member shows itself to etcd's clients, beside what the cluster knows of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// For a member that has not been given a name.
    pub name: String,
    /// Where this endpoint is reached; other members are told when they ask.
    pub client_urls: Vec<String>,
    /// What makes a URL of a member's address, such as `https://`.
    pub peer_scheme: &'static str,
    /// Time without changes after which a watch that asked for progress is told of it.
    pub progress_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let progress_every = Duration::from_secs(600);
        Self { name: String::new(), client_urls: Vec::new(), peer_scheme: "", progress_every }
    }
}

#[derive(Debug)]
struct Inner {
    store: Store,
    config: Config,
    /// Where other members' endpoints were when they were last asked.
    client_urls: Mutex<HashMap<MemberId, Vec<String>>>,
    /// A write was refused for want of space, and none has been accepted since.
    full: AtomicBool,
    /// Set while no leader has been heard of for a while.
    leaderless: tokio::sync::watch::Sender<bool>,
}

/// The endpoint of one member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

impl Endpoint {
    /// An endpoint to `store`. A store at revision 0 goes to 1, where etcd begins: to its clients 0 says "newest".
    pub async fn new(store: Store, config: Config) -> Result<Self, StoreError> {
        store.leave_zero().await?;
        store.advertise(config.client_urls.clone());
        let inner = Arc::new(Inner {
            store,
            config,
            client_urls: Mutex::default(),
            full: AtomicBool::new(false),
            leaderless: tokio::sync::watch::Sender::new(false),
        });
        tokio::spawn(leader::watch_over(Arc::downgrade(&inner), inner.store.metrics()));
        Ok(Self { inner })
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What stands at the head of each answer.
    fn header(&self, revision: u64) -> wire::ResponseHeader {
        wire::ResponseHeader {
            cluster_id: self.store().cluster_id(),
            member_id: self.store().node_id(),
            revision: revision.cast_signed(),
            raft_term: self.store().term(),
        }
    }

    fn header_now(&self) -> wire::ResponseHeader {
        self.header(self.store().revision())
    }
}
