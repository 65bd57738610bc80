//! Taking in a snapshot: chunk by chunk into a file beside the others, each on disk before it is acknowledged.
//!
//! A transfer that was cut is taken up where it ended, also after a restart: the file is named for the snapshot's
//! checksum and size. It is verified as a whole before the Raft core hears of it; until then the state stays as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::Snapshot;

use super::Cluster;
use crate::disk::{self, Disk, DiskFile, Mode};
use crate::members::ClusterId;
use crate::raft::{SnapshotFile, network};
use crate::rpc::{Offer, Refusal, Response};
use crate::snapshot::{self, Meta, SnapshotError};
use crate::state::Applied;

/// A snapshot that is coming in.
#[derive(Debug)]
pub(super) struct Receiving {
    offer: Offer,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Bytes that are there, and on disk.
    length: u64,
}

fn begin(disk: &dyn Disk, dir: &Path, offer: Offer) -> io::Result<Receiving> {
    disk.create_dir_all(dir)?;
    let name = format!("{:08x}-{:x}.part", offer.crc, offer.size);
    for other in disk.list(dir)? {
        if Path::new(&other).extension().is_some_and(|part| part == "part") && other != *name {
            disk.remove(&dir.join(other))?;
        }
    }
    let path = dir.join(name);
    let mut file = disk.open(&path, if disk.exists(&path) { Mode::Existing } else { Mode::Fresh })?;
    let mut length = file.len()?;
    if length > offer.size {
        file = disk.open(&path, Mode::Fresh)?;
        length = 0;
    }
    Ok(Receiving { offer, file, path, length })
}

fn write(file: &dyn DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, offset)?;
    file.sync_data()
}

/// Why a snapshot that came in is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is damaged")]
    Damaged(#[from] SnapshotError),
    #[error("it is of cluster {0:016x}")]
    Foreign(u64),
    #[error("it is another one than was offered")]
    Another,
}

/// What is in a received file, if it is the snapshot that was offered, whole, and of this cluster.
fn verify(disk: &dyn Disk, path: &Path, offer: &Offer, cluster: ClusterId) -> Result<(Meta, Applied), Unusable> {
    if network::measure(&*disk.open(path, Mode::Existing)?)? != (offer.size, offer.crc) {
        return Err(Unusable::Checksum);
    }
    let (meta, state) = snapshot::read(disk, path)?;
    if meta.cluster_id != cluster.id {
        return Err(Unusable::Foreign(meta.cluster_id));
    }
    if meta.raft() == offer.meta { Ok((meta, state)) } else { Err(Unusable::Another) }
}

async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    disk::blocking(disk, work).await?
}

impl Cluster {
    pub(super) async fn offered(&self, offer: Offer) -> Response {
        let vote = self.files.vote().unwrap_or_default();
        if vote > offer.vote {
            return Response::Have { vote, offset: 0 };
        }
        self.hear_leader();
        let mut receiving = self.receiving.lock().await;
        let same = |known: &&mut Receiving| known.offer.crc == offer.crc && known.offer.size == offer.size;
        if let Some(known) = receiving.as_mut().filter(same) {
            known.offer = offer;
            return Response::Have { vote, offset: known.length };
        }
        tracing::info!(bytes = offer.size, snapshot = %offer.meta.snapshot_id, "a snapshot is coming in");
        let (disk, dir) = (self.files.disk.clone(), self.snapshots.clone());
        match blocking(&*self.files.disk, move || begin(&*disk, &dir, offer)).await {
            Ok(begun) => {
                let offset = begun.length;
                *receiving = Some(begun);
                Response::Have { vote, offset }
            }
            Err(error) => self.refuse(&error, "cannot make a file for a snapshot that is coming in"),
        }
    }

    pub(super) async fn chunk(&self, crc: u32, offset: u64, data: Bytes) -> Response {
        let mut receiving = self.receiving.lock().await;
        let Some(known) = receiving.as_mut().filter(|known| known.offer.crc == crc) else { return Response::Restart };
        self.hear_leader();
        let vote = known.offer.vote;
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= known.offer.size);
        let (Some(end), true) = (end, offset == known.length) else {
            return Response::Have { vote, offset: known.length };
        };
        let file = known.file.clone();
        match blocking(&*self.files.disk, move || write(&*file, offset, &data)).await {
            Ok(()) => {
                known.length = end;
                Response::Have { vote, offset: end }
            }
            Err(error) => self.refuse(&error, "cannot keep a part of a snapshot that is coming in"),
        }
    }

    pub(super) async fn install(&self, crc: u32) -> Response {
        let mut receiving = self.receiving.lock().await;
        let Some(known) = receiving.take_if(|known| known.offer.crc == crc) else { return Response::Restart };
        let Receiving { offer, path, .. } = known;
        let disk = &self.files.disk;
        let (cluster, reading, checked, expected) = (self.link.cluster, disk.clone(), path.clone(), offer.clone());
        let verified = disk::blocking(&**disk, move || verify(&*reading, &checked, &expected, cluster)).await;
        self.hear_leader();
        let (meta, state) = match verified {
            Ok(Ok(verified)) => verified,
            Ok(Err(error)) => {
                tracing::warn!(%error, file = %path.display(), "a snapshot that came in is not used");
                drop(disk.remove(&path));
                return Response::Restart;
            }
            Err(_) => return Response::Refused(Refusal::Stopped),
        };
        let vote = self.files.vote().unwrap_or_default();
        if vote > offer.vote {
            return Response::Installed(vote);
        }
        // It is in its place before the Raft core hears of it, which first drops the log that contradicts it, and that it
        // makes superfluous.
        let (dir, placing) = (self.snapshots.clone(), disk.clone());
        let place = move || {
            let placed = snapshot::place(&*placing, &path, &dir, &meta)?;
            placing.open(&placed, Mode::Existing)
        };
        let file = match blocking(&**disk, place).await {
            Ok(file) => file,
            Err(error) => {
                return self.refuse(&error, "cannot place a snapshot that came in");
            }
        };
        self.shared.prepare(offer.meta.last_log_id, state);
        let snapshot = Snapshot { meta: offer.meta, snapshot: Box::new(SnapshotFile(file)) };
        let installed = self.raft.install_full_snapshot(offer.vote, snapshot).await;
        // A snapshot that is older than the state is passed over.
        self.shared.prepared();
        match installed {
            Ok(response) => Response::Installed(response.vote),
            Err(_) => Response::Refused(Refusal::Stopped),
        }
    }
}
