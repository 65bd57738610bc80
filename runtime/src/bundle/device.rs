//! Device nodes of a container and the rules of its device cgroup.

use crate::cgroup::DeviceRule;
use crate::spec::Device;
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use nix::sys::stat::{major, minor};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A device node that exists on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// In the container.
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub permissions: String,
}

/// Looks a requested device up; a folder stands for all devices in it.
pub(crate) fn inspect(device: &Device) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let host = fs::canonicalize(&device.host_path)?;
    collect(&host, &device.container_path, &device.permissions, &mut nodes)?;
    if nodes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device"));
    }
    Ok(nodes)
}

/// All devices of the host, for privileged containers.
pub(crate) fn host_devices() -> Vec<Node> {
    let mut nodes = Vec::new();
    let Ok(entries) = fs::read_dir("/dev") else { return nodes };
    for entry in entries.flatten() {
        // These are file systems and terminals the container has of its own.
        let own = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "hugepages"];
        if own.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if let Err(error) = collect(&entry.path(), &entry.path(), "rwm", &mut nodes) {
            tracing::debug!(path = ?entry.path(), %error, "device skipped");
        }
    }
    nodes
}

fn collect(host: &Path, container: &Path, permissions: &str, nodes: &mut Vec<Node>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(host)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(host)?.flatten() {
            collect(&entry.path(), &container.join(entry.file_name()), permissions, nodes)?;
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        nodes.push(Node {
            path: container.to_path_buf(),
            kind: if kind.is_block_device() { 'b' } else { 'c' },
            major: number(major(metadata.rdev())),
            minor: number(minor(metadata.rdev())),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            permissions: permissions.to_owned(),
        });
    }
    Ok(())
}

/// Device numbers have 12 and 20 bits.
fn number(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Nodes libcontainer does not make by itself.
pub(super) fn nodes_to_make(nodes: &[Node]) -> Result<Vec<LinuxDevice>, OciSpecError> {
    let default = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    nodes
        .iter()
        .filter(|node| !default.iter().any(|path| node.path == Path::new(path)))
        .map(|node| {
            LinuxDeviceBuilder::default()
                .path(node.path.clone())
                .typ(if node.kind == 'b' { LinuxDeviceType::B } else { LinuxDeviceType::C })
                .major(i64::from(node.major))
                .minor(i64::from(node.minor))
                .file_mode(node.mode)
                .uid(node.uid)
                .gid(node.gid)
                .build()
        })
        .collect()
}

/// What the device cgroup allows.
pub(crate) fn rules(nodes: &[Node], privileged: bool) -> Vec<DeviceRule> {
    let any = |kind, access: &str| DeviceRule { kind, major: None, minor: None, access: access.to_owned() };
    if privileged {
        return vec![any('c', "rwm"), any('b', "rwm")];
    }
    let one = |major, minor| DeviceRule { kind: 'c', major: Some(major), minor, access: "rwm".to_owned() };
    // Nodes may be made, but only these used: null, zero, full, random, urandom, tty, console, ptmx and terminals.
    let mut rules = vec![any('c', "m"), any('b', "m")];
    rules.extend([3, 5, 7, 8, 9].map(|minor| one(1, Some(minor))));
    rules.extend([0, 1, 2].map(|minor| one(5, Some(minor))));
    rules.push(one(136, None));
    rules.extend(nodes.iter().map(|node| DeviceRule {
        kind: node.kind,
        major: Some(node.major),
        minor: Some(node.minor),
        access: node.permissions.clone(),
    }));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_device_is_taken_over_with_its_numbers() {
        let device =
            Device { host_path: "/dev/zero".into(), container_path: "/dev/nought".into(), permissions: "r".into() };
        let nodes = inspect(&device).unwrap();
        assert_eq!((nodes[0].kind, nodes[0].major, nodes[0].minor), ('c', 1, 5));
        assert_eq!(nodes[0].path, Path::new("/dev/nought"));
    }

    #[test]
    fn an_ordinary_file_is_no_device() {
        let device =
            Device { host_path: "/etc/passwd".into(), container_path: "/dev/x".into(), permissions: "r".into() };
        assert!(inspect(&device).is_err());
    }
}
