//! What clients were told, and whether a store that opens after a cut agrees with it.
//!
//! Every transaction carries a token, so each revision of the store's history names the request that made it. Running the
//! requests on a map in revision order must give exactly the changes and the state that the store shows.

use std::collections::{BTreeMap, BTreeSet};

use storage::{Bytes, Compare, Durability, Event, EventKind, KeyValue, Op, Revision, Txn};

/// The key that every transaction writes its token to.
pub(super) const TOKEN: &[u8] = b"token";

pub(super) type Token = u64;

/// A client's request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may or may not have happened.
    Unknown,
    /// Refused, or found missing after a restart: it must never show.
    Never,
    Acknowledged(Revision),
}

/// A revision that someone has seen.
#[derive(Clone, Copy, Debug)]
struct Fact {
    token: Token,
    durable: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) requests: BTreeMap<Token, Request>,
    facts: BTreeMap<Revision, Fact>,
    /// Revisions that a power cut took; none may come back.
    lost: BTreeSet<Revision>,
    /// The newest revision that anyone has seen.
    pub(super) newest: Revision,
    pub(super) compacted: Revision,
    /// Compactions that may or may not have happened.
    pub(super) maybe_compacted: BTreeSet<Revision>,
}

/// The naive state: what each key holds.
pub(super) type Model = BTreeMap<Bytes, KeyValue>;

fn holds(model: &Model, compare: &Compare) -> bool {
    match compare {
        Compare::ModRevision { key, revision, .. } => model.get(key).map_or(0, |kv| kv.mod_revision) == *revision,
        _ => false,
    }
}

/// Runs a transaction at a revision; returns whether its compares held and the changes in key order.
fn run(model: &mut Model, txn: &Txn, revision: Revision) -> (bool, Vec<(Bytes, Option<Bytes>)>) {
    let succeeded = txn.compares.iter().all(|compare| holds(model, compare));
    let mut changes = Vec::new();
    for op in if succeeded { &txn.success } else { &txn.failure } {
        match op {
            Op::Put { key, value, lease, .. } => {
                let before = model.get(key);
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: before.map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                model.insert(key.clone(), kv);
                changes.push((key.clone(), Some(value.clone())));
            }
            Op::Delete { key, .. } => {
                if model.remove(key).is_some() {
                    changes.push((key.clone(), None));
                }
            }
            Op::Range(_) | Op::Update { .. } | Op::Txn(_) => {}
        }
    }
    changes.sort();
    (succeeded, changes)
}

/// The token among the changes of one revision.
pub(super) fn token(events: &[Event]) -> Option<Token> {
    let event = events.iter().find(|event| event.kv.key == TOKEN)?;
    std::str::from_utf8(&event.kv.value).ok()?.parse().ok()
}

fn changes(events: &[Event]) -> Vec<(Bytes, Option<Bytes>)> {
    let value = |event: &Event| (event.kind == EventKind::Put).then(|| event.kv.value.clone());
    events.iter().map(|event| (event.kv.key.clone(), value(event))).collect()
}

impl Ledger {
    pub(super) fn submit(&mut self, token: Token, txn: Txn) {
        self.requests.insert(token, Request { txn, fate: Fate::Unknown });
    }

    pub(super) fn refuse(&mut self, token: Token) {
        if let Some(request) = self.requests.get_mut(&token) {
            request.fate = Fate::Never;
        }
    }

    /// A client was told that its transaction happened at a revision.
    pub(super) fn acknowledge(&mut self, token: Token, revision: Revision) -> Result<(), String> {
        self.see(token, revision)?;
        let request = self.requests.get_mut(&token).ok_or("an answer without a request")?;
        request.fate = Fate::Acknowledged(revision);
        if request.txn.durability == Durability::Synced {
            self.promote(revision);
        }
        Ok(())
    }

    /// Somebody has seen the request at the revision: in an answer or in a watch.
    pub(super) fn see(&mut self, token: Token, revision: Revision) -> Result<(), String> {
        if self.lost.contains(&revision) {
            return Err(format!("revision {revision} was lost and came back, now with request {token}"));
        }
        let fact = Fact { token, durable: false };
        let before = self.facts.entry(revision).or_insert(fact).token;
        if before != token {
            return Err(format!("revision {revision} was request {before} and now is request {token}"));
        }
        self.newest = self.newest.max(revision);
        Ok(())
    }

