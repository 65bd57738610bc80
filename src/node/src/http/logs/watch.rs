//! Tells when something in a folder changes, by inotify. One kernel instance serves all followers of the node (the
//! kernel allows few), and none is made before the first.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The folders being watched.
pub(in crate::http) struct FolderWatch {
    shared: Mutex<Option<Arc<Shared>>>,
}

struct Shared {
    inotify: Arc<AsyncFd<Descriptor>>,
    folders: Arc<Mutex<Folders>>,
    _reader: DropGuard,
}

type Folders = HashMap<WatchDescriptor, watch::Sender<()>>;

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// One follower's view of a folder. The folder is given up with its last follower.
pub(super) struct Changes {
    changes: Option<watch::Receiver<()>>,
    folder: WatchDescriptor,
    shared: Arc<Shared>,
}

impl FolderWatch {
    pub(in crate::http) fn new() -> Self {
        Self { shared: Mutex::new(None) }
    }

    /// Watches a folder from now on. Must be called within the runtime.
    pub(super) fn watch(&self, folder: Option<&Path>) -> io::Result<Changes> {
        let folder = folder.ok_or(io::ErrorKind::NotFound)?;
        let shared = {
            let mut shared = lock(&self.shared);
            match &*shared {
                Some(shared) => shared.clone(),
                None => shared.insert(Arc::new(Shared::start()?)).clone(),
            }
        };
        let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
        // Held over both, so that a follower who leaves just now does not take the new one's watch along.
        let mut folders = lock(&shared.folders);
        let descriptor = shared.inotify.get_ref().0.add_watch(folder, what)?;
        let changes = folders.entry(descriptor).or_insert_with(|| watch::Sender::new(())).subscribe();
        drop(folders);
        Ok(Changes { changes: Some(changes), folder: descriptor, shared })
    }
}

impl Shared {
    fn start() -> io::Result<Shared> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let inotify = Arc::new(AsyncFd::new(Descriptor(inotify))?);
        let folders = Arc::new(Mutex::new(Folders::new()));
        let stop = CancellationToken::new();
        let reader = read_events(inotify.clone(), folders.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = stopped.run_until_cancelled(reader).await {
                tracing::error!(%error, "log followers are no longer told of changes");
            }
        });
        Ok(Shared { inotify, folders, _reader: stop.drop_guard() })
    }
}

async fn read_events(inotify: Arc<AsyncFd<Descriptor>>, folders: Arc<Mutex<Folders>>) -> io::Result<()> {
    loop {
        let mut ready = inotify.readable().await?;
        match inotify.get_ref().0.read_events() {
            Ok(events) => {
                let folders = lock(&folders);
                // An overflow names no folder: everybody looks.
                let overflow = events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
                for (folder, changed) in folders.iter() {
                    if overflow || events.iter().any(|e| e.wd == *folder) {
                        changed.send_replace(());
                    }
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Changes {
    /// Resolves when something changed since the last call. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        let closed = match &mut self.changes {
            Some(changes) => changes.changed().await.is_err(),
            None => true,
        };
        if closed {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut folders = lock(&self.shared.folders);
        self.changes = None;
        if folders.get(&self.folder).is_some_and(|f| f.receiver_count() == 0) {
            folders.remove(&self.folder);
            if let Err(error) = self.shared.inotify.get_ref().0.rm_watch(self.folder) {
                // The kernel drops the watch itself when the folder goes.
                tracing::trace!(%error, "folder is not watched any more");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
