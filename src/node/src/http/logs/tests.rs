//! Logs on disk → what a client sees.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::reader::{LogReader, Sent};
use super::{files, watch};
use crate::http::query::LogQuery;

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        Self { path, _folder: folder }
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self, suffix: &str) {
        fs::rename(&self.path, self.sibling(suffix)).unwrap();
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}.{suffix}", self.path.display()))
    }

    fn reader(&self, query: &str) -> LogReader {
        LogReader::new(self.path.clone(), LogQuery::parse(query, Timestamp::now()).unwrap())
    }

    fn read(&self, query: &str) -> String {
        text(&mut self.reader(query)).0
    }
}

fn text(reader: &mut LogReader) -> (String, Sent) {
    let mut out = Vec::new();
    let sent = reader.read(&mut |piece| {
        out.extend_from_slice(&piece);
        true
    });
    (String::from_utf8(out).unwrap(), sent.unwrap())
}

fn line(second: usize, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-02T03:04:{second:02}.000000000Z {stream} {tag} {text}\n")
}

fn numbered(from: usize, to: usize) -> String {
    (from..to).map(|n| line(n % 60, "stdout", "F", &format!("line {n}"))).collect()
}

fn compress(from: &Path, to: &Path) {
    let mut out = GzEncoder::new(File::create(to).unwrap(), Compression::fast());
    out.write_all(&fs::read(from).unwrap()).unwrap();
    out.finish().unwrap();
    fs::remove_file(from).unwrap();
}

#[test]
fn all_files_are_read_oldest_first() {
    let log = Log::new();
    log.append(&numbered(0, 2));
    log.rotate("20260102-000000");
    compress(&log.sibling("20260102-000000"), &log.sibling("20260102-000000.gz"));
    log.append(&numbered(2, 4));
    log.rotate("20260103-000000");
    log.append(&numbered(4, 5));
    assert_eq!(log.read(""), "line 0\nline 1\nline 2\nline 3\nline 4\n");
}

#[test]
fn the_tail_reaches_back_into_older_files() {
    let log = Log::new();
    log.append(&numbered(0, 3));
    log.rotate("20260102-000000");
    compress(&log.sibling("20260102-000000"), &log.sibling("20260102-000000.gz"));
    log.append(&numbered(3, 6));
    log.rotate("20260103-000000");
    log.append(&numbered(6, 8));
    for (count, first) in [(1, 7), (2, 6), (3, 5), (5, 3), (6, 2), (8, 0), (100, 0)] {
        let expected: String = (first..8).map(|n| format!("line {n}\n")).collect();
        assert_eq!(log.read(&format!("tailLines={count}")), expected, "tail {count}");
    }
    assert_eq!(log.read("tailLines=0"), "");
}

#[test]
fn the_tail_of_a_long_file_is_found_across_blocks() {
    let log = Log::new();
    log.append(&numbered(0, 20_000));
    let found = log.read("tailLines=5000");
    assert_eq!(found.lines().next(), Some("line 15000"));
    assert_eq!(found.lines().count(), 5_000);
}

#[test]
fn a_line_in_parts_is_one_line_of_the_tail() {
    let log = Log::new();
    log.append(&line(1, "stdout", "F", "before"));
    log.append(&line(2, "stdout", "P", "long "));
    log.append(&line(3, "stdout", "F", "line"));
    log.append(&line(4, "stdout", "P", "unfinished"));
    assert_eq!(log.read("tailLines=2"), "long line\nunfinished");
    assert_eq!(log.read("tailLines=1"), "unfinished");
}

#[test]
fn streams_times_and_limits_select() {
    let log = Log::new();
    log.append(&line(1, "stdout", "F", "one"));
    log.append(&line(2, "stderr", "F", "two"));
    log.append(&line(3, "stdout", "F", "three"));
    log.append("torn");
    assert_eq!(log.read("stream=Stderr"), "two\n");
    assert_eq!(log.read("sinceTime=2026-01-02T03:04:02Z"), "two\nthree\n");
    assert_eq!(log.read("stream=Stdout&tailLines=2"), "one\nthree\n");
    assert_eq!(log.read("limitBytes=6"), "one\ntw");
    let stamped = "2026-01-02T03:04:03.000000000Z three\n";
    assert_eq!(log.read("timestamps=true&sinceTime=2026-01-02T03:04:03Z"), stamped);
}

#[test]
fn a_follower_goes_on_where_it_was_through_rotations() {
    let log = Log::new();
    let mut reader = log.reader("follow=true&tailLines=1");
    assert_eq!(text(&mut reader), (String::new(), Sent::All));
    log.append(&numbered(0, 1));
    assert_eq!(text(&mut reader).0, "line 0\n");
    log.append("2026-01-02T03:04:05Z stdout F ha");
    assert_eq!(text(&mut reader).0, "");
    log.append("lf\n");
    assert_eq!(text(&mut reader).0, "half\n");
    log.append(&numbered(1, 2));
    log.rotate("20260102-000000");
    log.append(&numbered(2, 3));
    log.rotate("20260103-000000");
    log.append(&numbered(3, 4));
    assert_eq!(text(&mut reader).0, "line 1\nline 2\nline 3\n");
    assert_eq!(text(&mut reader).0, "");
}

#[test]
fn reading_stops_when_the_client_has_gone() {
    let log = Log::new();
    log.append(&numbered(0, 20_000));
    let mut pieces = 0;
    let sent = log.reader("").read(&mut |_| {
        pieces += 1;
        false
    });
    assert_eq!((sent.unwrap(), pieces), (Sent::Enough, 1));
}

#[test]
fn a_file_being_compressed_is_taken_once() {
    let log = Log::new();
    log.append(&numbered(0, 1));
    log.rotate("20260102-000000");
    fs::write(log.sibling("20260102-000000.gz"), b"torn").unwrap();
    fs::write(log.sibling("20260102-000000.gz.tmp"), b"torn").unwrap();
    assert_eq!(files::all(&log.path).unwrap(), [log.sibling("20260102-000000")]);
    assert_eq!(log.read(""), "line 0\n");
}

#[tokio::test]
async fn a_watched_folder_tells_of_writes_and_renames() {
    let log = Log::new();
    let mut first = watch::watch(log.path.parent()).unwrap();
    let second = watch::watch(log.path.parent()).unwrap();
    drop(second);
    for change in [|log: &Log| log.append("x"), |log: &Log| log.rotate("1")] {
        change(&log);
        tokio::time::timeout(std::time::Duration::from_secs(10), first.changed()).await.unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    assert!(watch::watch(Some(&other.path().join("missing"))).is_err());
}
