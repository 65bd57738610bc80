//! The data directory: who holds it, which format and cluster it is of.

use std::any::Any;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, Mode};
use crate::error::OpenError;

/// The newest format that this version reads and writes.
pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    written_by: String,
    cluster_id: String,
    node_id: u64,
}

/// An exclusively held data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    pub(crate) cluster_id: u64,
    _lock: Box<dyn Any + Send + Sync>,
}

impl DataDir {
    /// Takes the directory, making it if there is none.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, node_id: u64) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        disk.create_dir_all(path).map_err(io)?;
        let lock = match disk.lock(&path.join("LOCK")) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        };
        let cluster_id = identify(disk, path, node_id)?;
        Ok(Self { path: path.to_owned(), cluster_id, _lock: lock })
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

/// Reads or makes the identity file; returns the cluster id.
fn identify(disk: &dyn Disk, dir: &Path, node_id: u64) -> Result<u64, OpenError> {
    let path = dir.join("FORMAT");
    let damaged = |what| OpenError::Corrupt { file: path.clone(), offset: 0, what };
    let io = |source| OpenError::Io { path: path.clone(), source };
    let text = match disk.open(&path, Mode::Existing).and_then(|file| file.content()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if disk.exists(&dir.join("state")) {
                return Err(damaged("it is missing although the directory holds data"));
            }
            return create(disk, dir, &path, node_id).map_err(io);
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
    if identity.node_id != node_id {
        return Err(OpenError::WrongNode { dir: dir.to_owned(), found: identity.node_id, expected: node_id });
    }
    u64::from_str_radix(&identity.cluster_id, 16).map_err(|_| damaged("the cluster id is not a number"))
}

fn create(disk: &dyn Disk, dir: &Path, path: &Path, node_id: u64) -> io::Result<u64> {
    let cluster_id: u64 = rand::random();
    let identity = Identity {
        format: FORMAT,
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: format!("{cluster_id:016x}"),
        node_id,
    };
    let new = path.with_extension("tmp");
    let file = disk.open(&new, Mode::Fresh)?;
    file.write_all_at(&serde_json::to_vec(&identity)?, 0)?;
    file.sync_all()?;
    disk.rename(&new, path)?;
    disk.sync_dir(dir)?;
    Ok(cluster_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Files;

    #[test]
    fn a_directory_is_held_by_one_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(&Files, dir.path(), 1).unwrap();
        assert!(matches!(DataDir::open(&Files, dir.path(), 1), Err(OpenError::Locked { .. })));
        let id = held.cluster_id;
        drop(held);
        assert!(matches!(
            DataDir::open(&Files, dir.path(), 2),
            Err(OpenError::WrongNode { found: 1, expected: 2, .. })
        ));
        assert_eq!(DataDir::open(&Files, dir.path(), 1).unwrap().cluster_id, id);
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers_and_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("FORMAT"), r#"{"format":9,"written_by":"7.1.0","shape":"unknown"}"#).unwrap();
        let error = DataDir::open(&Files, dir.path(), 1).unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains("up to format 1") && error.contains("7.1.0"), "{error}");
    }
}
