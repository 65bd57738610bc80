//! What clients ask of member processes, and what watchers see.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::MemberId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{Trouble, wire};
use crate::history::watches::Seen;
use crate::history::{Action, Changes, History, Outcome, Value};
use crate::seeded::Seeded;

const KEYS: u64 = 12;
/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn key(number: u64) -> String {
    format!("k{number}")
}

/// What a watcher saw, with the one key that it watched, if it was not all.
pub(super) type Watched = (Option<String>, Seen);

/// What all clients share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    history: Arc<Mutex<History>>,
    watches: Arc<Mutex<Vec<Watched>>>,
    next: Arc<Mutex<Value>>,
    members: Arc<Mutex<Vec<MemberId>>>,
    pub(super) run: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(super) fn watches(&self) -> Vec<Watched> {
        lock(&self.watches).clone()
    }

    /// Whether clients were told as much as a run asks for.
    pub(super) fn has(&self, least: &Trouble) -> bool {
        let watched: usize = lock(&self.watches).iter().map(|(_, seen)| seen.batches.len()).sum();
        watched >= least.watched && self.history().acknowledged() >= least.acknowledged
    }

    pub(super) fn tell_members(&self, members: Vec<MemberId>) {
        *lock(&self.members) = members;
    }

    fn pick(&self, random: &mut Seeded) -> Option<MemberId> {
        let members = lock(&self.members);
        members.get(random.index(members.len())).copied()
    }

    fn value(&self) -> Value {
        let mut next = lock(&self.next);
        *next += 1;
        *next
    }
}

/// A connection to a member, and its lines.
async fn say(run: &Path, member: MemberId, line: &str) -> io::Result<Lines<BufReader<UnixStream>>> {
    let mut stream = UnixStream::connect(wire::counter(run, member)).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    Ok(BufReader::new(stream).lines())
}

/// The answer of a member. An error before anything was said is one of the connection; else there is none.
pub(super) async fn ask(run: &Path, member: MemberId, line: &str, limit: Duration) -> io::Result<Option<String>> {
    let mut lines = say(run, member, line).await?;
    Ok(timeout(limit, lines.next_line()).await.ok().and_then(Result::ok).flatten())
}

fn line(key: &str, action: Action, known: Option<&(Value, u64)>, coalesced: bool) -> String {
    match action {
        Action::Put(value) if coalesced => format!("coalesce {key} {value}"),
        Action::Put(value) => format!("put {key} {value}"),
        Action::Delete => format!("delete {key}"),
        Action::Get => format!("get {key}"),
        Action::Swap { expected, new } => {
            let version = known.filter(|_| expected.is_some()).map_or(0, |(_, version)| *version);
            format!("swap {key} {version} {new}")
        }
    }
}

/// The outcome, and the version of the key that is known by it.
fn outcome(words: &[&str]) -> Option<(Outcome, Option<u64>)> {
    let revision = words.get(1)?.parse().ok()?;
    Some(match *words.first()? {
        "ok" => (Outcome::Written(revision), Some(revision)),
        "found" => (Outcome::Found(words.get(2)?.parse().ok(), revision), words.get(3)?.parse().ok()),
        "swapped" => (Outcome::Swapped(*words.get(2)? == "yes", revision), Some(revision)),
        _ => return None,
    })
}

/// One client: asks one member after the other, one thing at a time.
pub(super) async fn client(number: u64, mut random: Seeded, shared: Shared) {
    let mut known: BTreeMap<String, (Value, u64)> = BTreeMap::new();
    loop {
        sleep(Duration::from_micros(random.between(1_000, 30_000))).await;
        let Some(member) = shared.pick(&mut random) else { continue };
        let key = key(random.below(KEYS));
        let action = match random.below(10) {
            0..4 => Action::Get,
            4..7 => Action::Put(shared.value()),
            7 => Action::Delete,
            _ => Action::Swap { expected: known.get(&key).map(|(value, _)| *value), new: shared.value() },
        };
        let line = line(&key, action, known.get(&key), random.chance(20));
        let begun = shared.history().begin(number, &key, action);
        let answer = match ask(&shared.run, member, &line, PATIENCE).await {
            Ok(Some(answer)) => answer,
            Ok(None) => continue,
            Err(_) => {
                shared.history().refused(begun);
                continue;
            }
        };
        let words: Vec<&str> = answer.split(' ').collect();
        if words.first() == Some(&"refused") {
            shared.history().refused(begun);
        }
        let Some((outcome, version)) = outcome(&words) else { continue };
        shared.history().end(begun, outcome);
        let holds = match (action, outcome) {
            (Action::Put(value), _) | (Action::Swap { new: value, .. }, Outcome::Swapped(true, _)) => Some(value),
            (_, Outcome::Found(found, _)) => found,
            _ => None,
        };
        match holds.zip(version) {
            Some(holds) => known.insert(key, holds),
            None => known.remove(&key),
        };
    }
}

/// The changes of a line `batch REVISION KEY=VALUE…`.
fn batch(line: &str) -> Option<(u64, Changes)> {
    let mut words = line.strip_prefix("batch ")?.split(' ');
    let revision = words.next()?.parse().ok()?;
    let change = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()))
    };
    Some((revision, words.map(change).collect::<Option<_>>()?))
}

/// Watches through one member after the other, each time from where the last one ended, all or one key.
pub(super) async fn watcher(mut random: Seeded, shared: Shared, only: Option<String>) {
    let mut from = 1;
    loop {
        sleep(Duration::from_millis(random.between(5, 200))).await;
        let Some(member) = shared.pick(&mut random) else { continue };
        let line = format!("watch {from} {}", only.as_deref().unwrap_or("*"));
        let Ok(mut lines) = say(&shared.run, member, &line).await else { continue };
        let number = {
            let mut watches = lock(&shared.watches);
            watches.push((only.clone(), Seen { from, upto: from - 1, batches: Vec::new() }));
            watches.len() - 1
        };
        while let Ok(Ok(Some(line))) = timeout(Duration::from_secs(2), lines.next_line()).await {
            let Some((revision, changes)) = batch(&line) else { break };
            if let Some((_, seen)) = lock(&shared.watches).get_mut(number) {
                seen.upto = seen.upto.max(revision);
                if !changes.is_empty() {
                    seen.batches.push((revision, changes));
                }
            }
            from = from.max(revision + 1);
        }
        if random.chance(10) {
            from = 1;
        }
    }
}

/// Everything that a member says has happened.
pub(super) async fn everything(run: &Path, member: MemberId) -> Result<crate::history::Truth, String> {
    let mut truth = crate::history::Truth::new();
    let mut lines = say(run, member, "watch 1 *").await.map_err(|error| format!("member {member}: {error}"))?;
    loop {
        let line = timeout(Duration::from_secs(60), lines.next_line()).await.map_err(|_| "a watch hangs".to_owned())?;
        let line = line.ok().flatten().ok_or_else(|| "a watch breaks off".to_owned())?;
        match batch(&line) {
            Some((_, changes)) if changes.is_empty() => return Ok(truth),
            Some((revision, changes)) => truth.insert(revision, changes),
            None => return Err(format!("the history ends: {line}")),
        };
    }
}
