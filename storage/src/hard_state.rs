//! The little that must be rewritten in place: the vote, how far the log is purged, and how the last run ended.
//!
//! Two slots in one preallocated file are written in turn, each with a sequence number and a checksum, so that a torn
//! write leaves the other valid and a full disk does not matter. Used by the Raft log storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::{LogId, Vote};
use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk, DiskFile, Mode};

const SLOT: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HardState {
    /// Grows with each change, thus with each start.
    pub(crate) sequence: u64,
    pub(crate) vote: Option<Vote<u64>>,
    pub(crate) purged: Option<LogId<u64>>,
    /// The kernel's boot id while the store is open; empty after an orderly end.
    pub(crate) open_in_boot: String,
    /// A part of the log was lost to damage, and not yet made up for.
    #[serde(default)]
    pub(crate) recovering: bool,
    /// There are other voters, so that what is damaged here can be had from them.
    #[serde(default)]
    pub(crate) peers: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HardStateError {
    #[error("cannot use {path}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: neither of its slots is valid", path = path.display())]
    Corrupt { path: PathBuf },
}

#[derive(Debug)]
pub(crate) struct HardStateFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    pub(crate) state: HardState,
}

impl HardStateFile {
    /// Opens the file, or makes it when the directory is new.
    pub(crate) fn open(disk: &dyn Disk, path: PathBuf) -> Result<Self, HardStateError> {
        let io = |source| HardStateError::Io { path: path.clone(), source };
        if !disk.exists(&path) {
            let new = path.with_extension("tmp");
            let file = disk::allocated(disk, &new, 2 * SLOT as u64).map_err(io)?;
            let mut made = Self { file, path: path.clone(), state: HardState::default() };
            made.update(|_| {}).map_err(io)?;
            made.file.sync_all().map_err(io)?;
            disk.rename(&new, &path).map_err(io)?;
            disk.sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(io)?;
            return Ok(made);
        }
        let file = disk.open(&path, Mode::Existing).map_err(io)?;
        let content = file.content(8 * SLOT as u64).map_err(io)?;
        let newest = content.chunks(SLOT).filter_map(decode).max_by_key(|state| state.sequence);
        match newest {
            Some(state) => Ok(Self { file, path, state }),
            None => Err(HardStateError::Corrupt { path }),
        }
    }

    /// Changes the state; on return it is on disk.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut HardState)) -> io::Result<()> {
        let mut next = self.state.clone();
        change(&mut next);
        next.sequence += 1;
        let body = serde_json::to_vec(&next)?;
        let mut slot = Vec::with_capacity(SLOT);
        slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        slot.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        slot.extend_from_slice(&body);
        let offset = (next.sequence % 2) * SLOT as u64;
        self.file.write_all_at(&slot, offset)?;
        self.file.sync_data()?;
        self.state = next;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn decode(slot: &[u8]) -> Option<HardState> {
    let length = u32::from_le_bytes(slot.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(slot.get(4..8)?.try_into().ok()?);
    let body = slot.get(8..8usize.checked_add(length)?)?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Files;

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut file = HardStateFile::open(&Files, path.clone()).unwrap();
        file.update(|state| state.vote = Some(Vote::new(3, 1))).unwrap();
        file.update(|state| state.vote = Some(Vote::new(4, 1))).unwrap();
        let slot = (file.state.sequence % 2) * SLOT as u64;
        file.file.write_all_at(b"torn", slot + 20).unwrap();
        assert_eq!(HardStateFile::open(&Files, path.clone()).unwrap().state.vote, Some(Vote::new(3, 1)));
        file.file.write_all_at(&[0; 2 * SLOT], 0).unwrap();
        assert!(matches!(HardStateFile::open(&Files, path), Err(HardStateError::Corrupt { .. })));
    }
}
