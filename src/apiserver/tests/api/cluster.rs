//! Several API servers over one replicated store, all in this process; their stores speak through memory.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::ApiServer;
use jiff::Timestamp;
use pki::Ca;
use storage::{Answer, Bytes, ClusterId, Member, MemberId, PeerIdentity, Store, Timing, Transport, TransportError};
use tempfile::TempDir;

use crate::server::{Client, config};

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between the stores.
#[derive(Debug, Default)]
pub(crate) struct Net {
    stores: Mutex<BTreeMap<MemberId, Store>>,
    cut: Mutex<HashSet<MemberId>>,
}

#[derive(Debug)]
struct Wire {
    net: Arc<Net>,
    from: MemberId,
}

impl Net {
    fn reach(&self, from: MemberId, to: MemberId) -> Option<Store> {
        let cut = self.cut.lock().unwrap();
        if cut.contains(&from) || cut.contains(&to) {
            return None;
        }
        self.stores.lock().unwrap().get(&to).cloned()
    }
}

impl Transport for Wire {
    fn call<'a>(&'a self, to: MemberId, _: &'a Member, request: Bytes, _: Duration) -> Answer<'a> {
        Box::pin(async move {
            let store = self.net.reach(self.from, to).ok_or(TransportError::Unreachable)?;
            let peer = PeerIdentity { name: Some(member(self.from).name) };
            // Carried out there even if the caller stops waiting.
            let answer = tokio::spawn(async move { store.handle(request, &peer).await });
            let answer = answer.await.map_err(|_| TransportError::Lost)?;
            self.net.reach(to, self.from).map(|_| answer).ok_or(TransportError::Lost)
        })
    }
}

fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), addresses: vec![address(id).to_string()] }
}

/// Where a server says that it is.
pub(crate) fn address(id: MemberId) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, u8::try_from(id).unwrap()], 6443))
}

/// Servers by their members' ids.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    keys: TempDir,
    dirs: BTreeMap<MemberId, TempDir>,
    servers: BTreeMap<MemberId, ApiServer>,
    cluster: ClusterId,
    small: bool,
}

impl Cluster {
    /// So many servers, all voters and all ready.
    pub(crate) async fn of(servers: u64) -> Cluster {
        Cluster::with(servers, false).await
    }

    /// Whose stores make snapshots after little.
    pub(crate) async fn with_small_files(servers: u64) -> Cluster {
        Cluster::with(servers, true).await
    }

    async fn with(servers: u64, small: bool) -> Cluster {
        let mut this = Cluster {
            net: Arc::default(),
            keys: tempfile::tempdir().unwrap(),
            dirs: BTreeMap::new(),
            servers: BTreeMap::new(),
            cluster: ClusterId { id: 0, generation: 0 },
            small,
        };
        this.open_store(1).await;
        this.cluster = this.store(1).cluster();
        this.serve(1).await;
        for id in 2..=servers {
            this.join(id).await;
            this.serve(id).await;
        }
        this
    }

    async fn open_store(&mut self, id: MemberId) {
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap()).path().join("db");
        let mut config = storage::Config {
            member: member(id),
            join: (id != 1).then_some(self.cluster),
            transport: Some(Arc::new(Wire { net: self.net.clone(), from: id })),
            timing: Timing {
                heartbeat: Duration::from_millis(80),
                election: (Duration::from_millis(500), Duration::from_millis(900)),
                request: Duration::from_secs(5),
                answer: Duration::from_secs(5),
                hold: Duration::from_millis(50),
            },
            ..storage::Config::new(dir, id)
        };
        if self.small {
            config.segment_bytes = 64 << 10;
            config.snapshot_after_bytes = 64 << 10;
        }
        let store = Store::open(config).await.unwrap();
        self.net.stores.lock().unwrap().insert(id, store);
    }

    /// Has a new member join as a voter; no API server yet.
    pub(crate) async fn join(&mut self, id: MemberId) {
        self.open_store(id).await;
        let some = self.store(*self.servers.keys().next().unwrap());
        some.add_member(id, member(id)).await.unwrap();
        some.promote(id).await.unwrap();
    }

    /// A server that has not started yet.
    pub(crate) fn open(&mut self, id: MemberId) -> ApiServer {
        let ca = Ca::load_or_create(self.keys.path(), "ca", "test-ca", Timestamp::now()).unwrap();
        let mut config = config(self.keys.path(), &ca, self.store(id), address(id));
        config.compaction_interval = Duration::from_secs(1);
        let server = ApiServer::new(config).unwrap();
        self.servers.insert(id, server.clone());
        server
    }

    async fn serve(&mut self, id: MemberId) {
        self.open(id).bootstrap().await.unwrap();
    }

    pub(crate) fn store(&self, id: MemberId) -> Store {
        self.net.stores.lock().unwrap()[&id].clone()
    }

    pub(crate) fn server(&self, id: MemberId) -> &ApiServer {
        &self.servers[&id]
    }

    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.servers.keys().copied().collect()
    }

    pub(crate) fn admin(&self, id: MemberId) -> Client {
        Client::of(&self.servers[&id], "admin", &["system:masters"])
    }

    pub(crate) fn anonymous(&self, id: MemberId) -> Client {
        Client::of(&self.servers[&id], "somebody", &[])
    }

    /// Nothing reaches a server's store, and nothing leaves it.
    pub(crate) fn cut(&self, id: MemberId) {
        self.net.cut.lock().unwrap().insert(id);
    }

    pub(crate) fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }

    /// Ends a server as `kill -9` would, as far as that is possible in one process.
    pub(crate) fn kill(&mut self, id: MemberId) {
        self.cut(id);
        drop(self.net.stores.lock().unwrap().remove(&id));
        drop(self.servers.remove(&id));
    }

    /// Whom the most servers follow.
    pub(crate) async fn leader(&self) -> MemberId {
        self.wait("a leader", || {
            let leads = |id: &MemberId| self.store(*id).is_leader() && self.followers(*id) * 2 > self.servers.len();
            self.servers.keys().copied().find(leads)
        })
        .await
    }

    fn followers(&self, leader: MemberId) -> usize {
        self.servers.keys().filter(|id| self.store(**id).status().leader == Some(leader)).count()
    }

    pub(crate) async fn follower(&self) -> MemberId {
        let leader = self.leader().await;
        self.ids().into_iter().find(|id| *id != leader).unwrap()
    }

    /// Waits until something can be had.
    pub(crate) async fn wait<T>(&self, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
        let waiting = async {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            loop {
                pause.tick().await;
                if let Some(got) = get() {
                    return got;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never seen: {what}"))
    }
}
