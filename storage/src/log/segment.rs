//! One file of the log: allocated ahead, appended to, read by offset.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::LogError;
use super::record::{self, Found, HEADER, Head};
use crate::disk::{Disk, DiskFile, Mode};

pub(crate) const SEGMENT_HEADER: u64 = 32;
/// Zeros are written ahead up to a multiple of this.
const AHEAD: u64 = 64 << 10;
static ZEROS: [u8; 4096] = [0; 4096];
/// Records from this size on do without: what they would save is little of what they cost.
const WORTH_ZEROS: u64 = 32 << 10;
const MAGIC: [u8; 8] = *b"rklog\0\0\x01";

/// A segment and where each of its entries begins.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Index of the first entry.
    pub(crate) first: u64,
    /// Where the entries begin, in index order.
    pub(crate) offsets: Vec<u32>,
    /// Where the next entry goes.
    pub(crate) end: u64,
    /// Up to where the file is known to be on disk.
    pub(crate) synced: u64,
    pub(crate) capacity: u64,
    /// Up to where zeros were written ahead.
    zeroed: u64,
    /// Term and leader of the last entry.
    pub(crate) last: Option<(u64, u64)>,
    /// Indices of the memberships that were there when the segment was recovered.
    pub(crate) memberships: Vec<u64>,
}

pub(crate) fn file_name(first: u64) -> String {
    format!("{first:016x}.log")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()
}

fn header(cluster_id: u64, first: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&cluster_id.to_le_bytes());
    out[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&out[..24]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    out
}

impl Segment {
    /// Turns an allocated file into the segment that starts with entry `first`.
    pub(crate) fn begin(path: PathBuf, file: Arc<dyn DiskFile>, cluster_id: u64, first: u64) -> io::Result<Self> {
        let capacity = file.len()?;
        file.write_all_at(&header(cluster_id, first), 0)?;
        file.sync_all()?;
        Ok(Self {
            path,
            file,
            first,
            offsets: Vec::new(),
            end: SEGMENT_HEADER,
            synced: SEGMENT_HEADER,
            capacity,
            zeroed: SEGMENT_HEADER,
            last: None,
            memberships: Vec::new(),
        })
    }

