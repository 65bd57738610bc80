//! Facts about the machine, read once at the start.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// What does not change while the machine is up.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    pub(crate) cpus: u32,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) max_pids: u64,
    /// Architecture as Go and image indexes name it.
    pub(crate) architecture: &'static str,
    /// Bytes of huge pages by size in KiB.
    pub(crate) huge_pages: Vec<(u64, u64)>,
    pub(crate) info: NodeSystemInfo,
}

impl Machine {
    pub(crate) fn probe(hostname: Option<String>) -> Machine {
        let (kernel, node_name) = match nix::sys::utsname::uname() {
            Ok(uts) => (uts.release().to_string_lossy().into_owned(), uts.nodename().to_string_lossy().into_owned()),
            Err(_) => (String::new(), String::new()),
        };
        let architecture = go_architecture(std::env::consts::ARCH);
        let info = NodeSystemInfo {
            architecture: architecture.to_owned(),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: concat!("rk://", env!("CARGO_PKG_VERSION")).to_owned(),
            kernel_version: kernel,
            machine_id: first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
            operating_system: "linux".to_owned(),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            system_uuid: first_line(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
            ..NodeSystemInfo::default()
        };
        Machine {
            hostname: hostname.unwrap_or(node_name).to_ascii_lowercase(),
            cpus: count_cpus(&line("/sys/devices/system/cpu/online")),
            memory: meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal").unwrap_or(0),
            max_pids: line("/proc/sys/kernel/pid_max").parse().unwrap_or(32_768),
            architecture,
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            info,
        }
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn first_line(paths: &[&str]) -> String {
    paths.iter().map(|p| line(p)).find(|l| !l.is_empty()).unwrap_or_default()
}

fn go_architecture(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// A field of /proc/meminfo, in bytes.
pub(crate) fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.split(':').next() == Some(field))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Counts a kernel CPU list such as `0-3,8`.
fn count_cpus(list: &str) -> u32 {
    let count = |part: &str| match part.split_once('-') {
        Some((low, high)) => Some(high.parse::<u32>().ok()?.checked_sub(low.parse().ok()?)? + 1),
        None => part.parse::<u32>().ok().map(|_| 1),
    };
    list.split(',').filter_map(count).sum::<u32>().max(1)
}

fn os_image(os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned())
}

fn huge_pages(root: &Path) -> Vec<(u64, u64)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((kilobytes, count * kilobytes * 1024))
    });
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort_unstable();
    sizes
}

/// Capacity and room of the file system under `path`: (capacity, available, inodes, inodes free).
pub(crate) fn file_system(path: &Path) -> Option<(u64, u64, u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    Some((stat.blocks() * block, stat.blocks_available() * block, stat.files(), stat.files_available()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0-3,8"), 5);
        assert_eq!(count_cpus("0"), 1);
        assert_eq!(count_cpus(""), 1);
    }

    #[test]
    fn facts_are_parsed() {
        assert_eq!(meminfo("MemTotal:       100 kB\nMemFree: 5 kB\n", "MemTotal"), Some(102_400));
        assert_eq!(os_image("NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        let machine = Machine::probe(None);
        assert!(machine.memory > 0 && !machine.info.kernel_version.is_empty());
    }
}
