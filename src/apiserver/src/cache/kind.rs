//! The cache of one kind: its objects ordered by key, and the window of their last changes.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use storage::{Event, EventKind, KeyValue, Revision};
use tokio::sync::watch;

use super::{
    Entry, Projector,
    window::{Change, Expired, Window},
};
use crate::keys;

/// Objects of one kind at one revision.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Revision of the newest change in the cache; the hub's may be higher.
    pub(crate) revision: Revision,
    /// Sequence number behind the last change that `entries` shows.
    pub(crate) next: u64,
}

struct State {
    objects: BTreeMap<Box<str>, Arc<Entry>>,
    window: Window,
    revision: Revision,
    /// Of the state that the cache was filled with.
    filled_at: Revision,
}

/// Written by the hub alone, read by all.
pub(crate) struct KindCache {
    projector: Projector,
    state: RwLock<State>,
    changed: watch::Sender<()>,
    closed: AtomicBool,
}

impl KindCache {
    pub(crate) fn new(projector: Projector) -> KindCache {
        let state = State { objects: BTreeMap::new(), window: Window::new(0, 0), revision: 0, filled_at: 0 };
        KindCache {
            projector,
            state: RwLock::new(state),
            changed: watch::Sender::new(()),
            closed: AtomicBool::new(false),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn projector(&self) -> &Projector {
        &self.projector
    }

    /// Replaces everything. Readers of the window fall out of it.
    pub(super) fn reset(&self, prefix: &str, kvs: Vec<KeyValue>, revision: Revision) {
        let skip = keys::collection(prefix, "").len();
        let objects = kvs
            .iter()
            .filter_map(|kv| {
                let key = std::str::from_utf8(kv.key.get(skip..)?).ok()?;
                Some((key.into(), Arc::new(Entry::new(key, kv, &self.projector))))
            })
            .collect();
        let mut state = self.write();
        let first = state.window.next() + 1;
        *state = State { objects, window: Window::new(revision, first), revision, filled_at: revision };
        drop(state);
        self.changed.send_replace(());
    }

    /// Applies one event of the store's log.
    pub(super) fn apply(&self, key: &str, event: &Event) {
        let after = match event.kind {
            EventKind::Put => Some(Arc::new(Entry::new(key, &event.kv, &self.projector))),
            EventKind::Delete => None,
        };
        let revision = event.kv.mod_revision;
        let mut state = self.write();
        // The hub may be behind what the cache was filled with.
        if revision <= state.filled_at {
            return;
        }
        let before = match &after {
            Some(entry) => state.objects.insert(key.into(), entry.clone()),
            None => state.objects.remove(key),
        };
        state.revision = revision;
        if before.is_some() || after.is_some() {
            state.window.push(Change { revision, before, after });
        }
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn trim(&self, revision: Revision) {
        self.write().window.trim(revision);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Whether the kind is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Told of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// One object by its key (`namespace/name` or `name`).
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    /// One object by namespace and name.
    pub(crate) fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        if namespace.is_empty() { self.get(name) } else { self.get(&[namespace, "/", name].concat()) }
    }

    /// The objects of a namespace (all when empty) that `wanted` accepts.
    pub(crate) fn list(&self, namespace: &str, wanted: impl Fn(&Entry) -> bool) -> Listing {
        let state = self.read();
        let collect = |entries: &mut dyn Iterator<Item = &Arc<Entry>>| entries.filter(|e| wanted(e)).cloned().collect();
        let entries = if namespace.is_empty() {
            collect(&mut state.objects.values())
        } else {
            let (from, to) = ([namespace, "/"].concat(), [namespace, "0"].concat());
            let bounds = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
            collect(&mut state.objects.range::<str, _>(bounds).map(|(_, entry)| entry))
        };
        Listing { entries, revision: state.revision, next: state.window.next() }
    }

    /// Revision of the newest change.
    pub(crate) fn revision(&self) -> Revision {
        self.read().revision
    }

    /// Where a watch that has seen `revision` begins.
    pub(crate) fn after(&self, revision: Revision) -> Result<u64, Expired> {
        self.read().window.after(revision)
    }

    /// About `max` changes from a place in the window on; see [`Window::read`].
    pub(crate) fn read_changes(&self, from: u64, max: usize) -> Result<Vec<Change>, Expired> {
        Ok(self.read().window.read(from, max)?.cloned().collect())
    }
}
