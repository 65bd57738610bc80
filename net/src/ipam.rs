//! Pod addresses: which pod has which, kept on disk so that they survive a restart of rk.
//!
//! The file is written before an address is handed out (0600, replaced by rename). A file that cannot be read is not
//! fatal: the pods' interfaces name their pod and address (see `links::pod`), and `adopt` takes the leases from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::config::HostPort;
use crate::error::NetError;

const FILE: &str = "leases.json";

/// A pod's address and the node's ports that lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) ip: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_ports: Vec<HostPort>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// Where the last address was found; the next search starts after it, so that addresses are not reused at once.
    last: Option<Ipv4Addr>,
    leases: BTreeMap<String, Lease>,
}

#[derive(Debug)]
pub(crate) struct Ipam {
    path: PathBuf,
    range: Ipv4Net,
    saved: Saved,
    taken: BTreeSet<Ipv4Addr>,
}

impl Ipam {
    /// Reads the leases of `range` from `dir`. Leases outside the range (the node was given another one) are dropped.
    pub(crate) fn open(dir: &Path, range: Ipv4Net) -> Result<Self, NetError> {
        if range.prefix_len() > 29 {
            return Err(NetError::CidrTooSmall(range));
        }
        let path = dir.join(FILE);
        fs::create_dir_all(dir).map_err(|source| NetError::File { path: dir.to_owned(), source })?;
        let saved = match read(&path) {
            Ok(saved) => saved,
            Err(error @ NetError::Leases { .. }) => {
                tracing::warn!(%error, "leases are lost; taking them from the interfaces");
                Saved::default()
            }
            Err(error) => return Err(error),
        };
        let mut ipam = Self { path, range, saved, taken: BTreeSet::new() };
        ipam.saved.leases.retain(|_, lease| range.contains(&lease.ip));
        ipam.taken = ipam.saved.leases.values().map(|lease| lease.ip).collect();
        Ok(ipam)
    }

    pub(crate) fn range(&self) -> Ipv4Net {
        self.range
    }