    /// Everything up to the revision must survive from now on.
    pub(super) fn promote(&mut self, upto: Revision) {
        self.facts.range_mut(..=upto).for_each(|(_, fact)| fact.durable = true);
    }

    /// Checks the history of a store that has just opened, `from` on, and takes it as the truth.
    pub(super) fn opened(
        &mut self,
        history: &BTreeMap<Revision, Vec<Event>>,
        compacted: Revision,
        power_cut: bool,
    ) -> Result<(), String> {
        self.check_compaction(compacted)?;
        for (revision, events) in history {
            let token = token(events).ok_or_else(|| format!("revision {revision} is nobody's: {events:?}"))?;
            let request = self.requests.get(&token).ok_or_else(|| format!("request {token} was never made"))?;
            match request.fate {
                Fate::Never => return Err(format!("request {token} was refused or lost, yet is revision {revision}")),
                Fate::Acknowledged(told) if told != *revision => {
                    return Err(format!("request {token} was acknowledged at {told}, now it is {revision}"));
                }
                Fate::Unknown | Fate::Acknowledged(_) => {}
            }
            self.see(token, *revision)?;
        }
        let gone: Vec<_> = self.facts.range(compacted + 1..).filter(|(at, _)| !history.contains_key(at)).collect();
        if let Some((revision, fact)) = gone.iter().find(|(_, fact)| fact.durable || !power_cut) {
            return Err(format!("request {} was acknowledged at revision {revision} and is lost", fact.token));
        }
        let gone: Vec<Revision> = gone.into_iter().map(|(revision, _)| *revision).collect();
        if let Some(first) = gone.first()
            && let Some(later) = history.range(first..).next()
        {
            return Err(format!("revision {first} is lost, but {} after it is not", later.0));
        }
        for revision in gone {
            self.facts.remove(&revision);
            self.lost.insert(revision);
        }
        let applied: BTreeSet<Token> = self.facts.values().map(|fact| fact.token).collect();
        if applied.len() != self.facts.len() {
            return Err("a request was applied twice".to_owned());
        }
        for (token, request) in &mut self.requests {
            request.fate = match self.facts.iter().find(|(_, fact)| fact.token == *token) {
                Some((revision, _)) => Fate::Acknowledged(*revision),
                None => Fate::Never,
            };
        }
        self.promote(Revision::MAX);
        self.check_changes(history)
    }

    fn check_compaction(&mut self, compacted: Revision) -> Result<(), String> {
        if compacted < self.compacted {
            return Err(format!("compacted up to {}, now only {compacted}", self.compacted));
        }
        if compacted > self.compacted && !self.maybe_compacted.contains(&compacted) {
            return Err(format!("compacted up to {compacted}, which nobody asked for"));
        }
        self.compacted = compacted;
        self.maybe_compacted.clear();
        Ok(())
    }

    fn check_changes(&self, history: &BTreeMap<Revision, Vec<Event>>) -> Result<(), String> {
        let mut model = Model::new();
        for (revision, fact) in &self.facts {
            let Some(request) = self.requests.get(&fact.token) else { continue };
            let (_, expected) = run(&mut model, &request.txn, *revision);
            if let Some(events) = history.get(revision)
                && changes(events) != expected
            {
                return Err(format!("revision {revision} made {:?}, not {expected:?}", changes(events)));
            }
        }
        Ok(())
    }

    /// The state that follows from everything seen.
    pub(super) fn model(&self) -> Model {
        let mut model = Model::new();
        for (revision, fact) in &self.facts {
            if let Some(request) = self.requests.get(&fact.token) {
                run(&mut model, &request.txn, *revision);
            }
        }
        model
    }

    /// Whether the answer to a compare is what the model says.
    pub(super) fn succeeded(&self, token: Token, revision: Revision) -> Option<bool> {
        let mut model = Model::new();
        for (at, fact) in self.facts.range(..revision) {
            run(&mut model, &self.requests.get(&fact.token)?.txn, *at);
        }
        Some(run(&mut model, &self.requests.get(&token)?.txn, revision).0)
    }
}
