//! Pods of one sleeping container whose image is present: create → Running, seen by a watch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;

use super::api::{Connection, Target};
use super::latency::Latencies;
use super::subject::{IMAGE, Subject};

const PODS: &str = "/api/v1/namespaces/bench/pods";
/// Clients that create pods of a full node at the same time.
const CREATORS: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// What the watch has shown so far.
#[derive(Default)]
struct Seen {
    running: HashMap<String, Instant>,
    /// How those that exist and do not run are doing.
    others: HashMap<String, String>,
    living: HashSet<String>,
    /// Why the watch ended.
    ended: Option<String>,
}

impl Seen {
    /// For whoever waited in vain.
    fn describe(&self) -> String {
        let others: Vec<_> = self.others.iter().map(|(name, state)| format!("\n  {name}: {state}")).collect();
        let (running, living) = (self.running.len(), self.living.len());
        format!("after {LIMIT:?} {running} pods have been Running, {living} exist{}", others.concat())
    }
}

#[derive(Default)]
struct Board {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(default)]
    message: String,
}

impl Status {
    /// How a pod that does not run is doing: full nodes, taints and rejections are told here.
    fn describe(&self) -> String {
        let conditions = self.conditions.iter().map(|condition| condition.message.as_str());
        let words = [self.phase.as_str(), &self.reason, &self.message].into_iter().chain(conditions);
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

/// The bench's namespace and a watch on its pods.
struct Bench {
    connection: Connection,
    kubeconfig: Target,
    board: Arc<Board>,
}

/// Creates pods one after another, each once the one before is Running; they go on running.
pub(super) async fn one_by_one(subject: &Subject, count: usize) -> anyhow::Result<Latencies> {
    let mut bench = Bench::open(subject).await?;
    let mut latencies = Latencies::default();
    for number in 0..count {
        let name = format!("serial-{number:03}");
        let created = Instant::now();
        bench.connection.must(Method::POST, PODS, Some(pod(&name))).await?;
        let running = bench.until(|seen| seen.running.get(&name).copied()).await;
        latencies.add(running.with_context(|| format!("pod {name} is not Running"))?.duration_since(created));
    }
    Ok(latencies)
}

/// Creates all pods at once; seconds until the last is Running.
pub(super) async fn all_at_once(subject: &Subject, count: usize) -> anyhow::Result<f64> {
    let bench = Bench::open(subject).await?;
    let names: Vec<_> = (0..count).map(|number| format!("burst-{number:03}")).collect();
    let mut connections = Vec::new();
    for _ in 0..CREATORS {
        connections.push(Connection::open(&bench.kubeconfig).await?);
    }
    let started = Instant::now();
    let creations = names.chunks(count.div_ceil(CREATORS)).zip(connections).map(|(names, mut connection)| async move {
        for name in names {
            connection.must(Method::POST, PODS, Some(pod(name))).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(creations).await?;
    let all = |seen: &Seen| names.iter().map(|name| seen.running.get(name).copied()).collect::<Option<Vec<_>>>();
    let running = bench.until(all).await.context("not all pods are Running")?;
    let last = running.into_iter().max().context("no pods")?;
    Ok(last.duration_since(started).as_secs_f64())
}

/// Deletes all pods and waits until they are gone.
pub(super) async fn remove_all(subject: &Subject) -> anyhow::Result<()> {
    let mut bench = Bench::open(subject).await?;
    bench.connection.must(Method::DELETE, PODS, Some(r#"{"gracePeriodSeconds":0}"#.into())).await?;
    bench.until(|seen| seen.living.is_empty().then_some(())).await.context("not all pods are gone")
}

impl Bench {
    async fn open(subject: &Subject) -> anyhow::Result<Self> {
        let kubeconfig = Target::parse(&std::fs::read_to_string(subject.kubeconfig_path())?)?;
        let mut connection = Connection::open(&kubeconfig).await?;
        if connection.send(Method::GET, "/api/v1/namespaces/bench", None).await?.0 == http::StatusCode::NOT_FOUND {
            connection.make_namespace("bench").await?;
        }
        let list: List = serde_json::from_slice(&connection.must(Method::GET, PODS, None).await?)?;
        let board = Arc::new(Board::default());
        board.edit(|seen| seen.living = list.items.into_iter().map(|pod| pod.metadata.name).collect());
        let path = format!("{PODS}?watch=1&timeoutSeconds=600&resourceVersion={}", list.metadata.resource_version);
        let mut watch = Connection::open(&kubeconfig).await?;
        let response = watch.start(Method::GET, &path, None).await?;
        anyhow::ensure!(response.status().is_success(), "watch: {}", response.status());
        let follower = board.clone();
        tokio::spawn(async move {
            // The connection lives as long as its sender.
            let _watch = watch;
            let ended = follow(response.into_body(), &follower).await;
            let reason = ended.map_or_else(|error| format!("{error:#}"), |()| "it timed out".to_owned());
            follower.edit(|seen| seen.ended = Some(reason));
        });
        Ok(Self { connection, kubeconfig, board })
    }

    /// Waits until the watch has shown what `wanted` looks for.
    async fn until<T>(&self, wanted: impl Fn(&Seen) -> Option<T>) -> anyhow::Result<T> {
        let shown = async {
            loop {
                let changed = self.board.changed.notified();
                let seen = self.board.look(|seen| wanted(seen).ok_or_else(|| seen.ended.clone()));
                match seen {
                    Ok(found) => return Ok(found),
                    Err(Some(reason)) => bail!("the watch ended: {reason}"),
                    Err(None) => changed.await,
                }
            }
        };
        let timed_out = || self.board.look(Seen::describe);
        tokio::time::timeout(LIMIT, shown).await.with_context(timed_out)?
    }
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

impl Board {
    /// Reads without waking anybody: who waits would wake itself for ever.
    fn look<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    fn note(&self, line: &[u8], at: Instant) -> anyhow::Result<()> {
        let Event { kind, object } = serde_json::from_slice(line).context("read a watch event")?;
        if kind == "ERROR" {
            bail!("{}", String::from_utf8_lossy(line));
        }
        self.edit(|seen| {
            let name = object.metadata.name;
            let running = object.status.phase == "Running";
            if running {
                seen.running.entry(name.clone()).or_insert(at);
            }
            if running || kind == "DELETED" {
                seen.others.remove(&name);
            } else {
                seen.others.insert(name.clone(), object.status.describe());
            }
            match kind.as_str() {
                "DELETED" => seen.living.remove(&name),
                _ => seen.living.insert(name),
            }
        });
        Ok(())
    }
}

/// Notes every event on the board until the watch ends. Events are stamped as their last byte arrives.
async fn follow(mut body: Incoming, board: &Board) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let (at, frame) = (Instant::now(), frame?);
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            board.note(&pending[..end], at)?;
            pending.drain(..=end);
        }
    }
    Ok(())
}

fn pod(name: &str) -> Bytes {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"],
            }],
        },
    })
    .to_string()
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_running_from_its_first_running_event_on() {
        let board = Board::default();
        let (first, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let event = |kind: &str, phase: &str| {
            format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"a"}},"status":{{"phase":"{phase}"}}}}}}"#)
        };
        board.note(event("ADDED", "Pending").as_bytes(), first).unwrap();
        board.note(event("MODIFIED", "Running").as_bytes(), first).unwrap();
        board.note(event("MODIFIED", "Running").as_bytes(), later).unwrap();
        board.edit(|seen| assert_eq!((seen.running["a"], seen.living.len()), (first, 1)));
        let waits = r#"{"type":"ADDED","object":{"metadata":{"name":"b"},"status":{"phase":"Pending","conditions":[{"message":"no room"}]}}}"#;
        board.note(waits.as_bytes(), later).unwrap();
        assert!(board.look(Seen::describe).ends_with("1 pods have been Running, 2 exist\n  b: Pending; no room"));
        board.note(waits.replace("ADDED", "DELETED").as_bytes(), later).unwrap();
        board.note(event("DELETED", "Running").as_bytes(), later).unwrap();
        board.edit(|seen| assert!(seen.living.is_empty()));
        assert!(board.note(event("ERROR", "").as_bytes(), later).is_err());
    }
}
