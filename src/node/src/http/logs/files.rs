//! The files of one container's log, and the place in them from which the last lines begin.
//!
//! The log is `N.log`; the ones turned over are `N.log.<time>`, whose names sort by age, perhaps compressed (`.gz`).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::entry::Entry;
use crate::http::query::Which;

const BLOCK: usize = 64 << 10;

/// A file of the log, opened.
pub(super) struct LogFile {
    pub(super) input: Box<dyn BufRead + Send>,
    /// Identifies the file whatever its name becomes.
    pub(super) inode: u64,
}

/// Where reading begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) path: PathBuf,
    pub(super) at: Position,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Bytes into the file.
    Offset(u64),
    /// Lines into a compressed file.
    Line(usize),
}

/// All files of the log, the oldest first, the one being written last (when it exists). Empty without the folder.
pub(super) fn all(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && !name.ends_with(".tmp") {
            files.push(entry.path());
        }
    }
    files.sort();
    // A file that is being compressed is there twice; the compressed one may be torn.
    let plain: Vec<PathBuf> = files.iter().filter(|f| !is_compressed(f)).cloned().collect();
    files.retain(|f| !is_compressed(f) || !plain.contains(&f.with_extension("")));
    if log.exists() {
        files.push(log.to_owned());
    }
    Ok(files)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gz")
}

pub(super) fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.ino())
}

/// Opens a file from its beginning, decompressing where need be.
pub(super) fn open(path: &Path) -> io::Result<LogFile> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    let plain = BufReader::with_capacity(BLOCK, file);
    let input: Box<dyn BufRead + Send> = match is_compressed(path) {
        true => Box::new(BufReader::with_capacity(BLOCK, MultiGzDecoder::new(plain))),
        false => Box::new(plain),
    };
    Ok(LogFile { input, inode })
}

/// Opens a file at a position.
pub(super) fn open_at(start: &Start) -> io::Result<LogFile> {
    match start.at {
        Position::Offset(0) => open(&start.path),
        Position::Offset(offset) => {
            let mut file = File::open(&start.path)?;
            let inode = file.metadata()?.ino();
            file.seek(SeekFrom::Start(offset))?;
            Ok(LogFile { input: Box::new(BufReader::with_capacity(BLOCK, file)), inode })
        }
        Position::Line(skip) => {
            let mut file = open(&start.path)?;
            let mut lines = 0;
            let mut line = Vec::new();
            while lines < skip && next_line(&mut *file.input, &mut line)? {
                lines += 1;
            }
            Ok(file)
        }
    }
}

fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(input.read_until(b'\n', line)? > 0)
}

/// Where the last `lines` lines of the log begin, and the files from there on. Reads backwards from the end, as little
/// as it takes.
pub(super) fn tail(files: &[PathBuf], lines: usize, which: Which) -> io::Result<(usize, Position)> {
    let mut wanted = lines;
    for (index, path) in files.iter().enumerate().rev() {
        if wanted == 0 {
            return end_of(path).map(|at| (index, at));
        }
        let (found, at) = if is_compressed(path) {
            tail_of_compressed(path, wanted, which)?
        } else {
            tail_of_plain(&mut File::open(path)?, wanted, which)?
        };
        if found >= wanted || index == 0 {
            return Ok((index, at));
        }
        wanted -= found;
    }
    Ok((0, Position::Offset(0)))
}

fn end_of(path: &Path) -> io::Result<Position> {
    match is_compressed(path) {
        true => Ok(Position::Line(usize::MAX)),
        false => Ok(Position::Offset(fs::metadata(path)?.len())),
    }
}

/// Counts lines by the entries that end one; an unfinished last line is a line.
#[derive(Debug)]
struct Count {
    which: Which,
    wanted: usize,
    seen: usize,
    last: bool,
}

impl Count {
    fn new(wanted: usize, which: Which) -> Self {
        Self { which, wanted, seen: 0, last: true }
    }

    /// Takes the entry before those taken so far. True: the wanted lines begin behind it.
    fn is_before_wanted(&mut self, line: &[u8]) -> bool {
        let Some(entry) = Entry::parse(line).filter(|e| e.is_from(self.which)) else { return false };
        let ends_line = !entry.partial || self.last;
        self.last = false;
        if ends_line && self.seen == self.wanted {
            return true;
        }
        self.seen += usize::from(ends_line);
        false
    }
}

/// The number of lines found (at most `wanted`) and where they begin.
fn tail_of_plain(file: &mut (impl Read + Seek), wanted: usize, which: Which) -> io::Result<(usize, Position)> {
    let mut count = Count::new(wanted, which);
    let mut start = file.seek(SeekFrom::End(0))?;
    // Bytes from `start` on whose line begins before `start`.
    let mut rest: Vec<u8> = Vec::new();
    while start > 0 {
        let size = start.min(BLOCK as u64);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.append(&mut rest);
        let mut end = block.len();
        // A line feed at the very end closes the last line, it does not open another.
        while let Some(feed) = memrchr(&block[..end.saturating_sub(1)]) {
            if count.is_before_wanted(trim(&block[feed + 1..end])) {
                return Ok((count.seen, Position::Offset(start + end as u64)));
            }
            end = feed + 1;
        }
        block.truncate(end);
        rest = block;
    }
    if !rest.is_empty() && count.is_before_wanted(trim(&rest)) {
        return Ok((count.seen, Position::Offset(rest.len() as u64)));
    }
    Ok((count.seen, Position::Offset(0)))
}

fn memrchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|b| *b == b'\n')
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// A compressed file can't be read backwards: its lines are counted first.
fn tail_of_compressed(path: &Path, wanted: usize, which: Which) -> io::Result<(usize, Position)> {
    let mut line = Vec::new();
    let mut ends = Vec::new();
    let mut input = open(path)?.input;
    let mut number = 0;
    while next_line(&mut *input, &mut line)? {
        number += 1;
        if Entry::parse(trim(&line)).is_some_and(|e| e.is_from(which) && !e.partial) {
            ends.push(number);
        }
    }
    let before = ends.len().saturating_sub(wanted);
    let skip = before.checked_sub(1).and_then(|i| ends.get(i)).copied().unwrap_or(0);
    Ok((ends.len() - before, Position::Line(skip)))
}
