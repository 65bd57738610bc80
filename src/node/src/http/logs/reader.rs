//! Turns the files of a log into what the client sees. Blocking; runs on a thread for such work.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::entry::Entry;
use super::files::{self, LogFile, Position, Start};
use crate::http::query::LogQuery;

/// Bytes sent at once.
const PIECE: usize = 32 << 10;
/// An entry that is longer has no line feed where one should be; it is sent in parts.
const LONGEST: usize = 1 << 20;

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All there is; there may be more later.
    All,
    /// Nothing more will be sent: the limit is reached, or the client has gone.
    Enough,
}

/// A place in a log, from which [`LogReader::read`] goes on each time.
pub(super) struct LogReader {
    log: PathBuf,
    query: LogQuery,
    /// `None` until the first reading finds a file.
    file: Option<LogFile>,
    /// Bytes of an entry whose end is not written yet.
    line: Vec<u8>,
    /// The next entry begins a line.
    fresh: bool,
    /// Entries may still be older than asked for.
    before_since: bool,
    left: Option<u64>,
    out: Vec<u8>,
}

impl LogReader {
    pub(super) fn new(log: PathBuf, query: LogQuery) -> Self {
        Self {
            log,
            file: None,
            line: Vec::new(),
            fresh: true,
            before_since: query.since.is_some(),
            left: query.limit,
            out: Vec::new(),
            query,
        }
    }

    /// Reads all there is now, through files turned over meanwhile. `send` answers whether the client still listens.
    pub(super) fn read(&mut self, send: &mut dyn FnMut(Bytes) -> bool) -> io::Result<Sent> {
        while self.file.is_none() {
            match self.open_first() {
                // Turned over or removed between listing and opening: listed again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(None) => break,
                opened => self.file = opened?,
            }
        }
        while let Some(file) = &mut self.file {
            let inode = file.inode;
            if self.drain(send)? == Sent::Enough {
                return Ok(Sent::Enough);
            }
            // Asked after the end of this file was seen: a successor means that nothing more comes to it, but what
            // came between the two is still to be read.
            let Some(next) = self.successor(inode)? else { break };
            if self.drain(send)? == Sent::Enough {
                return Ok(Sent::Enough);
            }
            match files::open(&next) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => self.file = Some(opened?),
            }
            self.line.clear();
        }
        Ok(if self.flush(send) { Sent::All } else { Sent::Enough })
    }

    fn open_first(&self) -> io::Result<Option<LogFile>> {
        let all = files::all(&self.log)?;
        let (index, at) = match self.query.tail {
            Some(lines) => files::tail(&all, lines, self.query.which)?,
            None => (0, Position::Offset(0)),
        };
        let Some(path) = all.get(index) else { return Ok(None) };
        files::open_at(&Start { path: path.clone(), at }).map(Some)
    }

    /// The file that follows the one with this inode; the oldest left when that one was removed.
    fn successor(&self, inode: u64) -> io::Result<Option<PathBuf>> {
        let all = files::all(&self.log)?;
        let place = all.iter().position(|f| files::inode(f) == Some(inode));
        Ok(all.into_iter().nth(place.map_or(0, |p| p + 1)))
    }

    fn drain(&mut self, send: &mut dyn FnMut(Bytes) -> bool) -> io::Result<Sent> {
        while let Some(file) = &mut self.file {
            let available = file.input.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let (taken, whole) = match available.iter().position(|b| *b == b'\n') {
                Some(feed) => (feed + 1, true),
                None => (available.len(), false),
            };
            self.line.extend_from_slice(&available[..taken]);
            file.input.consume(taken);
            if !whole && self.line.len() < LONGEST {
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            self.entry(line.strip_suffix(b"\n").unwrap_or(&line));
            line.clear();
            self.line = line;
            if (self.out.len() >= PIECE || self.left == Some(0)) && !self.flush(send) {
                return Ok(Sent::Enough);
            }
        }
        Ok(Sent::All)
    }

    fn entry(&mut self, line: &[u8]) {
        // What is torn is left out.
        let Some(entry) = Entry::parse(line).filter(|e| e.is_from(self.query.which)) else { return };
        if self.before_since && self.query.since.is_some_and(|since| entry.is_before(since)) {
            return;
        }
        self.before_since = false;
        let before = self.out.len();
        entry.print(&mut self.out, self.query.timestamps, self.fresh);
        self.fresh = !entry.partial;
        if let Some(left) = &mut self.left {
            let printed = (self.out.len() - before) as u64;
            let kept = printed.min(*left);
            self.out.truncate(before + usize::try_from(kept).unwrap_or(usize::MAX));
            *left -= kept;
        }
    }

    /// False: nothing more is to be sent.
    fn flush(&mut self, send: &mut dyn FnMut(Bytes) -> bool) -> bool {
        let out = std::mem::take(&mut self.out);
        let heard = out.is_empty() || send(out.into());
        heard && self.left != Some(0)
    }
}
