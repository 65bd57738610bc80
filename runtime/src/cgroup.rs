//! Control groups of both generations: making, limiting, reading, killing and removing them.
//!
//! Paths are absolute inside the hierarchies and the same in each of them. All limits are written here, never by
//! libcontainer, so that pods, containers and later updates behave alike. Used by [`crate::Runtime`] and by the shim.

mod limits;
mod read;
mod v2_devices;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where this machine's hierarchies are mounted.
#[derive(Clone, Debug)]
pub(crate) enum Cgroups {
    /// One hierarchy per set of controllers.
    V1(Vec<Hierarchy>),
    V2(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

const ROOT: &str = "/sys/fs/cgroup";

impl Cgroups {
    /// Reads the mount table. The unified hierarchy counts only where it is mounted at the root.
    pub(crate) fn detect() -> io::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        Self::from_mount_table(&table).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted under /sys/fs/cgroup")
        })
    }

    fn from_mount_table(table: &str) -> Option<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in table.lines() {
            let (Some(mount), Some((_, tail))) = (line.split(' ').nth(4), line.split_once(" - ")) else { continue };
            let mut tail = tail.split(' ');
            match tail.next() {
                Some("cgroup2") if mount == ROOT => return Some(Self::V2(mount.into())),
                Some("cgroup") => {
                    let controllers: Vec<String> = tail.nth(1).map_or_else(Vec::new, |options| {
                        options
                            .split(',')
                            .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"))
                            .map(str::to_owned)
                            .collect()
                    });
                    if !hierarchies.iter().any(|h| h.controllers == controllers) {
                        hierarchies.push(Hierarchy { controllers, mount: mount.into() });
                    }
                }
                _ => {}
            }
        }
        (!hierarchies.is_empty()).then_some(Self::V1(hierarchies))
    }

    /// The directory of `path` where `controller` is managed; `None` where this machine lacks the controller.
    fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        match self {
            Self::V2(root) => Some(below(root, path)),
            Self::V1(hierarchies) => hierarchies
                .iter()
                .find(|h| h.controllers.iter().any(|c| c == controller))
                .map(|h| below(&h.mount, path)),
        }
    }

    /// The directories of `path` in all hierarchies.
    fn directories(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::V2(root) => vec![below(root, path)],
            Self::V1(hierarchies) => hierarchies.iter().map(|h| below(&h.mount, path)).collect(),
        }
    }

    /// A hierarchy's directory that is good for listing processes.
    fn process_directory(&self, path: &str) -> Option<PathBuf> {
        ["pids", "memory", "devices", "cpu"].iter().find_map(|controller| self.directory(controller, path))
    }

    /// Makes the cgroup with its parents.
    pub(crate) fn create(&self, path: &str) -> io::Result<()> {
        match self {
            Self::V2(root) => create_v2(root, path),
            Self::V1(hierarchies) => hierarchies.iter().try_for_each(|h| create_v1(h, path)),
        }
    }

    /// Moves the calling process into the cgroup.
    pub(crate) fn join(&self, path: &str) -> io::Result<()> {
        // "0" names the writer itself, in whatever process namespace it is.
        self.directories(path).iter().try_for_each(|dir| fs::write(dir.join("cgroup.procs"), "0"))
    }

    /// Processes of the cgroup and of all below it.
    pub(crate) fn processes(&self, path: &str) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        if let Some(directory) = self.process_directory(path) {
            collect_processes(&directory, &mut pids);
        }
        pids
    }

    /// Kills everything in the cgroup and below it, and waits until nothing is left or `patience` is over.
    pub(crate) fn kill_all(&self, path: &str, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Self::V2(root) = self
                && fs::write(below(root, path).join("cgroup.kill"), "1").is_ok()
            {
                tracing::trace!(path, "killed by the kernel");
            }
            let pids = self.processes(path);
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "processes survive SIGKILL"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes the cgroup and those below it, which must be empty of processes. Fine when absent.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        self.directories(path).iter().try_for_each(|dir| remove_tree(dir))
    }

    /// Gives the container its device rules: nothing but what `rules` allow.
    pub(crate) fn limit_devices(&self, path: &str, rules: &[DeviceRule]) -> io::Result<()> {
        match self {
            Self::V2(root) => v2_devices::attach(&below(root, path), rules),
            Self::V1(_) => {
                let Some(directory) = self.directory("devices", path) else { return Ok(()) };
                fs::write(directory.join("devices.deny"), "a")?;
                rules.iter().try_for_each(|rule| fs::write(directory.join("devices.allow"), rule.to_string()))
            }
        }
    }
}

