//! Writing [`Resources`] into a cgroup of either generation.

use super::Cgroups;
use crate::spec::Resources;
use std::fs;
use std::io;
use std::path::Path;

/// One value for one control file.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: String,
    value: String,
    /// A machine without this file goes without the limit.
    optional: bool,
}

impl Setting {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), optional: false }
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl Cgroups {
    /// Writes every limit that is given; the others stay as they are.
    pub(crate) fn apply(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let settings = match self {
            Self::V1(_) => v1_settings(resources),
            Self::V2(_) => v2_settings(resources),
        };
        // Limits that depend on each other (memory and memory+swap) may need the other order when they shrink.
        let mut refused = Vec::new();
        for setting in settings {
            if let Err(error) = self.write(path, &setting) {
                tracing::debug!(path, file = setting.file, %error, "limit refused at first");
                refused.push(setting);
            }
        }
        refused.iter().try_for_each(|setting| self.write(path, setting))
    }

    fn write(&self, path: &str, setting: &Setting) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", setting.file));
        let Some(directory) = self.directory(setting.controller, path) else {
            if setting.optional {
                return Ok(());
            }
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{}: this machine has no {} cgroup controller", setting.file, setting.controller),
            ));
        };
        let file = directory.join(&setting.file);
        if setting.optional && !file.exists() {
            return Ok(());
        }
        write_control(&file, &setting.value).map_err(named)
    }
}

fn write_control(file: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file).and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
}

fn v1_settings(r: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |setting| settings.push(setting);
    if let Some(shares) = r.cpu_shares {
        add(Setting::new("cpu", "cpu.shares", shares.max(2)));
    }
    if let Some(period) = r.cpu_period {
        add(Setting::new("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = r.cpu_quota {
        add(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(limit) = r.memory_limit {
        add(Setting::new("memory", "memory.limit_in_bytes", limit));
    }
    if let Some(limit) = r.memory_swap_limit {
        // Without swap accounting the file is absent, and so is what it would limit.
        add(Setting::new("memory", "memory.memsw.limit_in_bytes", limit).optional());
    }
    if let Some(limit) = r.pids_limit {
        add(Setting::new("pids", "pids.max", maximum(limit)));
    }
    add_cpuset(&mut settings, r);
    for (size, bytes) in &r.hugepage_limits {
        settings.push(Setting::new("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), bytes));
    }
    settings
}

fn v2_settings(r: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |setting| settings.push(setting);
    if let Some(shares) = r.cpu_shares {
        add(Setting::new("cpu", "cpu.weight", weight_of_shares(shares)));
    }
    if r.cpu_quota.is_some() || r.cpu_period.is_some() {
        let quota = r.cpu_quota.filter(|q| *q > 0).map_or_else(|| "max".to_owned(), |q| q.to_string());
        add(Setting::new("cpu", "cpu.max", format!("{quota} {}", r.cpu_period.unwrap_or(100_000))));
    }
    if let Some(limit) = r.memory_limit {
        add(Setting::new("memory", "memory.max", maximum(limit)));
    }
    if let Some(both) = r.memory_swap_limit {
        // v2 counts swap by itself.
        let swap = if both < 0 { both } else { both.saturating_sub(r.memory_limit.unwrap_or(0)).max(0) };
        let swap = if swap < 0 { "max".to_owned() } else { swap.to_string() };
        add(Setting::new("memory", "memory.swap.max", swap).optional());
    } else if r.forbid_swap {
        add(Setting::new("memory", "memory.swap.max", 0).optional());
    }
    if r.kill_together {
        add(Setting::new("memory", "memory.oom.group", 1).optional());
    }
    if let Some(limit) = r.pids_limit {
        add(Setting::new("pids", "pids.max", maximum(limit)));
    }
    add_cpuset(&mut settings, r);
    for (size, bytes) in &r.hugepage_limits {
        settings.push(Setting::new("hugetlb", format!("hugetlb.{size}.max"), bytes));
    }
    settings.extend(r.unified.iter().map(|(file, value)| Setting::new("unified", file.clone(), value)));
    settings
}

fn add_cpuset(settings: &mut Vec<Setting>, r: &Resources) {
    for (file, value) in [("cpuset.cpus", &r.cpuset_cpus), ("cpuset.mems", &r.cpuset_mems)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            settings.push(Setting::new("cpuset", file, value));
        }
    }
}

fn maximum(limit: i64) -> String {
    if limit <= 0 { "max".to_owned() } else { limit.to_string() }
}

/// The customary linear map of 2..262144 shares onto 1..10000 weight.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_onto_the_whole_range_of_weights() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
    }

    #[test]
    fn v2_counts_swap_apart_from_memory() {
        let resources = Resources { memory_limit: Some(100), memory_swap_limit: Some(150), ..Resources::default() };
        let values: Vec<_> = v2_settings(&resources).into_iter().map(|s| (s.file, s.value)).collect();
        assert_eq!(values, [("memory.max".into(), "100".into()), ("memory.swap.max".into(), "50".into())]);
    }

    #[test]
    fn v2_forbids_swap_and_kills_together_without_a_limit() {
        let resources = Resources { forbid_swap: true, kill_together: true, ..Resources::default() };
        let values: Vec<_> = v2_settings(&resources).into_iter().map(|s| (s.file, s.value)).collect();
        assert_eq!(values, [("memory.swap.max".into(), "0".into()), ("memory.oom.group".into(), "1".into())]);
        assert!(v1_settings(&resources).is_empty());
    }

    #[test]
    fn a_quota_that_is_lifted_reads_max() {
        let resources = Resources { cpu_quota: Some(-1), cpu_period: Some(50_000), ..Resources::default() };
        assert_eq!(v2_settings(&resources)[0].value, "max 50000");
    }

    #[test]
    fn nothing_given_writes_nothing() {
        assert!(v1_settings(&Resources::default()).is_empty());
        assert!(v2_settings(&Resources::default()).is_empty());
    }
}
