//! Three members in this process, handed each other's requests directly: what replication itself costs, and how soon
//! a write succeeds after the leader is gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage::{Answer, Bytes, Config, Durability, Member, MemberId, PeerIdentity, Store, Transport, TransportError};

use crate::Outcome;
use crate::inside::{float, put};
use crate::table::Table;

const MEMBERS: u64 = 3;
/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who can be reached.
#[derive(Debug, Default)]
struct Net(Mutex<BTreeMap<MemberId, Store>>);

impl Net {
    fn find(&self, id: MemberId) -> Option<Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn stores(&self) -> Vec<Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[derive(Debug)]
struct Wire {
    net: Arc<Net>,
    from: Member,
}

impl Transport for Wire {
    fn call<'a>(&'a self, id: MemberId, _to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(async move {
            let store = self.net.find(id).ok_or(TransportError::Unreachable)?;
            let peer = PeerIdentity { name: Some(self.from.name.clone()) };
            tokio::spawn(async move { store.handle(request, &peer).await }).await.map_err(|_| TransportError::Lost)
        })
    }
}

fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), addresses: vec![format!("10.0.0.{id}:6443")] }
}

async fn wait<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(got) = get() {
            return Ok(got);
        }
        if Instant::now() > deadline {
            return Err(format!("never seen: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn start(net: &Arc<Net>, dir: &Path) -> Outcome<()> {
    let mut first: Option<Store> = None;
    for id in 1..=MEMBERS {
        let config = Config {
            member: member(id),
            join: first.as_ref().map(Store::cluster),
            transport: Some(Arc::new(Wire { net: net.clone(), from: member(id) })),
            ..Config::new(dir.join(format!("m{id}")), id)
        };
        let store = Store::open(config).await?;
        net.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, store.clone());
        match &first {
            None => first = Some(store),
            Some(first) => {
                first.add_member(id, member(id)).await?;
                first.promote(id).await?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn measure(dir: &Path, time: Duration, table: &mut Table) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let net = Arc::new(Net::default());
    start(&net, folder.path()).await?;
    let leader = wait("a leader", || net.stores().into_iter().find(Store::is_leader)).await?;
    let follower = wait("a follower", || net.stores().into_iter().find(|store| !store.is_leader())).await?;
    for (through, store) in [("the leader", &leader), ("a follower", &follower)] {
        for clients in [1, 64] {
            let (rate, p50, p99) = puts(store, clients, time).await?;
            let beside = format!("p50 {p50:.2} ms, p99 {p99:.2} ms");
            table.plain(&format!("3 members, puts through {through}, {clients} clients"), rate, "/s", &beside);
        }
    }
    let gone = leader.node_id();
    net.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&gone);
    drop(leader);
    let began = Instant::now();
    while put(&follower, "after".to_owned(), Durability::Synced).await.is_err() {
        if began.elapsed() > PATIENCE {
            return Err("no write succeeds without the old leader".into());
        }
    }
    table.most("3 members, leader gone until the next write", began.elapsed().as_secs_f64(), "s", 3.0, "");
    for store in net.stores() {
        store.shutdown().await;
    }
    Ok(())
}

async fn puts(store: &Store, clients: u64, time: Duration) -> Outcome<(f64, f64, f64)> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let before = Instant::now();
                    put(&store, format!("members/{client:08}"), Durability::Synced).await?;
                    times.push(before.elapsed().as_secs_f64() * 1e3);
                }
                Outcome::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let rate = float(times.len() as u64) / began.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);
    let percentile = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Ok((rate, percentile(50), percentile(99)))
}
