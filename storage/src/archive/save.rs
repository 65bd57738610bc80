//! Writing an archive, of an open store or of a data directory at rest.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use sha2::{Digest, Sha256};

use super::{ArchiveError, FORMAT, Head, Label, MAGIC, Manifest};
use crate::command::Command;
use crate::data_dir::{DataDir, Wanted};
use crate::disk::{Disk, DiskFile, Mode, Sequential};
use crate::error::OpenError;
use crate::hard_state::HardStateFile;
use crate::log::Log;
use crate::members::ClusterId;
use crate::mvcc::Mvcc;
use crate::open;
use crate::raft;
use crate::snapshot;
use crate::state::{Applied, Pinned, Shared};
use crate::store::Config;

/// Written bytes after which they are put on disk, so that the log's own flushes never wait for a whole archive.
const FLUSH_EVERY: u64 = 1 << 20;

/// Writes the present state to `target`, which must not exist. Blocking.
pub(crate) fn save(
    disk: &dyn Disk,
    shared: &Shared,
    cluster: ClusterId,
    target: &Path,
    label: Label,
) -> Result<Manifest, ArchiveError> {
    let io = |source| ArchiveError::Io { path: target.to_owned(), source };
    if disk.exists(target) {
        return Err(io(io::ErrorKind::AlreadyExists.into()));
    }
    let Label { created, written_by, about } = label;
    let head = {
        let mut state = shared.write();
        state.mvcc.pin();
        let (keys, bytes) = state.mvcc.live();
        let (generation, changed) = (cluster.generation, shared.changed());
        let state = snapshot::Meta::of(cluster.id, &state);
        Head { written_by, created, generation, changed, keys, bytes, about, state }
    };
    let _pinned = Pinned(shared);
    let partial = partial(target);
    let written = write(disk, shared, &head, &partial).inspect_err(|_| drop(disk.remove(&partial)));
    written.map_err(io)?;
    let dir = target.parent().unwrap_or(Path::new("."));
    disk.rename(&partial, target).and_then(|()| disk.sync_dir(dir)).map_err(io)?;
    Ok(head.manifest())
}

/// Where an archive lies before it gets its name.
fn partial(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".tmp");
    target.with_file_name(name)
}

fn write(disk: &dyn Disk, shared: &Shared, head: &Head, path: &Path) -> io::Result<()> {
    if disk.exists(path) {
        // Not written into: it may be somebody else's, or a link.
        disk.remove(path)?;
    }
    let file = disk.open(path, Mode::Fresh)?;
    let flushed = Flushed { file: file.clone(), out: Sequential::new(file), since: 0 };
    let mut out = Hashed { out: BufWriter::with_capacity(256 << 10, flushed), hash: Sha256::new() };
    let [a, b, c, d, e, f, g] = MAGIC;
    snapshot::write_head(&mut out, [a, b, c, d, e, f, g, FORMAT], head)?;
    snapshot::write_state(&mut out, shared, head.state.revision)?;
    let Hashed { mut out, hash } = out;
    out.write_all(&hash.finalize())?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.file.sync_all()
}

/// Computes the checksum on the way.
struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Puts on disk what was written, again and again.
struct Flushed {
    file: std::sync::Arc<dyn DiskFile>,
    out: Sequential,
    since: u64,
}

impl Write for Flushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.since += written as u64;
        if self.since >= FLUSH_EVERY {
            self.file.sync_data()?;
            self.since = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes an archive of a data directory that no process uses. A member of several may hold entries of which it does not
/// know whether they count; they are taken to. Blocking; the store in the directory stays as it is.
pub fn save_offline(config: &Config, target: &Path, label: Label) -> Result<Manifest, ArchiveError> {
    let disk = &*config.disk;
    if !disk.exists(&config.dir.join("FORMAT")) {
        return Err(ArchiveError::NoStore { dir: config.dir.clone() });
    }
    let dir = DataDir::open(disk, &config.dir, &Wanted { node_id: config.node_id, join: None })?;
    let mut hard_state = HardStateFile::open(disk, dir.hard_state()).map_err(OpenError::from)?;
    let (mut state, log) = open::read(config, &dir, &mut hard_state)?;
    let changed = state.mvcc.revision();
    let changed = replay(&mut state, &log)?.unwrap_or(changed);
    let shared = Shared::new(state);
    shared.set_changed(changed);
    save(disk, &shared, dir.cluster, target, label)
}

/// Applies the log to the state that it builds on. Returns the revision of the newest change that was not coalesced.
fn replay(state: &mut Applied, log: &Log) -> Result<Option<u64>, OpenError> {
    let mut changed = None;
    let first = state.last.map_or(0, |last| last.index + 1).max(log.first());
    for index in first..log.next() {
        let entry = raft::decode(&log.read(index)?).map_err(|error| OpenError::Raft(Box::new(error)))?;
        state.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(proposal) => {
                for command in &proposal.batch().commands {
                    let before = state.mvcc.revision();
                    run(&mut state.mvcc, command);
                    if command.synced() && state.mvcc.revision() > before {
                        changed = Some(state.mvcc.revision());
                    }
                }
            }
            EntryPayload::Membership(membership) => {
                state.membership = openraft::StoredMembership::new(Some(entry.log_id), membership);
            }
        }
    }
    Ok(changed)
}

/// A command that was refused when it was first applied is refused again.
fn run(mvcc: &mut Mvcc, command: &Command) {
    match command {
        Command::Txn(txn) => drop(mvcc.txn(txn, &mut Vec::new())),
        Command::Compact(revision) => drop(mvcc.compact(*revision)),
        Command::LeaseGrant { id, ttl_secs } => drop(mvcc.grant(*id, *ttl_secs)),
        Command::LeaseRevoke(id) => drop(mvcc.revoke(*id)),
        Command::Skip(revisions) => mvcc.skip(*revisions),
    }
}
