//! Start on a fresh data dir: until the API is ready, and until the node is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Method;
use serde::{Deserialize, Serialize};

use super::api::{Connection, Target};
use super::subject::{NODE, Subject};

const LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is asked; bounds the error of what is measured.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Start {
    pub(super) api_ready_ms: f64,
    pub(super) node_ready_ms: f64,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

pub(super) fn measure(subject: &mut Subject) -> anyhow::Result<Start> {
    let before = subject.start();
    let kubeconfig = subject.kubeconfig()?;
    subject.inside(until_ready(&kubeconfig, before))
}

async fn until_ready(kubeconfig: &Target, before: Instant) -> anyhow::Result<Start> {
    let mut connection = Connection::open(kubeconfig).await.context("connect to the API")?;
    let ready = |status: http::StatusCode, _: &[u8]| status.is_success();
    let api_ready_ms = ask(&mut connection, "/readyz", before, ready).await?;
    let node_ready = |status: http::StatusCode, body: &[u8]| {
        let node = serde_json::from_slice::<Node>(body).ok().filter(|_| status.is_success());
        let conditions = node.map(|node| node.status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    };
    let node_ready_ms = ask(&mut connection, &format!("/api/v1/nodes/{NODE}"), before, node_ready).await?;
    Ok(Start { api_ready_ms, node_ready_ms })
}

/// Asks until `accept`, and returns the milliseconds since `before`.
async fn ask(
    connection: &mut Connection,
    path: &str,
    before: Instant,
    accept: impl Fn(http::StatusCode, &[u8]) -> bool,
) -> anyhow::Result<f64> {
    loop {
        let (status, body) = connection.send(Method::GET, path, None).await?;
        if accept(status, &body) {
            return Ok(before.elapsed().as_secs_f64() * 1e3);
        }
        if before.elapsed() > LIMIT {
            bail!("{path}: not ready within {LIMIT:?}; last answer {status}: {}", String::from_utf8_lossy(&body));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
