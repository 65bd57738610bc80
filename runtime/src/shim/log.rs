//! Container logs in the CRI format: `<RFC 3339 time, nanoseconds> <stdout|stderr> <P|F> <text>`.
//!
//! A line longer than [`CHUNK`] is cut into partial entries. A file that has grown past its limit is renamed with the
//! time in its name, and the oldest ones are removed.

use crate::spec::LogLimits;
use jiff::Timestamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Longest text of one entry.
const CHUNK: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    size: u64,
    /// Text of the current line, per stream.
    pending: [Vec<u8>; 2],
    /// The last write failed; said once, until one succeeds.
    failing: bool,
}

impl Log {
    pub(super) fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut log = Self {
            path: path.to_path_buf(),
            limits,
            file: None,
            size: 0,
            pending: [Vec::new(), Vec::new()],
            failing: false,
        };
        log.reopen()?;
        Ok(log)
    }

    /// Goes on in the file that is at the path now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    pub(super) fn write(&mut self, stream: Stream, mut data: &[u8]) {
        let now = Timestamp::now();
        let mut entries = Vec::with_capacity(data.len() + 64);
        let pending = &mut self.pending[stream as usize];
        while !data.is_empty() {
            let room = CHUNK - pending.len();
            let (text, rest, full) = match data.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => (&data[..end], &data[end + 1..], Some('F')),
                None if data.len() > room => (&data[..room], &data[room..], Some('P')),
                None => (data, &data[data.len()..], None),
            };
            pending.extend_from_slice(text);
            data = rest;
            if let Some(tag) = full {
                push_entry(&mut entries, now, stream, tag, pending);
                pending.clear();
            }
        }
        if pending.is_empty() {
            pending.shrink_to(256);
        }
        self.append(&entries);
    }

    /// Writes what has come of an unfinished line; its stream has ended.
    pub(super) fn finish(&mut self) {
        let now = Timestamp::now();
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                push_entry(&mut entries, now, stream, 'P', &pending);
            }
        }
        self.append(&entries);
    }

    fn append(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        match self.try_append(entries) {
            Ok(()) => self.failing = false,
            Err(error) => {
                // The container goes on; what a full disk cannot hold is lost.
                if !self.failing {
                    eprintln!("log {}: {error}", self.path.display());
                }
                self.failing = true;
            }
        }
    }

    fn try_append(&mut self, mut entries: &[u8]) -> io::Result<()> {
        while !entries.is_empty() {
            let room = usize::try_from(self.limits.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fitting = match entries.get(..room) {
                None => entries.len(),
                Some(start) => start.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1),
            };
            // An entry longer than a whole file gets a file of its own.
            let take = match fitting {
                0 if self.size == 0 => entries.iter().position(|b| *b == b'\n').map_or(entries.len(), |end| end + 1),
                0 => {
                    self.rotate()?;
                    continue;
                }
                fitting => fitting,
            };
            if self.file.is_none() {
                self.reopen()?;
            }
            let (now, later) = entries.split_at(take);
            if let Some(file) = &mut self.file {
                file.write_all(now)?;
            }
            self.size += now.len() as u64;
            entries = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        if self.limits.max_files <= 1 {
            fs::remove_file(&self.path)?;
        } else {
            fs::rename(&self.path, self.free_name()?)?;
            self.prune()?;
        }
        self.reopen()
    }

    /// `<path>.<UTC time>`, counted up within a second: names sort by age, also when older ones of that second are
    /// gone already.
    fn free_name(&self) -> io::Result<PathBuf> {
        let time = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{time}"));
        let newest = self.rotated()?.pop().filter(|newest| newest.as_os_str() >= name.as_os_str());
        if let Some(newest) = newest {
            let newest = newest.to_string_lossy().into_owned();
            let (stem, count) = match newest.rsplit_once('-').filter(|(_, count)| count.len() == 4) {
                Some((stem, count)) => (stem, count.parse::<u32>().unwrap_or(0)),
                None => (newest.as_str(), 0),
            };
            return Ok(PathBuf::from(format!("{stem}-{:04}", count + 1)));
        }
        Ok(PathBuf::from(name))
    }

    /// The files moved away, the oldest first.
    fn rotated(&self) -> io::Result<Vec<PathBuf>> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(Vec::new()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let entries = fs::read_dir(folder)?.flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let mut old: Vec<PathBuf> = ours.map(|entry| entry.path()).collect();
        old.sort();
        Ok(old)
    }

    fn prune(&self) -> io::Result<()> {
        let old = self.rotated()?;
        let keep = self.limits.max_files.saturating_sub(1) as usize;
        let surplus = old.len().saturating_sub(keep);
        old.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

fn push_entry(entries: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, text: &[u8]) {
    entries.extend_from_slice(format!("{now:.9} {} {tag} ", stream.name()).as_bytes());
    entries.extend_from_slice(text);
    entries.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limits: LogLimits) -> (tempfile::TempDir, PathBuf, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = Log::open(&path, limits).unwrap();
        (dir, path, log)
    }

    fn without_times(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_stamped_and_streams_kept_apart() {
        let (_dir, path, mut log) = log(LogLimits::default());
        log.write(Stream::Stdout, b"he");
        log.write(Stream::Stderr, b"oops\n");
        log.write(Stream::Stdout, b"llo\n\nx");
        assert_eq!(without_times(&path), ["stderr F oops", "stdout F hello", "stdout F "]);
        log.finish();
        assert_eq!(without_times(&path).last().unwrap(), "stdout P x");
        let stamp = fs::read_to_string(&path).unwrap();
        let stamp = stamp.split(' ').next().unwrap();
        assert!(stamp.ends_with('Z') && stamp.len() == "2024-01-01T00:00:00.000000000Z".len(), "{stamp}");
    }

    #[test]
    fn long_lines_come_in_partial_entries() {
        let (_dir, path, mut log) = log(LogLimits::default());
        let mut line = vec![b'a'; CHUNK + 1];
        line.push(b'\n');
        log.write(Stream::Stdout, &line);
        let lines = without_times(&path);
        assert_eq!(lines[0], format!("stdout P {}", "a".repeat(CHUNK)));
        assert_eq!(lines[1], "stdout F a");
        // A line of just the limit is whole.
        let mut line = vec![b'b'; CHUNK];
        line.push(b'\n');
        log.write(Stream::Stdout, &line);
        assert_eq!(without_times(&path)[2], format!("stdout F {}", "b".repeat(CHUNK)));
    }

    #[test]
    fn full_files_are_turned_over_and_old_ones_go() {
        let (dir, path, mut log) = log(LogLimits { max_bytes: 100, max_files: 3 });
        for count in 0..10 {
            log.write(Stream::Stdout, format!("line number {count} with some text\n").as_bytes());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert!(fs::metadata(&path).unwrap().len() <= 100);
        assert!(without_times(&path).last().unwrap().contains("number 9"));
        let kept = log.rotated().unwrap().iter().flat_map(|file| without_times(file)).collect::<String>();
        assert!(kept.find("number 7") < kept.find("number 8") && kept.contains("number 7"), "{kept}");
    }

    #[test]
    fn reopening_follows_a_moved_file() {
        let (dir, path, mut log) = log(LogLimits::default());
        log.write(Stream::Stdout, b"old\n");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"new\n");
        assert_eq!(without_times(&path), ["stdout F new"]);
    }
}
