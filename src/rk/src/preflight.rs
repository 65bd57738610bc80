//! What must hold before anything starts, each with an error that names the way out.

use anyhow::{Context, bail, ensure};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A node mounts, makes namespaces and links: that takes root.
pub(crate) fn require_root(what: &str) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{what} must run as root: use sudo, or `rk server --disable-agent` for the API server alone"
    );
    Ok(())
}

/// Kernel features the container runtime cannot do without. The network names its own through `net::probe`.
pub(crate) fn require_kernel() -> anyhow::Result<()> {
    ensure!(
        runtime::filesystem_exists("overlay").context("ask the kernel for overlayfs")?,
        "the kernel has no overlayfs, and does not load it by itself: try `modprobe overlay`, or use a kernel with \
         CONFIG_OVERLAY_FS"
    );
    ensure!(
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/memory").exists(),
        "no memory cgroup at /sys/fs/cgroup: mount cgroup2 there, and on a Raspberry Pi add \
         `cgroup_enable=memory cgroup_memory=1` to /boot/cmdline.txt"
    );
    for namespace in ["net", "pid", "ipc", "uts", "mnt"] {
        ensure!(
            Path::new("/proc/self/ns").join(namespace).exists(),
            "the kernel has no {namespace} namespaces (CONFIG_NAMESPACES)"
        );
    }
    Ok(())
}

/// Makes a folder that only its owner can enter.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("make the private folder {}", path.display()))
}

/// Binds the API port, or says who has it.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            listener.set_nonblocking(true).context("set the listener non-blocking")?;
            Ok(listener)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let port = address.port();
            let owner = match listener_of(port) {
                Some((pid, name)) => format!("{name} (pid {pid})"),
                None => "another process".to_owned(),
            };
            bail!("port {port} is in use by {owner}: stop it, or choose another port with --https-listen-port")
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}")),
    }
}

/// Process id and name of whoever listens on a TCP port of this network namespace.
fn listener_of(port: u16) -> Option<(u32, String)> {
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let link = format!("socket:[{sockets}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == link.as_str()));
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| (pid, name.trim().to_owned()))
    })
}

/// The inode of the socket in state LISTEN (0A) on `port`, in the format of /proc/net/tcp (proc(5)).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// The address clients on this box use for a listener.
pub(crate) fn local_address(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if !ip.is_unspecified() => listen,
        IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], listen.port())),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), listen.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_the_process_and_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("--https-listen-port"), "{error}");
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:192B 00000000:0000 01 0:0 0:0 0 0 0 11 1\n   1: 00000000:192B 00000000:0000 0A 0:0 0:0 0 0 0 42 1\n";
        assert_eq!(listening_inode(table, 6443), Some(42));
        assert_eq!(listening_inode(table, 6444), None);
    }
}
