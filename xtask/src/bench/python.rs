//! A load client that is a Python script, run on the host of the server: the same client can measure other servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::load::Phase;
use super::subject::Subject;

#[derive(Deserialize)]
struct Results {
    results: Vec<Row>,
}

/// A row of the script's JSON.
#[derive(Deserialize)]
struct Row {
    phase: String,
    clients: usize,
    n: usize,
    rps: f64,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(default)]
    server_cpu_s: BTreeMap<String, f64>,
    bytes: Option<usize>,
}

impl From<Row> for Phase {
    fn from(row: Row) -> Self {
        Self {
            what: row.phase,
            clients: row.clients,
            requests: row.n,
            per_second: row.rps,
            p50_ms: row.p50_ms,
            p99_ms: row.p99_ms,
            server_cpu_seconds: row.server_cpu_s.values().sum(),
            answer_bytes: row.bytes,
        }
    }
}

pub(super) fn run(subject: &Subject, script: &Path, objects: usize, clients: &[usize]) -> anyhow::Result<Vec<Phase>> {
    let json = subject.folder().join("load.json");
    let clients: Vec<_> = clients.iter().map(ToString::to_string).collect();
    let mut command = subject.host().command("python3");
    command.arg(script).arg("--kubeconfig").arg(subject.kubeconfig_path()).arg("--json").arg(&json);
    command.arg(format!("--n={objects}")).arg(format!("--clients={}", clients.join(",")));
    command.arg(format!("--pids=rk={}", subject.pid()?));
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status().context("run python3")?;
    ensure!(status.success(), "{}: {status}", script.display());
    parse(&fs::read_to_string(&json).with_context(|| format!("read {}", json.display()))?)
}

fn parse(text: &str) -> anyhow::Result<Vec<Phase>> {
    let results: Results = serde_json::from_str(text).context("read the load client's JSON")?;
    Ok(results.results.into_iter().map(Phase::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_rows_become_phases() {
        let text = r#"{"server": "x", "mem": {}, "results": [{"phase": "get configmap", "clients": 16, "n": 9,
            "secs": 1.0, "rps": 9.0, "p50_ms": 1.5, "p90_ms": 2, "p99_ms": 3, "max_ms": 4, "errors": {},
            "client_cpu_s": 0.1, "server_cpu_s": {"rk": 0.5}}]}"#;
        let phases = parse(text).unwrap();
        assert_eq!((phases[0].what.as_str(), phases[0].clients, phases[0].requests), ("get configmap", 16, 9));
        assert!((phases[0].server_cpu_seconds - 0.5).abs() < f64::EPSILON);
        assert_eq!(phases[0].answer_bytes, None);
    }
}
