//! One life of a store: it opens, is checked, serves, and ends.

use std::collections::BTreeMap;
use std::time::Duration;

use storage::{
    Compare, Config, Durability, Event, Op, OpenError, RangeRequest, Revision, Store, StoreError, Txn, TxnResponse,
    WatchError, WatchRequest, Watcher,
};
use tokio::task::JoinSet;

use super::Run;
use super::ledger::{self, Fate, TOKEN, Token};

const DIR: &str = "/data/store";
const COALESCE_FOR: Duration = Duration::from_secs(10);
const KEYS: u64 = 12;
/// Virtual time; only a store that hangs needs it.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) struct Life {
    pub(super) shutdown: bool,
    pub(super) steps: u64,
}

fn config(run: &Run) -> Config {
    let disk = std::sync::Arc::new(run.disk.clone());
    Config {
        disk,
        coalesce_for: COALESCE_FOR,
        segment_bytes: run.segment_bytes,
        snapshot_after_bytes: run.snapshot_after_bytes,
        ..Config::new(DIR, 1)
    }
}

/// Runs on a clock of its own, in this thread.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await }).map_err(|_| "the store hangs".to_owned())
}

impl Life {
    pub(super) fn run(&self, run: &mut Run) -> Result<(), String> {
        block_on(self.live(run))?
    }

    /// Opens and checks; whether the store opened. It may only refuse because of damage.
    pub(super) fn open_only(run: &mut Run) -> Result<bool, String> {
        block_on(async {
            match Store::open(config(run)).await {
                Ok(store) => {
                    check_opened(run, &store).await?;
                    store.shutdown().await;
                    Ok(true)
                }
                Err(
                    OpenError::Corrupt { .. }
                    | OpenError::NewerFormat { .. }
                    | OpenError::WrongNode { .. }
                    | OpenError::WrongCluster { .. },
                ) => Ok(false),
                Err(error) => Err(format!("damage was answered by {error}")),
            }
        })?
    }

    async fn live(&self, run: &mut Run) -> Result<(), String> {
        let failures = run.disk.failures();
        let store = match Store::open(config(run)).await {
            Ok(store) => store,
            Err(_) if run.disk.is_off() || run.disk.failures() > failures => return Ok(()),
            Err(error) => return Err(format!("it does not open: {error}{}", causes(&error))),
        };
        check_opened(run, &store).await?;
        run.cut_since_open = false;
        let mut session = Session { watcher: watcher(&store, run.ledger.newest)?, store, run, failures };
        for _ in 0..self.steps {
            if session.run.disk.is_off() {
                return Ok(());
            }
            session.step().await?;
        }
        if self.shutdown {
            session.store.shutdown().await;
            if !session.troubled() {
                session.run.ledger.promote(Revision::MAX);
            }
        }
        Ok(())
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

fn watcher(store: &Store, seen: Revision) -> Result<Watcher, String> {
    let from = seen.max(store.revision()) + 1;
    let request = WatchRequest { from, end: Some("".into()), ..WatchRequest::default() };
    store.watch(request).map_err(|error| format!("no watch: {error}"))
}

/// Reads every change that the store still has.
async fn history(store: &Store) -> Result<BTreeMap<Revision, Vec<Event>>, String> {
    let mut found = BTreeMap::new();
    if store.revision() == 0 {
        return Ok(found);
    }
    let request = WatchRequest { from: store.compacted() + 1, end: Some("".into()), ..WatchRequest::default() };
    let mut watcher = match store.watch(request) {
        Ok(watcher) => watcher,
        Err(error) => return Err(format!("the history cannot be read: {error}")),
    };
    watcher.progress_handle().request();
    let mut newest = 0;
    loop {
        let batch = watcher.next().await.map_err(|error| format!("the history ends: {error}"))?;
        if batch.events.is_empty() {
            return Ok(found);
        }
        if batch.revision <= newest {
            return Err(format!("a watch gave revision {} after {newest}", batch.revision));
        }
        newest = batch.revision;
        found.insert(batch.revision, batch.events);
    }
}

async fn check_opened(run: &mut Run, store: &Store) -> Result<(), String> {
    let history = history(store).await?;
    let before = run.ledger.requests.values().filter(|request| matches!(request.fate, Fate::Acknowledged(_))).count();
    let kept = run.ledger.opened(&history, store.compacted(), run.cut_since_open);
    kept.map_err(|what| format!("{what} (opened at revision {})", store.revision()))?;
    let after = run.ledger.requests.values().filter(|request| matches!(request.fate, Fate::Acknowledged(_))).count();
    run.tried.lost_coalesced += before.saturating_sub(after) as u64;
    run.trace.push(format!("open at revision {} with {} changes of history", store.revision(), history.len()));
    check_state(run, store)?;
    let leases = store.leases();
    if let Some(lost) = run.leases.iter().find(|lease| !leases.contains(lease)) {
        return Err(format!("lease {lost} was granted and is lost"));
    }
    Ok(())
}

/// The newest state is the one that follows from what clients know.
fn check_state(run: &Run, store: &Store) -> Result<(), String> {
    let all = RangeRequest { end: Some("".into()), ..RangeRequest::default() };
    let found = store.range(&all).map_err(|error| format!("no range: {error}"))?.kvs;
    let expected: Vec<_> = run.ledger.model().into_values().collect();
    if found == expected {
        return Ok(());
    }
    let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    Err(format!("the state is not what its history says: {} and {} keys, {differs:?}", found.len(), expected.len()))
}

struct Session<'a> {
    run: &'a mut Run,
    store: Store,
    watcher: Watcher,
    /// Failures of the disk before this life.
    failures: u64,
}

impl Session<'_> {
    fn troubled(&self) -> bool {
        self.run.disk.is_off() || self.run.disk.failures() > self.failures
    }

