//! Putting an archive in the place of what a data directory holds.
//!
//! What comes out is a cluster of one voter. Keys and values are those of the archive; the revision goes far ahead, and
//! everything below counts as compacted: whoever saw a revision of the state that is gone, older or newer than the
//! archive, is told to list again. Members of the old cluster are refused, since the generation of the directory's
//! cluster grows; an empty directory becomes a cluster with a new id. Leases begin anew. The old state is moved aside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use openraft::{CommittedLeaderId, LogId, StoredMembership, Vote};

use super::read::Archive;
use super::{ArchiveError, Manifest};
use crate::data_dir::Vacating;
use crate::disk::{Disk, Mode, Sequential};
use crate::error::OpenError;
use crate::hard_state::HardStateFile;
use crate::members::{ClusterId, Membership};
use crate::snapshot::{self, Blocks, Meta};
use crate::store::Config;
use crate::types::Revision;

/// More revisions than a cluster can have made between an archive and its end.
const SKIPPED_REVISIONS: u64 = 1_000_000_000;

/// What has been restored.
#[derive(Clone, Debug)]
pub struct Restored {
    pub manifest: Manifest,
    /// The cluster that the directory holds now.
    pub cluster: ClusterId,
    /// Where it begins.
    pub revision: Revision,
    /// What was there before.
    pub aside: Option<PathBuf>,
}

/// Replaces the state in a data directory that no process uses. The archive is verified as a whole first. Blocking.
///
/// The one member is what [`Config::member`] says; its id is that of the directory, or [`Config::node_id`] if it is new.
pub fn restore(config: &Config, archive: &Path) -> Result<Restored, ArchiveError> {
    let disk = &*config.disk;
    let io = |source| ArchiveError::Io { path: config.dir.clone(), source };
    // Before the directory is so much as looked at.
    Archive::open(disk, archive)?.verify(|_| Ok(()))?;
    let vacating = Vacating::open(disk, &config.dir)?;
    let archive = Archive::open(disk, archive)?;
    let manifest = archive.head.manifest();
    let random = || disk.random().max(1);
    let (cluster, me) = match vacating.present {
        Some((present, me)) => {
            let known = if present.id == manifest.cluster.id { manifest.cluster.generation } else { 0 };
            (ClusterId { id: present.id, generation: present.generation.max(known) + 1 }, me)
        }
        None => {
            let me = if config.node_id == 0 { random() } else { config.node_id };
            (ClusterId { id: random(), generation: 0 }, me)
        }
    };
    let meta = continued(config, &archive.head.state, cluster, me);
    let incoming = vacating.incoming();
    write_snapshot(disk, &incoming.join("snapshots"), &meta, archive)?;
    let mut hard_state = HardStateFile::open(disk, incoming.join("state")).map_err(OpenError::from)?;
    let voted = hard_state.update(|state| {
        state.vote = meta.last.map(|last| Vote::new(last.leader_id.term, me));
        state.purged = meta.last;
    });
    voted.map_err(io)?;
    for folder in ["log", "snapshots", ""] {
        disk.sync_dir(&incoming.join(folder)).map_err(io)?;
    }
    let aside = vacating.replace(disk, cluster, me).map_err(io)?;
    Ok(Restored { manifest, cluster, revision: meta.revision, aside })
}

/// How the state of an archive goes on.
fn continued(config: &Config, state: &Meta, cluster: ClusterId, me: u64) -> Meta {
    let (term, index) = state.last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    let last = Some(LogId::new(CommittedLeaderId::new(term + 1, me), index.max(1)));
    let members = BTreeMap::from([(me, config.member.clone())]);
    let membership = StoredMembership::new(last, Membership::new(vec![BTreeSet::from([me])], members));
    let revision = state.revision.saturating_add(SKIPPED_REVISIONS);
    Meta { cluster_id: cluster.id, last, membership, revision, compacted: revision, leases: state.leases.clone() }
}

fn write_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    meta: &Meta,
    archive: Archive<impl io::Read>,
) -> Result<(), ArchiveError> {
    let io = |source| ArchiveError::Io { path: dir.to_owned(), source };
    let file = disk.open(&dir.join(meta.file_name()), Mode::Fresh).map_err(io)?;
    let mut out = BufWriter::new(Sequential::new(file.clone()));
    snapshot::write_head(&mut out, snapshot::MAGIC, meta).map_err(io)?;
    let mut blocks = Blocks::new(&mut out);
    archive.verify(|keys| {
        for (key, versions) in keys {
            // Older versions and deletions are below what is compacted.
            if let Some(newest) = versions.all().split_last().map(|(newest, _)| newest).filter(|v| v.value.is_some()) {
                blocks.add(key, std::slice::from_ref(newest))?;
            }
        }
        Ok(())
    })?;
    blocks.finish().map_err(io)?;
    out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)
}
