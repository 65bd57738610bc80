//! The members of a test, and the network between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proof::disk::MemoryDisk;
use storage::{
    Answer, Bytes, ClusterId, Config, Member, MemberId, Op, OpenError, PeerIdentity, RangeRequest, Role, Status, Store,
    StoreError, Timing, Transport, TransportError, Txn,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until, timeout};

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a request says what it is, and the kind that carries a part of a snapshot.
const KIND_AT: usize = 56;
const SNAPSHOT_PART: u8 = 4;

/// Quick, but not so quick that a busy machine makes elections by itself all the time.
pub(crate) fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(80),
        election: (Duration::from_millis(500), Duration::from_millis(900)),
        request: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        hold: Duration::from_millis(50),
    }
}

/// What happens to requests on their way, each in so many of a hundred cases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose_request: u32,
    pub(crate) lose_answer: u32,
    pub(crate) repeat: u32,
    /// Longest delay of a request and of an answer, in milliseconds.
    pub(crate) delay: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    stores: Mutex<BTreeMap<MemberId, Store>>,
    cuts: Mutex<HashSet<(MemberId, MemberId)>>,
    /// Requests over a link that is cut get no answer at all; else they are refused at once.
    cuts_swallow: AtomicBool,
    faults: Mutex<Faults>,
    /// Who can no longer be reached once so many bytes of snapshots have been carried there.
    carry_at_most: Mutex<Option<(MemberId, u64)>>,
    carried: Mutex<BTreeMap<MemberId, u64>>,
    /// Who answers everything at once with this, or not at all.
    instead: Mutex<BTreeMap<MemberId, Option<Bytes>>>,
    /// How often each member was asked something.
    asked: Mutex<BTreeMap<MemberId, u64>>,
}

#[derive(Debug)]
struct Wire {
    net: Arc<Net>,
    from: MemberId,
    name: String,
}

fn happens(percent: u32) -> bool {
    percent > 0 && rand::random_range(0..100) < percent
}

impl Net {
    fn target(&self, from: MemberId, to: MemberId) -> Option<Store> {
        if self.cuts.lock().unwrap().contains(&(from, to)) {
            return None;
        }
        self.stores.lock().unwrap().get(&to).cloned()
    }

    async fn delay(&self) {
        let most = self.faults.lock().unwrap().delay;
        if most > 0 {
            sleep_until(Instant::now() + Duration::from_millis(rand::random_range(0..=most))).await;
        }
    }

    async fn carry(&self, wire: &Wire, to: MemberId, request: Bytes) -> Result<Bytes, TransportError> {
        *self.asked.lock().unwrap().entry(to).or_default() += 1;
        if let Some(answer) = self.instead.lock().unwrap().get(&to).cloned() {
            return answer.ok_or(TransportError::Lost);
        }
        let Some(store) = self.target(wire.from, to) else {
            if self.cuts_swallow.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            return Err(TransportError::Unreachable);
        };
        let faults = *self.faults.lock().unwrap();
        self.delay().await;
        if happens(faults.lose_request) {
            return Err(TransportError::Lost);
        }
        let carried = {
            let mut carried = self.carried.lock().unwrap();
            let carried = carried.entry(to).or_default();
            if request.get(KIND_AT) == Some(&SNAPSHOT_PART) {
                *carried += request.len() as u64;
            }
            *carried
        };
        if self.carry_at_most.lock().unwrap().is_some_and(|(id, most)| id == to && carried > most) {
            return Err(TransportError::Unreachable);
        }
        let peer = PeerIdentity { name: Some(wire.name.clone()) };
        if happens(faults.repeat) {
            let (store, peer, request) = (store.clone(), peer.clone(), request.clone());
            tokio::spawn(async move { store.handle(request, &peer).await });
        }
        // It is carried out there even if the caller stops waiting.
        let answer = tokio::spawn(async move { store.handle(request, &peer).await });
        let answer = answer.await.map_err(|_| TransportError::Lost)?;
        self.delay().await;
        // An answer needs a way back.
        if happens(faults.lose_answer) || self.target(to, wire.from).is_none() {
            return Err(TransportError::Lost);
        }
        Ok(answer)
    }

    pub(crate) fn cut(&self, one: MemberId, other: MemberId) {
        self.cuts.lock().unwrap().extend([(one, other), (other, one)]);
    }