    async fn step(&mut self) -> Result<(), String> {
        match self.run.random.below(20) {
            0 => self.compact().await,
            1 => {
                tokio::time::sleep(COALESCE_FOR + Duration::from_millis(1)).await;
                if !self.troubled() {
                    self.run.ledger.promote(Revision::MAX);
                }
                Ok(())
            }
            2 => self.grant().await,
            _ => self.write().await,
        }
    }

    async fn compact(&mut self) -> Result<(), String> {
        let newest = self.run.ledger.newest;
        let revision = self.run.ledger.compacted + self.run.random.below(newest - self.run.ledger.compacted + 1);
        if revision <= self.run.ledger.compacted {
            return Ok(());
        }
        self.run.ledger.maybe_compacted.insert(revision);
        match self.store.compact(revision).await {
            Ok(()) => {
                self.run.trace.push(format!("compacted up to {revision}"));
                self.run.ledger.compacted = revision;
                self.run.ledger.maybe_compacted.clear();
                self.run.ledger.promote(Revision::MAX);
                Ok(())
            }
            Err(error) => self.excuse(&error),
        }
    }

    async fn grant(&mut self) -> Result<(), String> {
        let id = 1 + self.run.leases.len().cast_signed() as i64 * 1000 + self.run.random.below(1000).cast_signed();
        match self.store.lease_grant(id, Duration::from_secs(1 << 28)).await {
            Ok(granted) => {
                self.run.leases.push(granted.id);
                Ok(())
            }
            Err(StoreError::LeaseExists(_)) => Ok(()),
            Err(error) => self.excuse(&error),
        }
    }

    /// A failure needs a reason.
    fn excuse(&self, error: &StoreError) -> Result<(), String> {
        if self.troubled() { Ok(()) } else { Err(format!("a healthy store failed: {error}")) }
    }

    /// A few transactions at once.
    async fn write(&mut self) -> Result<(), String> {
        let mut running = JoinSet::new();
        for _ in 0..1 + self.run.random.below(if self.run.busy { 12 } else { 3 }) {
            let token = self.run.next_token;
            self.run.next_token += 1;
            let txn = self.transaction(token);
            self.run.ledger.submit(token, txn.clone());
            let store = self.store.clone();
            let pause = Duration::from_millis(if self.run.busy { self.run.random.below(120) } else { 0 });
            running.spawn(async move {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                (token, store.txn(txn).await)
            });
        }
        let before = self.run.ledger.newest;
        let mut answers = Vec::new();
        while let Some(answer) = running.join_next().await {
            let (token, answer) = answer.map_err(|error| format!("a transaction panicked: {error}"))?;
            self.answered(token, &answer, before)?;
            answers.push((token, answer));
        }
        self.watched().await?;
        for (token, answer) in answers {
            if let Ok(answer) = answer
                && self.run.ledger.succeeded(token, answer.revision) != Some(answer.succeeded)
            {
                return Err(format!("request {token} at {} answered {}", answer.revision, answer.succeeded));
            }
        }
        if self.troubled() { Ok(()) } else { check_state(self.run, &self.store) }
    }

    fn transaction(&mut self, token: Token) -> Txn {
        let random = &mut self.run.random;
        let key = format!("key {:02}", random.below(KEYS));
        let length = match random.below(10) {
            0 => random.between(1500, 3500),
            1 | 2 => random.between(300, 1500),
            _ => random.between(0, 120),
        };
        let length = usize::try_from(length).unwrap_or(0);
        let fill = if random.chance(20) { 0 } else { u8::try_from(random.between(1, 255)).unwrap_or(1) };
        let mark = Op::put(TOKEN, token.to_string());
        let change = if random.chance(15) { Op::delete(key.clone()) } else { Op::put(key.clone(), vec![fill; length]) };
        let durability = if random.chance(35) { Durability::Coalesced } else { Durability::Synced };
        let mut txn = Txn { success: vec![mark.clone(), change], failure: vec![mark], durability, ..Txn::default() };
        if random.chance(20) {
            let revision = self.run.ledger.model().get(key.as_bytes()).map_or(0, |kv| kv.mod_revision);
            let revision = if self.run.random.chance(70) { revision } else { revision + 1 };
            txn.compares.push(Compare::unchanged(key, revision));
        }
        txn
    }

    fn answered(
        &mut self,
        token: Token,
        answer: &Result<TxnResponse, StoreError>,
        before: Revision,
    ) -> Result<(), String> {
        match answer {
            Ok(answer) => {
                if answer.revision <= before {
                    return Err(format!("request {token} got revision {}, and {before} was seen", answer.revision));
                }
                self.run.tried.acknowledged += 1;
                self.run.trace.push(format!("request {token} acknowledged at {}", answer.revision));
                self.run.ledger.acknowledge(token, answer.revision)
            }
            Err(StoreError::DiskFull { .. }) => {
                self.run.ledger.refuse(token);
                self.excuse(&StoreError::Failed)
            }
            Err(error) => self.excuse(error),
        }
    }

    /// Takes what the watch has: each revision once, in order, and as the answers say.
    async fn watched(&mut self) -> Result<(), String> {
        self.watcher.progress_handle().request();
        loop {
            match self.watcher.next().await {
                Ok(batch) if batch.events.is_empty() => return Ok(()),
                Ok(batch) => {
                    let token = ledger::token(&batch.events).ok_or("a watch gave a change that nobody made")?;
                    self.run.ledger.see(token, batch.revision)?;
                }
                Err(WatchError::Closed) if self.troubled() => return Ok(()),
                Err(error) => return Err(format!("a watch ended: {error}")),
            }
        }
    }
}
