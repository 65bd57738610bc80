//! The data directory: who holds it, which format and cluster it is of.

use std::any::Any;
use std::ffi::OsString;
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
    /// Another state is taking the place of what is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replacing: Option<Replacing>,
}

/// How far a replacement has come; whoever opens the directory next finishes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Replacing {
    /// Where what was here goes, if there was something.
    aside: Option<String>,
    /// It has gone there.
    cleared: bool,
}

/// More than an identity file ever has.
const MOST: u64 = 1 << 16;

/// Where a state lies that is to replace the one that is here.
pub(crate) const INCOMING: &str = "incoming";

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
        let lock = hold(disk, path)?;
        let mut identity = identify(disk, path, wanted)?;
        finish(disk, path, &mut identity).map_err(io)?;
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
            replacing: None,
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

/// Takes the directory for this process alone, making it if there is none.
fn hold(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Any + Send + Sync>, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    disk::durable_path(disk, path).map_err(io)?;
    match disk.lock(&path.join("LOCK")) {
        Ok(lock) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// A held directory whose state is to be replaced, whatever it holds, damage included.
pub(crate) struct Vacating {
    path: PathBuf,
    /// What the identity file says, as far as it can be read.
    pub(crate) present: Option<(ClusterId, u64)>,
    _lock: Box<dyn Any + Send + Sync>,
}

impl Vacating {
    /// Takes the directory, and makes room for what is to come in.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let lock = hold(disk, path)?;
        let mut identity = read(disk, path).ok();
        if let Some(interrupted) = &mut identity {
            finish(disk, path, interrupted).map_err(io)?;
        }
        let present = identity.as_ref().and_then(|identity| {
            let id = u64::from_str_radix(&identity.cluster_id, 16).ok()?;
            Some((ClusterId { id, generation: identity.generation }, identity.node_id))
        });
        let vacating = Self { path: path.to_owned(), present, _lock: lock };
        for folder in FOLDERS {
            let place = vacating.incoming().join(folder);
            disk.create_dir_all(&place).map_err(io)?;
            for name in files(disk, &vacating.incoming(), folder).map_err(io)? {
                disk.remove(&place.join(name)).map_err(io)?;
            }
        }
        disk.sync_dir(path).map_err(io)?;
        Ok(vacating)
    }

    /// Where the other state is to be laid down, and flushed, before [`Vacating::replace`].
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join(INCOMING)
    }

    /// Puts the incoming state in the place of what is here. Once it has begun it will be finished, if need be by the
    /// next who opens the directory. Returns where the old one went, if there was one.
    pub(crate) fn replace(self, disk: &dyn Disk, cluster: ClusterId, node_id: u64) -> io::Result<Option<PathBuf>> {
        let there = disk.exists(&self.path.join("state"));
        let numbered = |number: u32| format!("before-restore-{number}");
        let aside = (1..).map(numbered).find(|name| !disk.exists(&self.path.join(name))).filter(|_| there);
        if let Some(aside) = &aside {
            let aside = self.path.join(aside);
            disk.create_dir_all(&aside)?;
            let format = disk.open(&self.path.join("FORMAT"), Mode::Existing).and_then(|file| file.content(MOST));
            if let Ok(format) = format {
                let file = disk.open(&aside.join("FORMAT"), Mode::Fresh)?;
                file.write_all_at(&format, 0)?;
                file.sync_all()?;
            }
            disk.sync_dir(&aside)?;
            disk.sync_dir(&self.path)?;
        }
        let mut identity = Identity {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: format!("{:016x}", cluster.id),
            node_id,
            generation: cluster.generation,
            joined: false,
            replacing: Some(Replacing { aside: aside.clone(), cleared: false }),
        };
        write(disk, &self.path, &identity)?;
        finish(disk, &self.path, &mut identity)?;
        Ok(aside.map(|aside| self.path.join(aside)))
    }
}

/// Where the files of a state are, below the directory.
const FOLDERS: [&str; 3] = ["", "log", "snapshots"];

/// The files of a state in one of its folders.
fn files(disk: &dyn Disk, dir: &Path, folder: &str) -> io::Result<Vec<OsString>> {
    let names = disk.list(&dir.join(folder))?;
    Ok(names.into_iter().filter(|name| !folder.is_empty() || name == "state").collect())
}

/// Does what is left of a replacement. Each step can be done again.
fn finish(disk: &dyn Disk, path: &Path, identity: &mut Identity) -> io::Result<()> {
    while let Some(replacing) = identity.replacing.clone() {
        let next = match (&replacing.aside, replacing.cleared) {
            (Some(aside), false) => {
                carry(disk, path, &path.join(aside))?;
                Some(Replacing { cleared: true, ..replacing })
            }
            _ => {
                carry(disk, &path.join(INCOMING), path)?;
                None
            }
        };
        identity.replacing = next;
        write(disk, path, identity)?;
    }
    Ok(())
}

/// Moves the files of a state; they are in one place or the other, also after a power cut.
fn carry(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    for folder in FOLDERS {
        let (source, target) = (from.join(folder), to.join(folder));
        disk.create_dir_all(&target)?;
        if !disk.exists(&source) {
            continue;
        }
        for name in files(disk, from, folder)? {
            disk.rename(&source.join(&name), &target.join(&name))?;
        }
        disk.sync_dir(&target)?;
        disk.sync_dir(&source)?;
    }
    disk.sync_dir(to)
}

/// Reads the identity file of a directory that has one.
fn read(disk: &dyn Disk, dir: &Path) -> Result<Identity, OpenError> {
    let path = dir.join("FORMAT");
    let damaged = |what| OpenError::Corrupt { file: path.clone(), offset: 0, what };
    let text = disk.open(&path, Mode::Existing).and_then(|file| file.content(MOST));
    let text = text.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    // The format number is read on its own first: a newer format may have changed everything else.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|_| damaged("it is not JSON"))?;
    let found = value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| damaged("no format number"))?;
    if found > u64::from(FORMAT) {
        let writer = value.get("written_by").and_then(serde_json::Value::as_str).unwrap_or("unknown").to_owned();
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return Err(OpenError::NewerFormat { dir: dir.to_owned(), found, supported: FORMAT, writer });
    }
    serde_json::from_value(value).map_err(|_| damaged("a field is missing"))
}

/// Reads or makes the identity file.
fn identify(disk: &dyn Disk, dir: &Path, wanted: &Wanted) -> Result<Identity, OpenError> {
    let path = dir.join("FORMAT");
    let io = |source| OpenError::Io { path: path.clone(), source };
    let identity = match read(disk, dir) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if disk.exists(&dir.join("state")) {
                let what = "it is missing although the directory holds data";
                return Err(OpenError::Corrupt { file: path, offset: 0, what });
            }
            let identity = Identity::new(disk, wanted);
            return write(disk, dir, &identity).map(|()| identity).map_err(io);
        }
        read => read?,
    };
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
            replacing: None,
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
