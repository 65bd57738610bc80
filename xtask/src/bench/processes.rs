//! What the kernel says of rk's processes: memory, CPU time, disk writes.
//!
//! rk's processes are the server and the shims, one per pod; what runs in a pod is not rk's.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::subject::Subject;

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    /// Proportional set sizes, in KiB.
    pub(super) server_kib: u64,
    pub(super) shims_kib: u64,
    pub(super) shims: u64,
}

impl Memory {
    pub(super) fn total_kib(&self) -> u64 {
        self.server_kib + self.shims_kib
    }
}

/// Running totals since each process started, over all of rk's processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) cpu_seconds: f64,
    pub(super) written_bytes: u64,
}

pub(super) fn memory(subject: &Subject) -> anyhow::Result<Memory> {
    let server_kib = pss(subject.pid()?).context("read the server's memory")?;
    let shims: Vec<_> = shims(subject.state_dir()).into_iter().filter_map(pss).collect();
    Ok(Memory { server_kib, shims_kib: shims.iter().sum(), shims: u64::try_from(shims.len())? })
}

pub(super) fn totals(subject: &Subject) -> anyhow::Result<Totals> {
    let mut pids = shims(subject.state_dir());
    pids.push(subject.pid()?);
    let written = pids.iter().filter_map(|&pid| field(&format!("/proc/{pid}/io"), "write_bytes")).sum();
    let cpu = pids.iter().filter_map(|&pid| cpu_seconds(pid)).sum();
    Ok(Totals { cpu_seconds: cpu, written_bytes: written })
}

/// User and system time of a process.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let ticks = ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(f64::from(u32::try_from(ticks).ok()?) / f64::from(u32::try_from(per_second).ok()?))
}

/// utime + stime, fields 14 and 15 of /proc/PID/stat; the name in field 2 may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn pss(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name)?;
    value.split_whitespace().next()?.parse().ok()
}

/// The shims whose pod folder lies in `state`.
fn shims(state: &Path) -> Vec<u32> {
    let state = state.display().to_string();
    let is_shim = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = command.split('\0').skip(1);
        arguments.next() == Some("shim") && arguments.any(|argument| argument.starts_with(&state))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_shim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        assert_eq!(ticks("7 (a) b) S 1 1 1 0 -1 4 5 6 7 8 30 12 0 0 20 0"), Some(42));
        assert_eq!(ticks("7 (rk) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_no_shims() {
        assert!(pss(std::process::id()).is_some_and(|kib| kib > 0));
        assert!(shims(Path::new("/run/no-such-state")).is_empty());
    }
}