/// A device class a container may use. `None` numbers mean any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    /// `c` or `b`.
    pub kind: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Any of `rwm`.
    pub access: String,
}

impl std::fmt::Display for DeviceRule {
    /// The form of v1's devices.allow.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Each ancestor of `path` from the top, itself last.
fn steps(path: &str) -> impl Iterator<Item = &Path> {
    let path = Path::new(path.trim_matches('/'));
    let mut steps: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    steps.reverse();
    steps.into_iter()
}

fn create_v1(hierarchy: &Hierarchy, path: &str) -> io::Result<()> {
    for step in steps(path) {
        let directory = hierarchy.mount.join(step);
        make_directory(&directory)?;
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            // A new v1 cpuset is empty, and no process can enter it before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit_from_parent(&directory, file)?;
            }
        }
    }
    Ok(())
}

fn inherit_from_parent(directory: &Path, file: &str) -> io::Result<()> {
    let (own, Some(parent)) = (directory.join(file), directory.parent()) else { return Ok(()) };
    if fs::read_to_string(&own)?.trim().is_empty() {
        fs::write(&own, fs::read_to_string(parent.join(file))?.trim())?;
    }
    Ok(())
}

fn create_v2(root: &Path, path: &str) -> io::Result<()> {
    let mut parent = root.to_path_buf();
    for step in steps(path) {
        enable_controllers(&parent)?;
        parent = root.join(step);
        make_directory(&parent)?;
    }
    Ok(())
}

/// Lets the children of a v2 cgroup use every controller the cgroup itself has.
fn enable_controllers(directory: &Path) -> io::Result<()> {
    let available = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let control = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control)?;
    for controller in available.split_whitespace().filter(|c| !enabled.split_whitespace().any(|e| e == *c)) {
        if let Err(error) = fs::write(&control, format!("+{controller}")) {
            tracing::warn!(?directory, controller, %error, "cgroup controller cannot be enabled");
        }
    }
    Ok(())
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn collect_processes(directory: &Path, pids: &mut BTreeSet<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in subdirectories(directory) {
        collect_processes(&child, pids);
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// rmdir answers EBUSY for a moment after the last process has gone; it is retried that long.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + Duration::from_millis(500);
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_mount_at_the_root_means_v2() {
        let table = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert!(matches!(Cgroups::from_mount_table(table), Some(Cgroups::V2(_))));
    }

    #[test]
    fn a_hybrid_machine_is_v1_and_comounted_controllers_share_a_directory() {
        let table = "40 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     41 24 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                     42 24 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let cgroups = Cgroups::from_mount_table(table).unwrap();
        assert_eq!(cgroups.directory("cpuacct", "/a/b"), Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into()));
        assert_eq!(cgroups.directory("pids", "/a"), None);
        assert_eq!(cgroups.directories("/a").len(), 2);
    }

    #[test]
    fn ancestors_come_from_the_top() {
        let all: Vec<_> = steps("/a/b/c").map(|p| p.to_str().unwrap()).collect();
        assert_eq!(all, ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn device_rules_are_written_as_the_kernel_reads_them() {
        let rule = DeviceRule { kind: 'c', major: Some(136), minor: None, access: "rwm".into() };
        assert_eq!(rule.to_string(), "c 136:* rwm");
    }
}
