//! Reading an archive, which may be anything: nothing in it is believed before it is checked.

use std::io::{self, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ArchiveError, FORMAT, Head, MAGIC, MAX_HEAD};
use crate::disk::{Disk, Sequential};
use crate::mvcc::Versions;
use crate::snapshot::Reader;
use crate::store::MAX_LEASE_SECS;

/// Bytes of the checksum at the end.
const CHECKSUM: usize = 32;

/// No counter of a store gets there.
const MOST: u64 = 1 << 60;

/// The part of a head that every format has.
#[derive(Deserialize)]
struct Writer {
    written_by: String,
}

/// An archive whose head has been read.
pub(super) struct Archive<R> {
    pub(super) head: Head,
    reader: Reader<Hashing<R>>,
}

impl Archive<BufReader<Sequential>> {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, ArchiveError> {
        let io = |source| ArchiveError::Io { path: path.to_owned(), source };
        let file = disk.open_to_read(path).map_err(io)?;
        Self::read(path, BufReader::with_capacity(256 << 10, Sequential::new(file)))
    }
}

impl<R: Read> Archive<R> {
    pub(super) fn read(path: &Path, input: R) -> Result<Self, ArchiveError> {
        let mut reader = Reader::new(path, Hashing { input, hash: Sha256::new() });
        let foreign = || ArchiveError::Foreign { path: path.to_owned() };
        let magic = match reader.take(8) {
            Err(crate::snapshot::SnapshotError::Corrupt { .. }) => return Err(foreign()),
            magic => magic?,
        };
        let Some(&found) = magic.strip_prefix(&MAGIC).and_then(|rest| rest.first()) else { return Err(foreign()) };
        let head = reader.head(MAX_HEAD)?;
        if found > FORMAT {
            let writer =
                serde_json::from_slice(&head).map_or_else(|_| "unknown".to_owned(), |head: Writer| head.written_by);
            return Err(ArchiveError::Newer { path: path.to_owned(), found, writer });
        }
        match serde_json::from_slice::<Head>(&head) {
            Ok(head) if found > 0 && is_possible(&head) => Ok(Self { head, reader }),
            _ => Err(reader.damaged("its description is malformed").into()),
        }
    }

    /// Compares the rest with the checksum at the end, without looking into it.
    pub(super) fn check(mut self) -> Result<(), ArchiveError> {
        let Hashing { input, hash } = &mut self.reader.input;
        let mut offset = self.reader.offset;
        let mut chunk = vec![0; 256 << 10];
        let mut tail = Vec::with_capacity(chunk.len() + CHECKSUM);
        loop {
            let read = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ArchiveError::Io { path: self.reader.path, source }),
            };
            tail.extend_from_slice(&chunk[..read]);
            let sure = tail.len().saturating_sub(CHECKSUM);
            hash.update(&tail[..sure]);
            tail.drain(..sure);
            offset += sure as u64;
        }
        self.reader.offset = offset;
        if *tail == *self.reader.input.hash.clone().finalize() {
            return Ok(());
        }
        Err(self.reader.damaged("it fails the checksum at its end: it was cut short or changed").into())
    }

    /// Reads and verifies all of it. `each` gets the keys in order, a block at a time; nothing is sure before the end.
    pub(super) fn verify(
        mut self,
        mut each: impl FnMut(&[(Bytes, Versions)]) -> io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let mut keys = Vec::new();
        let mut last = Bytes::new();
        loop {
            let at = self.reader.offset;
            if !self.reader.block(&mut keys)? {
                break;
            }
            let revision = self.head.state.revision;
            for (key, versions) in &keys {
                let revisions = || versions.all().iter().map(|version| version.mod_revision);
                let ordered = revisions().zip(revisions().skip(1)).all(|(one, next)| one < next);
                if *key <= last || !ordered || revisions().next_back().is_none_or(|newest| newest > revision) {
                    self.reader.offset = at;
                    return Err(self.reader.damaged("its keys are out of order").into());
                }
                last = key.clone();
            }
            let path = || self.reader.path.clone();
            each(&keys).map_err(|source| ArchiveError::Io { path: path(), source })?;
            keys.clear();
        }
        let expected = self.reader.input.hash.clone().finalize();
        let at = self.reader.offset;
        if *self.reader.take(CHECKSUM)? != *expected {
            self.reader.offset = at;
            return Err(self.reader.damaged("it fails the checksum at its end").into());
        }
        if self.reader.take(1).is_ok() {
            self.reader.offset = at + CHECKSUM as u64;
            return Err(self.reader.damaged("something follows its end").into());
        }
        Ok(())
    }
}

/// Whether numbers are such that a store can have come to them, and can go on from them.
fn is_possible(head: &Head) -> bool {
    let state = &head.state;
    let last = state.last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    let counters = [state.revision, state.compacted, head.generation, last.0, last.1];
    let leases = state.leases.iter().all(|(_, ttl_secs)| *ttl_secs <= MAX_LEASE_SECS);
    leases && counters.iter().all(|counter| *counter < MOST) && state.compacted <= state.revision
}

/// Computes the checksum on the way.
struct Hashing<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