    /// Reads and verifies a segment. A torn tail is allowed in the newest one only, and is wiped.
    pub(crate) fn recover(disk: &dyn Disk, path: PathBuf, cluster_id: u64, newest: bool) -> Result<Self, LogError> {
        let io = |source| LogError::Io { path: path.clone(), source };
        let file = disk.open(&path, Mode::Existing).map_err(io)?;
        let damaged = |offset, what| LogError::Corrupt { path: path.clone(), offset, what };
        let content = match file.content(u64::from(u32::MAX)) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(damaged(0, "it is larger than any segment"));
            }
            content => content.map_err(io)?,
        };
        let named = path.file_name().and_then(|name| name.to_str()).and_then(parse_name);
        let first = named.ok_or_else(|| damaged(0, "the file name is not that of a segment"))?;
        if content.get(..32) != Some(&header(cluster_id, first)) {
            return Err(damaged(0, "the segment header is wrong, or of another cluster"));
        }
        let mut segment = Self {
            path: path.clone(),
            file,
            first,
            offsets: Vec::new(),
            end: SEGMENT_HEADER,
            synced: SEGMENT_HEADER,
            capacity: content.len() as u64,
            zeroed: SEGMENT_HEADER,
            last: None,
            memberships: Vec::new(),
        };
        loop {
            let at = usize::try_from(segment.end).unwrap_or(usize::MAX);
            match record::parse(&content, at) {
                Found::Whole(record) => segment.adopt(&record).map_err(|what| damaged(segment.end, what))?,
                Found::Damaged(what) => return Err(damaged(segment.end, what)),
                Found::Nothing | Found::Torn if record::proven_synced(&content, at) => {
                    return Err(damaged(segment.end, "a record is missing before a later one"));
                }
                Found::Nothing if !newest => break,
                Found::Nothing => {
                    segment.wipe_after(&content).map_err(io)?;
                    break;
                }
                Found::Torn if newest => {
                    tracing::warn!(file = %path.display(), offset = segment.end, "cut the torn tail of the log");
                    segment.wipe_after(&content).map_err(io)?;
                    break;
                }
                Found::Torn => return Err(damaged(segment.end, "a record is unfinished in a closed segment")),
            }
        }
        segment.offsets.shrink_to_fit();
        Ok(segment)
    }

    fn adopt(&mut self, record: &record::Record<'_>) -> Result<(), &'static str> {
        let head = Head::decode(record.body).map_err(|_| "an entry is malformed")?;
        if head.index != self.next() {
            return Err("an entry is out of order");
        }
        if head.kind == record::MEMBERSHIP {
            self.memberships.push(head.index);
        }
        self.synced = self.synced.max(record.synced.min(self.end));
        self.push(record.size as u64, head.term, head.leader);
        Ok(())
    }

    /// Zeroes whatever follows the last whole record, so that later appends are followed by zeros again, and writes what
    /// is not proven to be on disk once more: after a flush that failed, the kernel may show what it will never write.
    fn wipe_after(&mut self, content: &[u8]) -> io::Result<()> {
        let from = usize::try_from(self.end).unwrap_or(usize::MAX);
        let proven = usize::try_from(self.synced).unwrap_or(usize::MAX);
        if let Some(doubtful) = content.get(proven..from) {
            self.file.write_all_at(doubtful, self.synced)?;
        }
        let rest = content.get(from..).unwrap_or_default();
        if !record::is_zero(rest) {
            self.file.write_all_at(&vec![0; rest.len()], self.end)?;
        }
        self.file.sync_data()?;
        self.synced = self.end;
        Ok(())
    }

    fn push(&mut self, size: u64, term: u64, leader: u64) {
        self.offsets.push(u32::try_from(self.end).unwrap_or(u32::MAX));
        self.end += size;
        self.last = Some((term, leader));
    }

    /// Index of the entry after the last.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    pub(crate) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.end)
    }

    /// Writes one framed record, and says how many bytes that took.
    ///
    /// The first write to blocks that are only allocated makes the file system write down that they have content now,
    /// and the next flush waits for that. So small records write zeros ahead, up to a multiple of [`AHEAD`].
    pub(crate) fn append(&mut self, framed: &[u8], term: u64, leader: u64) -> io::Result<u64> {
        let size = framed.len() as u64;
        let end = self.end + size;
        self.file.write_all_at(framed, self.end)?;
        let mut written = size;
        if end > self.zeroed && size < WORTH_ZEROS {
            let upto = end.next_multiple_of(AHEAD).min(self.capacity);
            // The page that the record ends in is written whole anyway. A larger piece would make the kernel keep the
            // file in larger pieces, and count all of one as written for each record in it.
            let page = ZEROS.len() as u64;
            let mut at = end.next_multiple_of(page);
            while at < upto {
                let length = (upto - at).min(page);
                self.file.write_all_at(&ZEROS[..usize::try_from(length).unwrap_or(0)], at)?;
                at += length;
                written += length;
            }
            self.zeroed = upto;
        }
        self.push(size, term, leader);
        Ok(written)
    }

    /// The verified body of one entry.
    pub(crate) fn read(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let slot = usize::try_from(index - self.first).unwrap_or(usize::MAX);
        let Some(offset) = self.offsets.get(slot).map(|offset| u64::from(*offset)) else {
            return Err(LogError::Missing { index });
        };
        let end = self.offsets.get(slot + 1).map_or(self.end, |next| u64::from(*next));
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(0)];
        let io = |source| LogError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, offset).map_err(io)?;
        match record::parse(&bytes, 0) {
            Found::Whole(record) => {
                let length = record.body.len();
                bytes.drain(..HEADER);
                bytes.truncate(length);
                Ok(bytes)
            }
            _ => Err(LogError::Corrupt { path: self.path.clone(), offset, what: "a record fails its checksum" }),
        }
    }

    /// Drops the entries from `index` on, and their bytes.
    pub(crate) fn truncate(&mut self, index: u64) -> Result<(), LogError> {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let Some(offset) = self.offsets.get(keep).map(|offset| u64::from(*offset)) else { return Ok(()) };
        let io = |source| LogError::Io { path: self.path.clone(), source };
        let wiped = vec![0; usize::try_from(self.end - offset).unwrap_or(0)];
        self.file.write_all_at(&wiped, offset).and_then(|()| self.file.sync_data()).map_err(io)?;
        self.offsets.truncate(keep);
        self.end = offset;
        self.synced = offset;
        self.last = match index.checked_sub(1).filter(|last| *last >= self.first) {
            None => None,
            Some(last) => {
                let body = self.read(last)?;
                Head::decode(&body).ok().map(|head| (head.term, head.leader))
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Files, allocated};

    #[test]
    fn small_records_find_blocks_that_have_content_and_large_ones_write_themselves_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000000000001.log");
        let file = allocated(&Files, &path, 1 << 20).unwrap();
        let mut segment = Segment::begin(path, file.clone(), 7, 1).unwrap();
        let first = segment.append(&[1; 100], 1, 1).unwrap();
        assert!(first > 100 && segment.end + first < 2 * AHEAD, "{first}");
        let mut records = 1;
        while segment.end + 100 <= AHEAD {
            assert_eq!(segment.append(&[1; 100], 1, 1).unwrap(), 100);
            records += 1;
        }
        assert!(segment.append(&[1; 100], 1, 1).unwrap() > 100);
        let large = vec![1; usize::try_from(WORTH_ZEROS).unwrap()];
        assert_eq!(segment.append(&large, 1, 1).unwrap(), WORTH_ZEROS);
        let content = file.content(u64::MAX).unwrap();
        let end = usize::try_from(segment.end).unwrap();
        assert_eq!(end as u64, SEGMENT_HEADER + 100 * (records + 1) + WORTH_ZEROS);
        assert!(content[usize::try_from(SEGMENT_HEADER).unwrap()..end].iter().all(|byte| *byte == 1));
        assert!(content[end..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn zeros_end_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000000000001.log");
        let file = allocated(&Files, &path, 5000).unwrap();
        let mut segment = Segment::begin(path, file.clone(), 7, 1).unwrap();
        segment.append(&[1; 100], 1, 1).unwrap();
        assert_eq!(file.len().unwrap(), 5000);
    }
}
