//! The files under the log, the hard state, the snapshots and the data directory, behind one narrow seam.
//!
//! [`Files`] is the machine's file system. A second implementation, in memory, forgets what was not flushed, fails on
//! demand and answers without threads, so that power cuts can be tried by the thousand and a cluster of members be
//! simulated. The contract is that of POSIX: a write counts after `sync_data` of its file, a name after `sync_dir` of its
//! directory, and nothing else promises anything. Everything in this crate that keeps state goes through here.

#[cfg(test)]
pub(crate) mod directed;
mod files;

use std::any::Any;
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::TryLockError;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use files::Files;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It must exist.
    Existing,
    /// An empty one takes its place.
    Fresh,
}

/// A file system, or something that behaves like one.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and those above it; none of their names is durable before [`Disk::sync_dir`].
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    fn exists(&self, path: &Path) -> bool;

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that may lie where nothing can be written.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, Mode::Existing)
    }

    /// Gives a file another name, over one that has it already; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock, held until what it returns is dropped.
    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>, TryLockError>;

    /// Another one after each start of the machine.
    fn boot_id(&self) -> String;

    /// A number that nobody can guess; a machine that is to be repeated exactly has its own.
    fn random(&self) -> u64 {
        rand::random()
    }

    /// Whether calls never wait, so that they need no thread of their own.
    fn is_instant(&self) -> bool {
        false
    }

    /// How long a disk that is instant pretends to take for what is worth a thread on others.
    fn pretended(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file, read and written by offset.
pub trait DiskFile: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }

    /// Fails with `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Takes space for `from..to`, read as zeros; the file grows to it.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;

    /// Puts the content on disk, and the length as far as the content needs it.
    fn sync_data(&self) -> io::Result<()>;

    /// The same with everything else that the file system knows of the file.
    fn sync_all(&self) -> io::Result<()>;

    /// Everything in it, unless it has more than `most` bytes: whatever lies under a name may be anybody's.
    fn content(&self, most: u64) -> io::Result<Vec<u8>> {
        let length = Some(self.len()?).filter(|length| *length <= most);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut content = vec![0; length];
        self.read_exact_at(&mut content, 0)?;
        Ok(content)
    }
}

/// Runs what waits for the disk where it may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    if !disk.is_instant() {
        return tokio::task::spawn_blocking(work).await;
    }
    let pretended = disk.pretended();
    if !pretended.is_zero() {
        tokio::time::sleep(pretended).await;
    }
    Ok(work())
}

/// The same, and does not wait for it.
pub(crate) fn beside(disk: &dyn Disk, work: impl FnOnce() + Send + 'static) {
    if !disk.is_instant() {
        tokio::task::spawn_blocking(work);
        return;
    }
    let pretended = disk.pretended();
    tokio::spawn(async move {
        if !pretended.is_zero() {
            tokio::time::sleep(pretended).await;
        }
        work();
    });
}

/// Makes a directory if there is none, and makes sure of its name and of those in it. Also if it was there: whoever made
/// it may have been interrupted before it was sure.
pub(crate) fn durable_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.create_dir_all(path)?;
    disk.sync_dir(above(path))?;
    disk.sync_dir(path)
}

/// The same with all directories above it, which may be new too.
pub(crate) fn durable_path(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    durable_dir(disk, path)?;
    for dir in above(path).ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        // Those that this process may not read it has not made.
        match disk.sync_dir(above(dir)) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Makes a file of `size` zero bytes that has its space already, so that writing into it cannot run out of it.
pub(crate) fn allocated(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(path, Mode::Fresh)?;
    file.allocate(0, size).inspect_err(|_| drop(disk.remove(path)))?;
    Ok(file)
}

/// A file from its beginning on.
#[derive(Debug)]
pub(crate) struct Sequential {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Sequential {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, at: 0 }
    }

    pub(crate) fn into_file(self) -> Arc<dyn DiskFile> {
        self.file
    }
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.len()?.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        self.file.read_exact_at(&mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Sequential {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
