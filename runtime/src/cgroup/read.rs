//! Reading usage and out-of-memory kills.

use super::Cgroups;
use crate::status::{CpuStats, MemoryStats};
use std::fs;
use std::path::Path;

/// v1 shows "no limit" as the largest multiple of the page size; anything this large is no limit.
const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    pub(crate) fn cpu_stats(&self, path: &str) -> CpuStats {
        match self {
            Self::V2(_) => self.directory("cpu", path).map_or_else(CpuStats::default, |dir| {
                let stat = Table::read(&dir.join("cpu.stat"));
                CpuStats {
                    usage_ns: stat.get("usage_usec") * 1_000,
                    throttled_periods: stat.get("nr_throttled"),
                    throttled_ns: stat.get("throttled_usec") * 1_000,
                }
            }),
            Self::V1(_) => {
                let usage_ns = self.number("cpuacct", path, "cpuacct.usage").unwrap_or(0);
                let stat =
                    self.directory("cpu", path).map_or_else(Table::default, |d| Table::read(&d.join("cpu.stat")));
                CpuStats {
                    usage_ns,
                    throttled_periods: stat.get("nr_throttled"),
                    throttled_ns: stat.get("throttled_time"),
                }
            }
        }
    }

    pub(crate) fn memory_stats(&self, path: &str) -> MemoryStats {
        let Some(directory) = self.directory("memory", path) else { return MemoryStats::default() };
        let stat = Table::read(&directory.join("memory.stat"));
        let (usage, limit, inactive, rss, faults, major) = match self {
            Self::V2(_) => ("memory.current", "memory.max", "inactive_file", "anon", "pgfault", "pgmajfault"),
            Self::V1(_) => (
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
                "total_inactive_file",
                "total_rss",
                "total_pgfault",
                "total_pgmajfault",
            ),
        };
        let usage = read_number(&directory.join(usage)).unwrap_or(0);
        MemoryStats {
            usage,
            working_set: usage.saturating_sub(stat.get(inactive)),
            rss: stat.get(rss),
            limit: read_number(&directory.join(limit)).filter(|limit| *limit < UNLIMITED),
            page_faults: stat.get(faults),
            major_page_faults: stat.get(major),
        }
    }

    /// Processes and threads now, and their limit.
    pub(crate) fn pid_stats(&self, path: &str) -> (u64, Option<u64>) {
        (self.number("pids", path, "pids.current").unwrap_or(0), self.number("pids", path, "pids.max"))
    }

    /// How many processes of the cgroup the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let file = match self {
            Self::V2(_) => "memory.events",
            Self::V1(_) => "memory.oom_control",
        };
        self.directory("memory", path).map_or(0, |dir| Table::read(&dir.join(file)).get("oom_kill"))
    }

    fn number(&self, controller: &str, path: &str, file: &str) -> Option<u64> {
        read_number(&self.directory(controller, path)?.join(file))
    }
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A file of `name value` lines.
#[derive(Default)]
struct Table(String);

impl Table {
    fn read(file: &Path) -> Self {
        Self(fs::read_to_string(file).unwrap_or_default())
    }

    fn get(&self, name: &str) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_looked_up_by_whole_names() {
        let table = Table("oom_kill_disable 1\noom_kill 3\n".into());
        assert_eq!(table.get("oom_kill"), 3);
        assert_eq!(table.get("absent"), 0);
    }
}
