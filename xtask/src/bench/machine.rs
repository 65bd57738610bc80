//! The machine a measurement was made on: without it, figures mean nothing.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use super::latency::Latencies;

const FLUSHES: usize = 200;
const PAGE: [u8; 4096] = [0x5a; 4096];

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    pub(super) fdatasync_p50_ms: f64,
    /// One-minute load average when the bench began: a busy machine is no measuring instrument.
    pub(super) load: String,
}

pub(super) fn describe(dir: &Path) -> anyhow::Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let memory = read("/proc/meminfo")?;
    let kib = field(&memory, "MemTotal").and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    let cpu = read("/proc/cpuinfo")?;
    // x86 names the model; other architectures may name the machine only.
    let name = ["model name", "Model", "Hardware"].iter().find_map(|name| field(&cpu, name));
    Ok(Machine {
        cpu: name.unwrap_or(std::env::consts::ARCH).to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        memory_mib: kib.context("/proc/meminfo has no MemTotal")? / 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        fdatasync_p50_ms: flushes(dir)?.percentile(50),
        load: read("/proc/loadavg")?.split_whitespace().next().unwrap_or_default().to_owned(),
    })
}

/// `name : value` lines, as /proc has them.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

fn flushes(dir: &Path) -> anyhow::Result<Latencies> {
    let mut file = tempfile::tempfile_in(dir).with_context(|| format!("make a file in {}", dir.display()))?;
    let mut latencies = Latencies::default();
    for _ in 0..FLUSHES {
        let started = Instant::now();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&PAGE)).and_then(|()| file.sync_data())?;
        latencies.add(started.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_space_surrounds_them() {
        let text = "processor\t: 0\nmodel name\t: Fast CPU\nMemTotal:       16 kB\n";
        assert_eq!(field(text, "model name"), Some("Fast CPU"));
        assert_eq!(field(text, "MemTotal"), Some("16 kB"));
        assert_eq!(field(text, "Hardware"), None);
    }
}
