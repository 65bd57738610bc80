//! The data directory: who holds it, which format and cluster it is of.

use std::any::Any;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk, Mode};
use crate::error::OpenError;
use crate::members::ClusterId;

/// The newest format that this version reads and writes.
pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    written_by: String,
    cluster_id: String,
    node_id: u64,
    /// Grows each time a survivor was made a cluster of its own.
    #[serde(default)]
    generation: u64,
    /// The member came to a cluster that was there already, so it must never begin one.
    #[serde(default)]
    joined: bool,
}

/// What is to be in a data directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// 0: whatever is there, and a random one in a new directory.
    pub(crate) node_id: u64,
    /// The cluster to join with a new directory; without one it begins a cluster.
    pub(crate) join: Option<ClusterId>,
}

/// An exclusively held data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    pub(crate) cluster: ClusterId,
    pub(crate) node_id: u64,
    /// The member came to a cluster that was there already.
    pub(crate) joined: bool,
    _lock: Box<dyn Any + Send + Sync>,
}

impl DataDir {
    /// Takes the directory, making it if there is none.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, wanted: &Wanted) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        disk::durable_path(disk, path).map_err(io)?;
        let lock = match disk.lock(&path.join("LOCK")) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        };
        let identity = identify(disk, path, wanted)?;
        let damaged = |what| OpenError::Corrupt { file: path.join("FORMAT"), offset: 0, what };
        let id = u64::from_str_radix(&identity.cluster_id, 16);
        let id = id.map_err(|_| damaged("the cluster id is not a number"))?;
        let Identity { node_id, generation, joined, .. } = identity;
        let cluster = ClusterId { id, generation };
        if let Some(expected) = wanted.join.filter(|expected| *expected != cluster) {
            let dir = path.to_owned();
            return Err(if expected.id == id {
                OpenError::WrongGeneration { dir, found: generation, expected: expected.generation }
            } else {
                OpenError::WrongCluster { dir, found: id, expected: expected.id }
            });
        }
        Ok(Self { path: path.to_owned(), cluster, node_id, joined, _lock: lock })
    }

    /// From now on the directory belongs to a cluster that goes on without its other members.
    pub(crate) fn next_generation(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.cluster.generation += 1;
        let identity = Identity {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: format!("{:016x}", self.cluster.id),
            node_id: self.node_id,
            generation: self.cluster.generation,
            joined: self.joined,
        };
        write(disk, &self.path, &identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    pub(crate) fn hard_state(&self) -> PathBuf {
        self.path.join("state")
    }
}

/// Reads or makes the identity file.
fn identify(disk: &dyn Disk, dir: &Path, wanted: &Wanted) -> Result<Identity, OpenError> {
    let path = dir.join("FORMAT");
    let damaged = |what| OpenError::Corrupt { file: path.clone(), offset: 0, what };
    let io = |source| OpenError::Io { path: path.clone(), source };
    let text = match disk.open(&path, Mode::Existing).and_then(|file| file.content()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if disk.exists(&dir.join("state")) {
                return Err(damaged("it is missing although the directory holds data"));
            }
            let identity = Identity::new(disk, wanted);
            return write(disk, dir, &identity).map(|()| identity).map_err(io);
        }
        Err(error) => return Err(io(error)),
    };
    // The format number is read on its own first: a newer format may have changed everything else.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|_| damaged("it is not JSON"))?;
    let found = value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| damaged("no format number"))?;
    if found > u64::from(FORMAT) {
        let writer = value.get("written_by").and_then(serde_json::Value::as_str).unwrap_or("unknown").to_owned();
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return Err(OpenError::NewerFormat { dir: dir.to_owned(), found, supported: FORMAT, writer });
    }
    let identity: Identity = serde_json::from_value(value).map_err(|_| damaged("a field is missing"))?;
    if wanted.node_id != 0 && identity.node_id != wanted.node_id {
        return Err(OpenError::WrongNode { dir: dir.to_owned(), found: identity.node_id, expected: wanted.node_id });
    }
    Ok(identity)
}

impl Identity {
    fn new(disk: &dyn Disk, wanted: &Wanted) -> Self {
        let id = wanted.join.map_or_else(|| disk.random(), |cluster| cluster.id);
        let random = || disk.random().max(1);
        Self {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: format!("{id:016x}"),
            node_id: if wanted.node_id == 0 { random() } else { wanted.node_id },
            generation: wanted.join.map_or(0, |cluster| cluster.generation),
            joined: wanted.join.is_some(),
        }
    }
}

fn write(disk: &dyn Disk, dir: &Path, identity: &Identity) -> io::Result<()> {
    let path = dir.join("FORMAT");
    let new = path.with_extension("tmp");
    let file = disk.open(&new, Mode::Fresh)?;
    file.write_all_at(&serde_json::to_vec(identity)?, 0)?;
    file.sync_all()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Files;

    fn wanted(node_id: u64) -> Wanted {
        Wanted { node_id, join: None }
    }

    #[test]
    fn a_directory_is_held_by_one_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(&Files, dir.path(), &wanted(1)).unwrap();
        assert!(matches!(DataDir::open(&Files, dir.path(), &wanted(1)), Err(OpenError::Locked { .. })));
        let id = held.cluster;
        drop(held);
        assert!(matches!(
            DataDir::open(&Files, dir.path(), &wanted(2)),
            Err(OpenError::WrongNode { found: 1, expected: 2, .. })
        ));
        assert_eq!(DataDir::open(&Files, dir.path(), &wanted(1)).unwrap().cluster, id);
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers_and_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("FORMAT"), r#"{"format":9,"written_by":"7.1.0","shape":"unknown"}"#).unwrap();
        let error = DataDir::open(&Files, dir.path(), &wanted(1)).unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains("up to format 1") && error.contains("7.1.0"), "{error}");
    }
}