    pub(crate) fn cut_one_way(&self, from: MemberId, to: MemberId) {
        self.cuts.lock().unwrap().insert((from, to));
    }

    pub(crate) fn isolate(&self, one: MemberId, others: &[MemberId]) {
        others.iter().filter(|other| **other != one).for_each(|other| self.cut(one, *other));
    }

    /// Whether who speaks over a link that is cut is left waiting.
    pub(crate) fn lose_what_is_cut(&self, lose: bool) {
        self.cuts_swallow.store(lose, Ordering::Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.cuts.lock().unwrap().clear();
    }

    pub(crate) fn faults(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Has a member answer everything at once with these bytes, or not at all.
    pub(crate) fn answer_instead(&self, by: MemberId, answer: Option<Bytes>) {
        self.instead.lock().unwrap().insert(by, answer);
    }

    pub(crate) fn answer_again(&self, by: MemberId) {
        self.instead.lock().unwrap().remove(&by);
    }

    /// How often a member was asked something.
    pub(crate) fn asked(&self, who: MemberId) -> u64 {
        self.asked.lock().unwrap().get(&who).copied().unwrap_or(0)
    }

    pub(crate) fn carry_at_most(&self, limit: Option<(MemberId, u64)>) {
        *self.carry_at_most.lock().unwrap() = limit;
    }

    /// Bytes of snapshots that have reached a member.
    pub(crate) fn carried(&self, to: MemberId) -> u64 {
        self.carried.lock().unwrap().get(&to).copied().unwrap_or(0)
    }
}

impl Transport for Wire {
    fn call<'a>(&'a self, id: MemberId, _to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(async move { self.net.carry(self, id, request).await })
    }
}

/// Members by their ids, running or not, with their directories.
pub(crate) struct Members {
    pub(crate) net: Arc<Net>,
    dirs: BTreeMap<MemberId, TempDir>,
    pub(crate) cluster: ClusterId,
    timing: Timing,
    small: bool,
    /// In memory instead of in the directories.
    disks: Option<BTreeMap<MemberId, MemoryDisk>>,
}

pub(crate) fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), addresses: vec![format!("10.0.0.{id}:6443")] }
}

pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Txn {
    Txn { success: vec![Op::put(key, value)], ..Txn::default() }
}

impl Members {
    /// A cluster of so many voters, with ids from 1 on.
    pub(crate) async fn of(voters: u64) -> Self {
        Self::with(voters, timing()).await
    }

    /// One voter whose files are small, so that snapshots are made after little.
    pub(crate) async fn with_small_files(timing: Timing) -> Self {
        Self::begin(1, timing, true, None).await
    }

    pub(crate) async fn with(voters: u64, timing: Timing) -> Self {
        Self::begin(voters, timing, false, None).await
    }

    /// Voters whose disks are in memory, and do what the test wants.
    pub(crate) async fn in_memory(voters: u64, timing: Timing) -> Self {
        Self::begin(voters, timing, true, Some(BTreeMap::new())).await
    }

    pub(crate) fn disk(&self, id: MemberId) -> &MemoryDisk {
        &self.disks.as_ref().unwrap()[&id]
    }

    async fn begin(voters: u64, timing: Timing, small: bool, disks: Option<BTreeMap<MemberId, MemoryDisk>>) -> Self {
        let cluster = ClusterId { id: 0, generation: 0 };
        let mut this = Self { net: Arc::default(), dirs: BTreeMap::new(), cluster, timing, small, disks };
        let first = this.start(1).await;
        this.cluster = first.cluster();
        for id in 2..=voters {
            this.join(id).await;
        }
        this
    }

    pub(crate) fn dir(&self, id: MemberId) -> std::path::PathBuf {
        self.dirs[&id].path().join("db")
    }

