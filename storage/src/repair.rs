//! Damage on a member that has peers, and survivors that have lost theirs. Used while opening, and instead of it.
//!
//! A damaged part of the log or a damaged snapshot is set aside, never deleted, and what is missing comes from the leader
//! again. Raft's promise is kept by not voting meanwhile: the member may have acknowledged entries that it no longer has,
//! and with its vote somebody could lead who never had them either. It votes again once an entry that it proposed after
//! its start has come back to it through a leader's log: everything that was ever counted on is before that entry.
//! A damaged vote cannot be made up for; such a member joins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Vote};

use crate::data_dir::{DataDir, Wanted};
use crate::disk::{Disk, Mode};
use crate::error::OpenError;
use crate::hard_state::HardStateFile;
use crate::log::{Append, segment};
use crate::members::{ClusterId, Membership};
use crate::open;
use crate::raft;
use crate::snapshot;
use crate::store::Config;

/// Where damaged files go, in the data directory.
const DAMAGED: &str = "damaged";

/// Sets a damaged log or snapshot aside, with whatever cannot be used without it.
pub(crate) fn set_aside(
    disk: &dyn Disk,
    dir: &DataDir,
    hard_state: &mut HardStateFile,
    file: &Path,
) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: file.to_owned(), source };
    // First of all: from here on the member must not vote.
    hard_state.update(|state| state.recovering = true).map_err(io)?;
    let named = file.file_name().and_then(|name| name.to_str());
    let first = match named.and_then(segment::parse_name) {
        Some(first) if file.starts_with(dir.log()) => first,
        _ => {
            if disk.exists(file) && file.starts_with(dir.snapshots()) && file != dir.snapshots() {
                put_away(disk, dir, file).map_err(io)?;
            }
            let base = snapshot::newest(disk, &dir.snapshots())?;
            let covers = |index: u64| base.as_deref().and_then(snapshot::index_of).is_some_and(|base| base >= index);
            if hard_state.state.purged.is_none_or(|purged| covers(purged.index)) {
                return Ok(());
            }
            // The log goes on from a state that is gone.
            hard_state.update(|state| state.purged = None).map_err(io)?;
            0
        }
    };
    for name in disk.list(&dir.log()).map_err(io)? {
        if name.to_str().and_then(segment::parse_name).is_some_and(|other| other >= first) {
            put_away(disk, dir, &dir.log().join(&name)).map_err(io)?;
        }
    }
    disk.sync_dir(&dir.log()).map_err(io)
}

fn put_away(disk: &dyn Disk, dir: &DataDir, file: &Path) -> io::Result<()> {
    let aside = dir.path().join(DAMAGED);
    disk.create_dir_all(&aside)?;
    let name = file.file_name().unwrap_or_default();
    let numbered = |number: u32| {
        let mut numbered = OsString::from(name);
        numbered.push(format!(".{number}"));
        aside.join(numbered)
    };
    let free = (1..).map(numbered).find(|path| !disk.exists(path)).unwrap_or_else(|| aside.join(name));
    disk.rename(file, &free)?;
    disk.sync_dir(&aside)?;
    disk.sync_dir(dir.path())
}

/// What became of a survivor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// What others must join now.
    pub cluster: ClusterId,
    /// The data as it was.
    pub aside: PathBuf,
}

/// Makes the member in a data directory, while it is not running, a cluster of its own: for when most of the voters are
/// lost for good. It keeps all that it has. The others are told to join again when they next speak to it. Blocking.
pub fn force_one_voter(config: &Config) -> Result<Forced, OpenError> {
    let disk = &*config.disk;
    let io = |source| OpenError::Io { path: config.dir.clone(), source };
    let mut dir = DataDir::open(disk, &config.dir, &Wanted { node_id: config.node_id, join: None })?;
    let mut hard_state = HardStateFile::open(disk, dir.hard_state())?;
    let (state, mut log) = open::read(config, &dir, &mut hard_state)?;
    let known = open::newest_membership(&log, &state)?.map(|(_, known)| known).unwrap_or_default();
    let aside = config.dir.join(format!("before-generation-{}", dir.cluster.generation + 1));
    copy(disk, &config.dir, &aside).map_err(io)?;
    // First of all: whoever still counts on the old cluster must not take this member for a part of it.
    dir.next_generation(disk).map_err(io)?;
    let me = dir.node_id;
    let member = known.get_node(&me).filter(|known| !known.name.is_empty()).unwrap_or(&config.member).clone();
    let membership = Membership::new(vec![BTreeSet::from([me])], BTreeMap::from([(me, member)]));
    let term = hard_state.state.vote.map_or(0, |vote| vote.leader_id.term) + 1;
    let index = log.next();
    let log_id = LogId::new(CommittedLeaderId::new(term, me), index);
    let entry = Entry { log_id, payload: EntryPayload::Membership(membership) };
    let append = Append::new(index, (term, me), Vec::new(), |out| raft::encode_into(&entry, out));
    let append = append.map_err(|error| OpenError::Raft(Box::new(error)))?;
    hard_state
        .update(|state| {
            state.vote = Some(Vote::new(term, me));
            state.recovering = false;
            state.peers = false;
        })
        .map_err(io)?;
    log.reserve(append.body_len() as u64).map_err(io)?;
    log.append(&mut [append])?;
    if let Some(flush) = log.flush() {
        flush.sync().map_err(io)?;
    }
    Ok(Forced { cluster: dir.cluster, aside })
}

/// Moves the data of a member that must join again out of the way, and says where to. Blocking.
pub fn move_aside(config: &Config) -> Result<PathBuf, OpenError> {
    let disk = &*config.disk;
    let io = |source| OpenError::Io { path: config.dir.clone(), source };
    let held = DataDir::open(disk, &config.dir, &Wanted { node_id: config.node_id, join: None })?;
    let name = config.dir.file_name().unwrap_or_default().to_owned();
    let numbered = |number: u32| {
        let mut numbered = name.clone();
        numbered.push(format!(".old-{number}"));
        config.dir.with_file_name(numbered)
    };
    let aside = (1..).map(numbered).find(|path| !disk.exists(path)).unwrap_or_else(|| config.dir.with_extension("old"));
    disk.rename(&config.dir, &aside).map_err(io)?;
    drop(held);
    Ok(aside)
}

/// Copies what is in a data directory, snapshots and log included.
fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    for (folder, wanted) in [("", &["FORMAT", "state"][..]), ("log", &[]), ("snapshots", &[])] {
        let (source, target) = (from.join(folder), to.join(folder));
        disk.create_dir_all(&target)?;
        for name in disk.list(&source)? {
            let known = name.to_str().is_some_and(|name| wanted.contains(&name));
            if known || !folder.is_empty() {
                let file = disk.open(&target.join(&name), Mode::Fresh)?;
                file.write_all_at(&disk.open(&source.join(&name), Mode::Existing)?.content(u64::MAX)?, 0)?;
                file.sync_all()?;
            }
        }
        disk.sync_dir(&target)?;
    }
    disk.sync_dir(from)
}
