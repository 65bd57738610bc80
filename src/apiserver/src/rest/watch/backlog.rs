//! The part of a watch that lies before the kind's window: read from the store's log up to the place from which the
//! window has everything.

use std::sync::Arc;

use objects::status::Status;
use storage::{Event, EventKind, KeyValue, Revision, WatchError, WatchRequest, prefix_end};

use crate::{
    cache::{Change, Entry, KindCache},
    keys,
    server::Inner,
};

/// How often the place in the window is looked for while the window moves on.
const TRIES: usize = 8;

/// Changes from the log, revision by revision.
pub(super) struct Backlog {
    log: storage::Watcher,
    /// Behind this the window goes on.
    until: Revision,
    /// Length of the part of a key that names the kind.
    skip: usize,
    asked: Revision,
}

impl Backlog {
    /// The changes behind `after`, and the place in the window that follows them.
    ///
    /// # Errors
    /// When the log does not reach back so far.
    pub(super) fn open(
        inner: &Inner,
        cache: &KindCache,
        prefix: &str,
        namespace: &str,
        after: Revision,
    ) -> Result<(Backlog, u64), Status> {
        let scope = keys::collection(prefix, namespace);
        let end = Some(prefix_end(scope.as_bytes()));
        let request = WatchRequest { key: scope.into(), end, from: after + 1, prev_kv: true };
        let log = inner.config.store.watch(request).map_err(|error| ended(after, &error))?;
        // Comes behind everything that has happened up to now.
        log.progress_handle().request();
        for _ in 0..TRIES {
            let until = inner.hub.revision();
            if let Ok(next) = cache.after(until) {
                let skip = keys::collection(prefix, "").len();
                return Ok((Backlog { log, until, skip, asked: after }, next));
            }
        }
        Err(Status::too_old(after, inner.config.store.compacted() + 1))
    }

    /// The next revision's changes; `None` when the window has the rest.
    pub(super) async fn next(&mut self, cache: &KindCache) -> Result<Option<Vec<Change>>, Status> {
        let batch = self.log.next().await.map_err(|error| ended(self.asked, &error))?;
        if batch.events.is_empty() || batch.revision > self.until {
            return Ok(None);
        }
        self.asked = batch.revision;
        Ok(Some(batch.events.iter().filter_map(|event| self.change(event, cache)).collect()))
    }

    fn change(&self, event: &Event, cache: &KindCache) -> Option<Change> {
        let key = std::str::from_utf8(event.kv.key.get(self.skip..)?).ok()?;
        let entry = |kv: &KeyValue| Arc::new(Entry::new(key, kv, cache.projector()));
        let after = (event.kind == EventKind::Put).then(|| entry(&event.kv));
        Some(Change { revision: event.kv.mod_revision, before: event.prev.as_ref().map(entry), after })
    }
}

fn ended(after: Revision, error: &WatchError) -> Status {
    match error {
        WatchError::Compacted { oldest, .. } => Status::too_old(after, *oldest),
        WatchError::TooSlow { resume_from } => Status::too_old(after, *resume_from),
        WatchError::Closed => Status::unavailable("the server is shutting down"),
    }
}
