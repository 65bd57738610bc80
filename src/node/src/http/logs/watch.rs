//! Tells when something in a folder changes, by inotify. One kernel instance and one thread serve all followers of the
//! process (the kernel allows few instances); they are made by the first follower and sleep when there is none.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::watch;

static WATCHER: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);

struct Watcher {
    inotify: Inotify,
    folders: Mutex<HashMap<WatchDescriptor, watch::Sender<()>>>,
}

/// One follower's view of a folder. The folder is given up with its last follower.
pub(super) struct Changes {
    /// Taken only when this is dropped.
    changes: Option<watch::Receiver<()>>,
    folder: WatchDescriptor,
    watcher: Arc<Watcher>,
}

/// Watches a folder from now on.
pub(super) fn watch(folder: Option<&Path>) -> io::Result<Changes> {
    let folder = folder.ok_or(io::ErrorKind::NotFound)?;
    let watcher = watcher()?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
    // Held over both, so that a follower who leaves just now does not take the new one's watch along.
    let mut folders = lock(&watcher.folders);
    let descriptor = watcher.inotify.add_watch(folder, what)?;
    let changes = folders.entry(descriptor).or_insert_with(|| watch::Sender::new(())).subscribe();
    drop(folders);
    Ok(Changes { changes: Some(changes), folder: descriptor, watcher })
}

fn watcher() -> io::Result<Arc<Watcher>> {
    let mut running = lock(&WATCHER);
    if let Some(watcher) = &*running {
        return Ok(watcher.clone());
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let watcher = Arc::new(Watcher { inotify, folders: Mutex::default() });
    let on_thread = watcher.clone();
    std::thread::Builder::new().name("log-watch".into()).spawn(move || on_thread.run())?;
    Ok(running.insert(watcher).clone())
}

impl Watcher {
    fn run(&self) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    // An overflow names no folder: everybody looks.
                    let overflow = events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
                    for (folder, changed) in &*lock(&self.folders) {
                        if overflow || events.iter().any(|e| e.wd == *folder) {
                            changed.send_replace(());
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "log followers are no longer told of changes");
                    // The next follower begins anew.
                    *lock(&WATCHER) = None;
                    return lock(&self.folders).clear();
                }
            }
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
        let mut folders = lock(&self.watcher.folders);
        self.changes = None;
        if folders.get(&self.folder).is_some_and(|f| f.receiver_count() == 0) {
            folders.remove(&self.folder);
            if let Err(error) = self.watcher.inotify.rm_watch(self.folder) {
                // The kernel drops the watch itself when the folder goes.
                tracing::trace!(%error, "folder is not watched any more");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