    /// The bridge's address: the first of the range.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        gateway(self.range)
    }

    pub(crate) fn get(&self, pod_id: &str) -> Option<&Lease> {
        self.saved.leases.get(pod_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Lease)> {
        self.saved.leases.iter()
    }

    /// The pod's lease, made when it has none; on disk when this returns.
    pub(crate) fn acquire(&mut self, pod_id: &str, host_ports: &[HostPort]) -> Result<Lease, NetError> {
        if let Some(lease) = self.saved.leases.get_mut(pod_id) {
            if lease.host_ports != host_ports {
                lease.host_ports = host_ports.to_vec();
            } else {
                return Ok(lease.clone());
            }
        } else {
            let ip = self.free()?;
            self.saved.last = Some(ip);
            self.insert(pod_id, Lease { ip, host_ports: host_ports.to_vec() });
        }
        self.save()?;
        Ok(self.saved.leases[pod_id].clone())
    }

    /// Takes over an address a pod has in the kernel, unless the lease is known. Not saved until the next change.
    pub(crate) fn adopt(&mut self, pod_id: &str, ip: Ipv4Addr) {
        let fits = self.range.contains(&ip) && !self.taken.contains(&ip);
        if fits && !self.saved.leases.contains_key(pod_id) {
            self.insert(pod_id, Lease { ip, host_ports: Vec::new() });
        }
    }

    /// A full disk does not keep the lease: the next change is written with it gone, or a restart finds no pod for it.
    pub(crate) fn release(&mut self, pod_id: &str) -> Option<Lease> {
        let lease = self.saved.leases.remove(pod_id)?;
        self.taken.remove(&lease.ip);
        if let Err(error) = self.save() {
            tracing::warn!(pod_id, %error, "the address is free, but its lease is still on disk");
        }
        Some(lease)
    }

    fn insert(&mut self, pod_id: &str, lease: Lease) {
        self.taken.insert(lease.ip);
        self.saved.leases.insert(pod_id.to_owned(), lease);
    }

    /// The next free address after the last one given out; network, gateway and broadcast are never given.
    fn free(&self) -> Result<Ipv4Addr, NetError> {
        let first = self.gateway().to_bits() + 1;
        let last = self.range.broadcast().to_bits() - 1;
        let start = self.saved.last.map_or(first, |ip| ip.to_bits() + 1).clamp(first, last + 1);
        (start..=last)
            .chain(first..start)
            .map(Ipv4Addr::from_bits)
            .find(|ip| !self.taken.contains(ip))
            .ok_or(NetError::Exhausted(self.range))
    }

    fn save(&self) -> Result<(), NetError> {
        let failed = |source| NetError::File { path: self.path.clone(), source };
        let bytes =
            serde_json::to_vec(&self.saved).map_err(|source| NetError::Leases { path: self.path.clone(), source })?;
        let fresh = self.path.with_extension("json.new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        fs::rename(&fresh, &self.path).map_err(failed)
    }
}

/// Removes the leases kept in `dir`.
pub(crate) fn forget(dir: &Path) -> Result<(), NetError> {
    let path = dir.join(FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(NetError::File { path, source }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Saved, NetError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| NetError::Leases { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Saved::default()),
        Err(source) => Err(NetError::File { path: path.to_owned(), source }),
    }
}

/// The address of a node on its pods' network.
pub(crate) fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() + 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn range() -> Ipv4Net {
        "10.42.3.0/29".parse().unwrap()
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, 3, last)
    }

    #[test]
    fn the_same_pod_keeps_its_address_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ipam::open(dir.path(), range()).unwrap().acquire("a", &[]).unwrap();
        let mut reopened = Ipam::open(dir.path(), range()).unwrap();
        assert_eq!(reopened.acquire("a", &[]).unwrap(), first);
        assert_eq!(reopened.acquire("b", &[]).unwrap().ip, ip(3));
        let mode = fs::metadata(dir.path().join("leases.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn addresses_are_reused_only_after_the_range_went_round() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path(), range()).unwrap();
        assert_eq!(ipam.acquire("a", &[]).unwrap().ip, ip(2));
        ipam.release("a").unwrap();
        let rest: Vec<_> = ["b", "c", "d", "e"].map(|pod| ipam.acquire(pod, &[]).unwrap().ip).into();
        assert_eq!(rest, [ip(3), ip(4), ip(5), ip(6)]);
        assert_eq!(ipam.acquire("f", &[]).unwrap().ip, ip(2));
        assert!(matches!(ipam.acquire("g", &[]), Err(NetError::Exhausted(_))));
    }

    #[test]
    fn an_address_is_given_back_although_the_disk_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path(), range()).unwrap();
        ipam.acquire("a", &[]).unwrap();
        // Stands for a full disk: root may write everywhere else.
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(ipam.release("a").unwrap().ip, ip(2), "host ports of the pod are closed by its lease");
        assert!(ipam.get("a").is_none());
    }

    #[test]
    fn a_damaged_file_is_replaced_and_kernel_addresses_are_adopted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("leases.json"), b"{").unwrap();
        let mut ipam = Ipam::open(dir.path(), range()).unwrap();
        ipam.adopt("a", ip(2));
        ipam.adopt("elsewhere", Ipv4Addr::new(10, 42, 9, 2));
        assert_eq!(ipam.acquire("b", &[]).unwrap().ip, ip(3));
        assert_eq!(ipam.get("a").unwrap().ip, ip(2));
        assert!(ipam.get("elsewhere").is_none());
    }

    #[test]
    fn leases_of_another_range_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        Ipam::open(dir.path(), range()).unwrap().acquire("a", &[]).unwrap();
        let ipam = Ipam::open(dir.path(), "10.42.4.0/24".parse().unwrap()).unwrap();
        assert!(ipam.get("a").is_none());
    }
}
