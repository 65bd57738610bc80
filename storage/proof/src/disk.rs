//! A disk in memory that behaves as badly as a real one may.
//!
//! Only what was flushed is sure to survive a power cut: of each file's other sectors any mixture of their versions comes
//! through, lengths and names go their own ways. Any operation can be the last before a cut, or can fail. Nothing waits
//! and nothing is random but by the seed, so a run on it can be repeated exactly.

mod inode;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::disk::{Disk, DiskFile, Mode};

use crate::seeded::Seeded;
use inode::Inode;

type Id = u64;

/// A change of names. Each takes effect as a whole or not at all.
#[derive(Clone, Debug)]
enum Naming {
    Link(PathBuf, Entry),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Entry),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(Id),
    Directory,
}

/// What an armed operation does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes while it runs.
    PowerCut,
    /// The disk reports an error; an unlucky flush loses data for good.
    Broken,
    /// There is no space; only for operations that take some.
    Full,
}

#[derive(Debug)]
struct State {
    random: Seeded,
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    /// Changes of names in each directory since it was flushed.
    unflushed_names: BTreeMap<PathBuf, Vec<Naming>>,
    files: BTreeMap<Id, Inode>,
    next: Id,
    locks: BTreeSet<PathBuf>,
    /// Handles of an earlier process are dead.
    process: u64,
    boot: u64,
    operations: u64,
    armed: BTreeMap<u64, Fault>,
    off: bool,
    full: bool,
    failures: u64,
    /// What a flush pretends to take.
    slow: Duration,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// What an operation may go on with.
enum Go {
    On,
    /// It happens, but nobody hears of it.
    Cut,
}

impl State {
    /// Counts an operation that changes something.
    fn operation(&mut self, takes_space: bool) -> io::Result<Go> {
        self.powered()?;
        self.operations += 1;
        match self.armed.remove(&self.operations) {
            Some(Fault::PowerCut) => {
                self.off = true;
                Ok(Go::Cut)
            }
            Some(Fault::Broken) => {
                self.failures += 1;
                Err(io::Error::other("the disk is broken"))
            }
            Some(Fault::Full) if takes_space => {
                self.failures += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ if takes_space && self.full => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(Go::On),
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(no_power()) } else { Ok(()) }
    }

    fn file(&mut self, process: u64, id: Id) -> io::Result<&mut Inode> {
        if process != self.process {
            return Err(io::Error::other("a file of a process that has ended"));
        }
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn name(&mut self, change: Naming) {
        let path = match &change {
            Naming::Link(path, _) | Naming::Unlink(path) | Naming::Rename(_, path, _) => path,
        };
        let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
        apply(&mut self.names, &change);
        self.unflushed_names.entry(dir).or_default().push(change);
    }

    fn flush_names(&mut self, dir: &Path) {
        for change in self.unflushed_names.remove(dir).unwrap_or_default() {
            apply(&mut self.durable_names, &change);
        }
    }

    /// Lets the power cut decide.
    fn settle(&mut self) {
        for (_, changes) in std::mem::take(&mut self.unflushed_names) {
            // A journal keeps the changes up to some point; nothing promises that there is one.
            let journal = self.random.chance(50);
            let until = self.random.index(changes.len() + 1);
            for (position, change) in changes.iter().enumerate() {
                let kept = if journal { position < until } else { self.random.chance(50) };
                if kept {
                    apply(&mut self.durable_names, change);
                }
            }
        }
        let all = self.durable_names.clone();
        let reachable =
            |path: &Path| path.ancestors().skip(1).all(|above| above == Path::new("/") || all.contains_key(above));
        self.durable_names.retain(|path, _| reachable(path));
        self.names = self.durable_names.clone();
        let used: BTreeSet<Id> = self.names.values().filter_map(Entry::id).collect();
        self.files.retain(|id, _| used.contains(id));
        for file in self.files.values_mut() {
            file.settle(&mut self.random);
        }
    }
}

impl Entry {
    fn id(&self) -> Option<Id> {
        match self {
            Self::File(id) => Some(*id),
            Self::Directory => None,
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Entry>, change: &Naming) {
    match change {
        Naming::Link(path, entry) => {
            names.insert(path.clone(), *entry);
        }
        Naming::Unlink(path) => {
            names.remove(path);
        }
        Naming::Rename(from, to, entry) => {
            if names.get(from) == Some(entry) {
                names.remove(from);
            }
            names.insert(to.clone(), *entry);
        }
    }
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

impl MemoryDisk {
    /// An empty disk. The seed decides what comes through its power cuts.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Seeded::new(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unflushed_names: BTreeMap::new(),
            files: BTreeMap::new(),
            next: 0,
            locks: BTreeSet::new(),
            process: 0,
            boot: 0,
            operations: 0,
            armed: BTreeMap::new(),
            off: false,
            full: false,
            failures: 0,
            slow: Duration::ZERO,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the operation that comes after so many others fail.
    pub fn arm(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.operations + 1 + after;
        state.armed.insert(at, fault);
    }

    /// Nothing takes space any more, or again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Flushes take so long from now on, by tokio's clock.
    pub fn set_slow(&self, flush: Duration) {
        self.state().slow = flush;
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Faults other than power cuts that have struck.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Pulls the plug now.
    pub fn cut_power(&self) {
        self.state().off = true;
    }

    /// The machine starts again with what came through.
    pub fn restart_machine(&self) {
        let mut state = self.state();
        state.settle();
        state.boot += 1;
        state.process += 1;
        state.locks.clear();
        state.armed.clear();
        state.off = false;
    }

    /// The process was killed; the machine went on.
    pub fn restart_process(&self) {
        let mut state = self.state();
        state.process += 1;
        state.locks.clear();
        state.armed.clear();
    }

    /// What was armed does not happen.
    pub fn disarm(&self) {
        self.state().armed.clear();
    }

    /// The files with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let state = self.state();
        let length = |entry: &Entry| entry.id().and_then(|id| state.files.get(&id)).map(Inode::len);
        state.names.iter().filter_map(|(path, entry)| Some((path.clone(), length(entry)?))).collect()
    }

    /// Turns one bit of a file over.
    pub fn flip(&self, path: &Path, offset: usize, bit: u32) {
        let mut state = self.state();
        let id = state.names.get(path).and_then(Entry::id);
        if let Some(file) = id.and_then(|id| state.files.get_mut(&id)) {
            file.flip(offset, bit);
        }
    }

    /// A file's content.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.names.get(path).and_then(Entry::id)?;
        state.files.get(&id).map(|file| file.content().to_vec())
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<PathBuf> = {
            let state = self.state();
            state.powered()?;
            let missing = path.ancestors().filter(|dir| *dir != Path::new("/") && !state.names.contains_key(*dir));
            missing.map(Path::to_owned).collect()
        };
        for dir in missing.into_iter().rev() {
            let mut state = self.state();
            let go = state.operation(true)?;
            state.name(Naming::Link(dir, Entry::Directory));
            heard(&go)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.powered()?;
        if dir != Path::new("/") && state.names.get(dir) != Some(&Entry::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.state().names.contains_key(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.powered()?;
        let found = state.names.get(path).copied();
        let id = match (found, mode) {
            (Some(Entry::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, Mode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(Entry::File(id)), Mode::Existing) => id,
            (Some(Entry::File(id)), Mode::Fresh) => {
                let go = state.operation(false)?;
                let process = state.process;
                state.file(process, id)?.clear();
                heard(&go)?;
                id
            }
            (None, Mode::Fresh) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                if parent != Path::new("/") && !state.names.contains_key(parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let go = state.operation(true)?;
                state.next += 1;
                let id = state.next;
                state.files.insert(id, Inode::default());
                state.name(Naming::Link(path.to_owned(), Entry::File(id)));
                heard(&go)?;
                id
            }
        };
        Ok(Arc::new(Handle { disk: self.clone(), id, process: state.process }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.powered()?;
        let entry = state.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        let go = state.operation(false)?;
        state.name(Naming::Rename(from.to_owned(), to.to_owned(), entry));
        heard(&go)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.powered()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let go = state.operation(false)?;
        state.name(Naming::Unlink(path.to_owned()));
        heard(&go)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let go = state.operation(false)?;
        if matches!(go, Go::On) || state.random.chance(50) {
            state.flush_names(dir);
        }
        heard(&go)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>, TryLockError> {
        let mut state = self.state();
        state.powered().map_err(TryLockError::Error)?;
        if !state.locks.insert(path.to_owned()) {
            return Err(TryLockError::WouldBlock);
        }
        Ok(Box::new(Held { disk: self.clone(), path: path.to_owned(), process: state.process }))
    }

    fn random(&self) -> u64 {
        self.state().random.number()
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.state().boot)
    }

    fn is_instant(&self) -> bool {
        true
    }

    fn pretended(&self) -> Duration {
        self.state().slow
    }
}

fn heard(go: &Go) -> io::Result<()> {
    match go {
        Go::On => Ok(()),
        Go::Cut => Err(no_power()),
    }
}

/// A held lock.
struct Held {
    disk: MemoryDisk,
    path: PathBuf,
    process: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.process == self.process {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: MemoryDisk,
    id: Id,
    process: u64,
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.powered()?;
        state.file(self.process, self.id).map(|file| file.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.powered()?;
        state.file(self.process, self.id)?.read(buffer, position(offset)?)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let offset = position(offset)?;
        let takes_space = offset + bytes.len() > state.file(self.process, self.id)?.len();
        let go = state.operation(takes_space)?;
        state.file(self.process, self.id)?.write(bytes, offset);
        heard(&go)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let takes_space = to > from;
        let go = state.operation(takes_space)?;
        state.file(self.process, self.id)?.grow(position(to)?);
        heard(&go)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.powered()?;
        state.file(self.process, self.id)?;
        let outcome = state.operation(false);
        let mut random = state.random.fork();
        let file = state.file(self.process, self.id)?;
        match outcome {
            Ok(Go::On) => file.flush(),
            Ok(Go::Cut) if random.chance(50) => file.flush(),
            Ok(Go::Cut) => {}
            Err(error) => {
                file.fail_flush(&mut random);
                return Err(error);
            }
        }
        heard(&outcome?)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