    fn config(&mut self, id: MemberId) -> Config {
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap()).path().join("db");
        let mut config = Config {
            member: member(id),
            join: (id != 1).then_some(self.cluster),
            transport: Some(self.wire(id)),
            timing: self.timing,
            ..Config::new(dir, id)
        };
        if let Some(disks) = &mut self.disks {
            config.disk = Arc::new(disks.entry(id).or_insert_with(|| MemoryDisk::new(id)).clone());
            config.dir = "/data/store".into();
        }
        if self.small {
            config.segment_bytes = 64 << 10;
            config.snapshot_after_bytes = 64 << 10;
        }
        config
    }

    /// A member's way to the others.
    pub(crate) fn wire(&self, id: MemberId) -> Arc<dyn Transport> {
        Arc::new(Wire { net: self.net.clone(), from: id, name: member(id).name })
    }

    /// Starts a member: anew, or with what it has.
    pub(crate) async fn start(&mut self, id: MemberId) -> Store {
        self.try_start(id).await.unwrap()
    }

    pub(crate) async fn try_start(&mut self, id: MemberId) -> Result<Store, OpenError> {
        let deadline = Instant::now() + PATIENCE;
        let store = loop {
            match Store::open(self.config(id)).await {
                // One that was killed lets its directory go a little later.
                Err(OpenError::Locked { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
                opened => break opened?,
            }
        };
        self.net.stores.lock().unwrap().insert(id, store.clone());
        Ok(store)
    }

    /// Has a new member join, and makes it a voter.
    pub(crate) async fn join(&mut self, id: MemberId) {
        self.start(id).await;
        let some = self.stores().into_iter().find(|store| store.node_id() != id).unwrap();
        some.add_member(id, member(id)).await.unwrap();
        some.promote(id).await.unwrap();
    }

    /// Ends a member as `kill -9` would, as far as that is possible in one process.
    pub(crate) fn kill(&self, id: MemberId) {
        drop(self.net.stores.lock().unwrap().remove(&id));
    }

    pub(crate) fn forget(&mut self, id: MemberId) {
        self.kill(id);
        self.dirs.remove(&id);
    }

    pub(crate) fn store(&self, id: MemberId) -> Store {
        self.net.stores.lock().unwrap()[&id].clone()
    }

    pub(crate) fn stores(&self) -> Vec<Store> {
        self.net.stores.lock().unwrap().values().cloned().collect()
    }

    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.net.stores.lock().unwrap().keys().copied().collect()
    }

    /// The id of a leader that a quorum of the running members agrees on.
    pub(crate) async fn leader(&self) -> MemberId {
        self.wait("a leader", |members| {
            let stores = members.stores();
            let leads = |store: &&Store| store.is_leader() && store.status().leader == Some(store.node_id());
            let leader = stores.iter().filter(leads).max_by_key(|store| store.status().term)?.node_id();
            let follows = stores.iter().filter(|store| store.status().leader == Some(leader)).count();
            (follows * 2 > stores.len()).then_some(leader)
        })
        .await
    }

    /// Waits until something can be had from the members; says how they stand if it never can.
    pub(crate) async fn wait<T>(&self, what: &str, mut get: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = get(self) {
                return got;
            }
            assert!(Instant::now() < deadline, "never seen: {what}; {:#?}", self.statuses());
            sleep_until(Instant::now() + Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.stores().iter().map(Store::status).collect()
    }

    pub(crate) fn voters(&self, by: MemberId) -> Vec<MemberId> {
        let members = self.store(by).members();
        members.iter().filter(|member| member.role == Role::Voter).map(|member| member.id).collect()
    }

    /// Waits until all running members have applied the same and hold the same.
    pub(crate) async fn agree(&self) {
        self.wait("the same state everywhere", |members| {
            let stores = members.stores();
            let first = stores.first()?.status().last;
            stores.iter().all(|store| store.status().applied == first && store.status().last == first).then_some(())
        })
        .await;
        let states: Vec<_> = self.stores().iter().map(all).collect();
        states.windows(2).for_each(|pair| assert_eq!(pair[0], pair[1]));
    }
}

/// Everything that a member holds.
pub(crate) fn all(store: &Store) -> Vec<storage::KeyValue> {
    store.range(&RangeRequest { end: Some(Bytes::new()), ..RangeRequest::default() }).unwrap().kvs
}

/// The value of a key as a member has it in memory.
pub(crate) fn value(store: &Store, key: &str) -> Option<String> {
    let found = store.range(&RangeRequest::key(key.to_owned())).unwrap().kvs.pop()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

/// Writes until it is acknowledged; only for writes that may happen twice.
pub(crate) async fn put_until_acknowledged(store: &Store, key: &str, value: &str) -> u64 {
    let insist = async {
        loop {
            match store.txn(put(key.to_owned(), value.to_owned())).await {
                Err(StoreError::NoLeader | StoreError::Unknown) => {}
                outcome => return outcome.unwrap().revision,
            }
        }
    };
    timeout(PATIENCE, insist).await.expect("a write is acknowledged in the end")
}
