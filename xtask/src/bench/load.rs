//! API load: create, get and list at several numbers of clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use http::Method;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;

use super::api::{Connection, Target};
use super::latency::Latencies;
use super::processes;
use super::subject::Subject;

/// Lists are of megabytes; fewer make a figure.
const LISTS_PER_CLIENT: usize = 5;
const LEAST_LISTS: usize = 20;
const PAYLOAD: usize = 1024;

/// One kind of request, sent by so many clients.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Phase {
    pub(super) what: String,
    pub(super) clients: usize,
    pub(super) requests: usize,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) server_cpu_seconds: f64,
    /// Size of the last answer's body, where known.
    pub(super) answer_bytes: Option<usize>,
}

/// What to send; prepared before the clock starts.
struct Prepared {
    method: Method,
    path: String,
    body: Option<Bytes>,
}

pub(super) async fn run(subject: &Subject, objects: usize, clients: &[usize]) -> anyhow::Result<Vec<Phase>> {
    let kubeconfig = Target::parse(&std::fs::read_to_string(subject.kubeconfig_path())?)?;
    let load = Load { kubeconfig, pid: subject.pid()?, objects };
    let mut phases = Vec::new();
    for &clients in clients {
        phases.extend(load.config_maps(clients).await?);
    }
    phases.extend(load.pods(clients).await?);
    Ok(phases)
}

struct Load {
    kubeconfig: Target,
    pid: u32,
    objects: usize,
}

impl Load {
    async fn config_maps(&self, clients: usize) -> anyhow::Result<Vec<Phase>> {
        let namespace = format!("load-{clients}");
        let mut connection = Connection::open(&self.kubeconfig).await?;
        connection.make_namespace(&namespace).await?;
        let base = format!("/api/v1/namespaces/{namespace}/configmaps");
        let names = (0..self.objects).map(|number| format!("load-{number:05}"));
        let creates = names.clone().map(|name| post(&base, &config_map(&name))).collect();
        let gets = names.map(|name| get(format!("{base}/{name}"))).collect();
        let created = self.phase("create ConfigMap, 1 KB", clients, creates).await?;
        let got = self.phase("get ConfigMap", clients, gets).await?;
        connection.must(Method::DELETE, &format!("/api/v1/namespaces/{namespace}"), None).await?;
        Ok(vec![created, got])
    }

    /// Pods that no scheduler takes, and lists of all of them.
    async fn pods(&self, clients: &[usize]) -> anyhow::Result<Vec<Phase>> {
        let mut connection = Connection::open(&self.kubeconfig).await?;
        connection.make_namespace("load-pods").await?;
        let base = "/api/v1/namespaces/load-pods/pods";
        let creates = (0..self.objects).map(|number| post(base, &pod(&format!("load-{number:05}")))).collect();
        let mut phases = vec![self.phase("create Pod", 16, creates).await?];
        for &clients in clients {
            let count = LEAST_LISTS.max(clients * LISTS_PER_CLIENT);
            let lists = (0..count).map(|_| get(base.to_owned())).collect();
            phases.push(self.phase(&format!("list {} Pods, JSON", self.objects), clients, lists).await?);
        }
        connection.must(Method::DELETE, "/api/v1/namespaces/load-pods", None).await?;
        Ok(phases)
    }

    async fn phase(&self, what: &str, clients: usize, requests: Vec<Prepared>) -> anyhow::Result<Phase> {
        let mut connections = Vec::new();
        for _ in 0..clients {
            let mut connection = Connection::open(&self.kubeconfig).await?;
            connection.must(Method::GET, "/version", None).await?;
            connections.push(connection);
        }
        let cpu = || processes::cpu_seconds(self.pid).context("read the server's CPU time");
        let (next, cpu_before, started) = (AtomicUsize::new(0), cpu()?, Instant::now());
        let work = connections.into_iter().map(|connection| send_all(connection, &requests, &next));
        let done = try_join_all(work).await.with_context(|| what.to_owned())?;
        let seconds = started.elapsed().as_secs_f64();
        let answer_bytes = done.iter().map(|(_, bytes)| *bytes).max();
        let latencies: Latencies = done.into_iter().flat_map(|(latencies, _)| latencies).collect();
        Ok(Phase {
            what: what.to_owned(),
            clients,
            requests: latencies.len(),
            per_second: f64::from(u32::try_from(latencies.len())?) / seconds,
            p50_ms: latencies.percentile(50),
            p99_ms: latencies.percentile(99),
            server_cpu_seconds: cpu()? - cpu_before,
            answer_bytes,
        })
    }
}

/// One client: takes requests until none is left. Latencies, and the size of the last answer.
async fn send_all(
    mut connection: Connection,
    requests: &[Prepared],
    next: &AtomicUsize,
) -> anyhow::Result<(Vec<std::time::Duration>, usize)> {
    let (mut latencies, mut bytes) = (Vec::new(), 0);
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let started = Instant::now();
        let (status, body) = connection.send(request.method.clone(), &request.path, request.body.clone()).await?;
        latencies.push(started.elapsed());
        if !status.is_success() {
            bail!("{} {}: {status}: {}", request.method, request.path, String::from_utf8_lossy(&body));
        }
        bytes = body.len();
    }
    Ok((latencies, bytes))
}

fn get(path: String) -> Prepared {
    Prepared { method: Method::GET, path, body: None }
}

fn post(path: &str, body: &serde_json::Value) -> Prepared {
    Prepared { method: Method::POST, path: path.to_owned(), body: Some(body.to_string().into()) }
}

fn config_map(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": "load"}},
        "data": {"payload": "x".repeat(PAYLOAD)},
    })
}

fn pod(name: &str) -> serde_json::Value {
    let variables: BTreeMap<_, _> = (0..5).map(|number| (format!("E{number}"), format!("value-{number}"))).collect();
    let env: Vec<_> = variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "load"}},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{
                "name": "c", "image": "example.com/load:1", "command": ["sleep", "3600"], "env": env,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
            }],
        },
    })
}
