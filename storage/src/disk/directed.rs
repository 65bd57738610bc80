//! Real files for tests; what becomes of a flush of the log is up to the test.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile, Files, Mode};

type Flushed = dyn Fn() -> io::Result<()> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Directed(Arc<Flushed>);

impl fmt::Debug for Directed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directed").finish_non_exhaustive()
    }
}

impl Directed {
    /// Each flush of a segment of the log is this, and nothing else.
    pub(crate) fn by(flushed: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self(Arc::new(flushed)))
    }
}

impl Disk for Directed {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        Files.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        Files.list(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        Files.exists(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let file = Files.open(path, mode)?;
        let of_log = path.parent().is_some_and(|dir| dir.ends_with("log"));
        Ok(if of_log { Arc::new(Segment { file, disk: self.clone() }) } else { file })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Files.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>, TryLockError> {
        Files.lock(path)
    }

    fn boot_id(&self) -> String {
        Files.boot_id()
    }
}

#[derive(Debug)]
struct Segment {
    file: Arc<dyn DiskFile>,
    disk: Directed,
}

impl DiskFile for Segment {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.allocate(from, to)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.disk.0)()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
