//! Clients that hold leases: as long as one is renewed its key stays, and some time after the last renewal it goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storage::{LeaseId, Op, OpResult, Store, Txn};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Running;
use crate::seeded::Seeded;

/// Keys that belong to leases begin so.
pub(super) const PREFIX: &str = "lease ";
const PATIENCE: Duration = Duration::from_secs(5);

/// What the lease clients found.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<(u64, Option<String>)>>);

impl Leases {
    fn found(&self, flaw: Option<String>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.0 += 1;
        if found.1.is_none() {
            found.1 = flaw;
        }
    }

    /// How many renewals were tried, and the first flaw.
    pub(super) fn outcome(&self) -> (u64, Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn present(store: &Store, key: &str) -> Option<bool> {
    let get = Txn { success: vec![Op::get(key.to_owned())], ..Txn::default() };
    let answer = timeout(PATIENCE, store.txn(get)).await.ok()?.ok()?;
    answer.results.iter().find_map(|result| match result {
        OpResult::Range(range) => Some(!range.kvs.is_empty()),
        _ => None,
    })
}

/// Takes one lease after the other, and renews each for a while.
pub(super) async fn holder(number: u64, mut random: Seeded, running: Running, leases: Leases) {
    let mut count = 0;
    loop {
        sleep(Duration::from_millis(random.between(10, 1500))).await;
        let Some((_, store, _)) = running.pick(&mut random) else { continue };
        count += 1;
        let id = LeaseId::try_from(number * 10_000 + count).unwrap_or(1);
        let ttl = Duration::from_secs(random.between(2, 7));
        if !matches!(timeout(PATIENCE, store.lease_grant(id, ttl)).await, Ok(Ok(_))) {
            continue;
        }
        let key = format!("{PREFIX}{id}");
        let success = vec![Op::Put { key: key.clone().into(), value: "0".into(), lease: id, prev_kv: false }];
        if !matches!(timeout(PATIENCE, store.txn(Txn { success, ..Txn::default() })).await, Ok(Ok(_))) {
            continue;
        }
        for _ in 0..random.below(8) {
            renew(&mut random, &running, &leases, (id, &key, ttl)).await;
            sleep(ttl.mul_f64(0.4)).await;
        }
    }
}

async fn renew(random: &mut Seeded, running: &Running, leases: &Leases, (id, key, ttl): (LeaseId, &str, Duration)) {
    let Some((member, store, alive)) = running.pick(random) else { return };
    let asked = Instant::now();
    let renewed = timeout(PATIENCE, store.lease_renew(id)).await;
    if !matches!(renewed, Ok(Ok(_))) || !alive.load(std::sync::atomic::Ordering::SeqCst) {
        return;
    }
    running.trace.note(|| format!("lease {id} is renewed at {member}"));
    let Some((_, other, alive)) = running.pick(random) else { return };
    let there = present(&other, key).await;
    // An answer that comes later says nothing, nor does one of a process that has ended.
    let counts = asked.elapsed() < ttl && alive.load(std::sync::atomic::Ordering::SeqCst);
    let lost = (there == Some(false) && counts)
        .then(|| format!("the key of lease {id} is gone {:?} after a renewal", asked.elapsed()));
    leases.found(lost);
}
