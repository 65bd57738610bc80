//! etcd's v3 gRPC interface to a [`Store`]: keys, watches, leases, members, maintenance.
//!
//! It speaks to any byte stream ([`Endpoint::serve`]); who may connect is for the caller to decide, since there are no
//! users here: authentication answers as in an etcd that has it off. Fields, codes and words are etcd's 3.5. Differences
//! are listed in `docs/adr/0010-etcd-endpoint.md`. Called by the executable.

mod backup;
pub mod client;
mod cluster;
mod grpc;
mod keys;
mod lease;
mod maintenance;
mod range;
mod serve;
mod status;
mod txn;
mod watch;
pub mod wire;

use std::sync::Arc;

pub use backup::BackupError;
pub use grpc::MAX_MESSAGE;
pub use serve::ServeError;

use crate::error::StoreError;
use crate::store::Store;

/// The version of etcd whose behaviour clients may expect.
pub const VERSION: &str = "3.5.21";

/// How this member shows itself to etcd's clients, beside what the cluster knows of it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// For a member that has not been given a name.
    pub name: String,
    /// Where this endpoint is reached.
    pub client_urls: Vec<String>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    config: Config,
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
        Ok(Self { inner: Arc::new(Inner { store, config }) })
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
