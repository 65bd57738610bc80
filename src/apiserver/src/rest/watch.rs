//! WATCH: initial state where asked for, then the changes of the kind's window, each watcher at its own pace.
//!
//! Nothing is queued for a watcher: it reads the window when its client takes the next chunk, so a slow client costs
//! nothing but its place. A place that is not in the window, because the client was slow or the cache of the kind has
//! started later, is found in the store's log ([`backlog`]); only what is compacted there is answered with a 410 event.

mod backlog;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use objects::{
    field::{Errors, Path},
    status::{Qualified, Status},
};
use storage::Revision;
use tokio::{sync::watch as signal, time::Instant};

use self::backlog::Backlog;
use super::{Place, get::invalid_version};
use crate::{
    body::{Body, BoxError},
    cache::{Change, Entry, KindCache},
    frames::{EventType, Frames},
    handler::Call,
    negotiate::{self, Encoding},
    selection::Selection,
    server::Inner,
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Changes read from the window at once.
const BATCH: usize = 256;
/// Size at which a chunk of initial events is sent.
const CHUNK: usize = 256 * 1024;
/// A watch without timeoutSeconds ends after half an hour to an hour, so that clients spread again.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// What is asked for beyond this means for ever, and no clock counts that far.
const LONGEST_SECONDS: u64 = 365 * 24 * 3600;

struct Options {
    from: From,
    bookmarks: bool,
    initial_end: bool,
    lifetime: Duration,
}

enum From {
    /// Initial state, then changes.
    State,
    /// Changes from now on.
    Now,
    /// Changes behind this revision.
    Revision(Revision),
}

impl Options {
    fn of(call: &Call) -> Result<Options, Status> {
        let query = &call.query;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        check_initial_events(initial, query.text("resourceVersionMatch"))?;
        let from = match query.text("resourceVersion") {
            None | Some("0") if initial != Some(false) => From::State,
            _ if initial == Some(true) => From::State,
            None | Some("0") => From::Now,
            Some(version) => From::Revision(version.parse().map_err(|_| invalid_version(version))?),
        };
        let lifetime = lifetime(query.integer("timeoutSeconds")?);
        Ok(Options { from, bookmarks, initial_end: initial == Some(true) && bookmarks, lifetime })
    }
}

fn lifetime(timeout_seconds: Option<i64>) -> Duration {
    let seconds = match timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::random_range(DEFAULT_SECONDS),
    };
    Duration::from_secs(seconds.min(LONGEST_SECONDS))
}

fn check_initial_events(initial: Option<bool>, rule: Option<&str>) -> Result<(), Status> {
    let mut errors = Errors::default();
    match (initial, rule) {
        (None, Some(_)) => errors.forbidden(
            &Path::root("resourceVersionMatch"),
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), None) => errors.forbidden(
            &Path::root("resourceVersionMatch"),
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (Some(_), Some(rule)) if rule != "NotOlderThan" => {
            errors.not_supported(&Path::root("resourceVersionMatch"), rule, &["NotOlderThan"]);
        }
        _ => return Ok(()),
    }
    Err(Status::invalid(Qualified::new("meta.k8s.io", "ListOptions"), "", errors.as_slice()))
}

/// Answers a watch.
pub(crate) async fn watch(call: &Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let form = negotiate::form(call.headers(), &call.query, !place.resource.kind.custom)?;
    let mut selection = Selection::of(&call.query, &place.resource)?;
    if !place.name.is_empty() {
        selection.only(place.name);
    }
    let options = Options::of(call)?;
    let inner = &call.inner;
    match (&options.from, call.query.text("resourceVersion")) {
        (From::Revision(revision), _) => inner.hub.wait_for(*revision).await?,
        (From::State | From::Now, None) => inner.hub.linearize().await?,
        (From::State | From::Now, Some(version)) => {
            inner.hub.wait_for(version.parse().map_err(|_| invalid_version(version))?).await?;
        }
    }
    let cache = inner.hub.of(&place.resource)?;
    let watcher = Watcher::new(inner.clone(), cache, place, selection, &options, Frames::new(&call.query, place, form));
    inner.metrics.watchers.inc();
    let chunks = stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok::<_, BoxError>(chunk), watcher))
    });
    let mut response = Response::new(Body::stream(chunks));
    let content_type = match form.encoding {
        Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
        _ => HeaderValue::from_static("application/json"),
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

struct Watcher {
    inner: Arc<Inner>,
    cache: Arc<KindCache>,
    changed: signal::Receiver<()>,
    namespace: String,
    selection: Selection,
    frames: Frames,
    initial: VecDeque<Arc<Entry>>,
    /// Send the bookmark that ends the initial events, with this revision.
    initial_end: Option<Revision>,
    /// Place in the window.
    next: u64,
    /// What is to be read before the window.
    backlog: Option<Backlog>,
    /// All changes up to here have been looked at.
    asked: Revision,
    /// Sent as the last event.
    failure: Option<Status>,
    prefix: String,
    ends: Instant,
    bookmark: Option<Instant>,
    done: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.inner.metrics.watchers.dec();
    }
}

impl Watcher {
    fn new(
        inner: Arc<Inner>,
        cache: Arc<KindCache>,
        place: &Place<'_>,
        selection: Selection,
        options: &Options,
        frames: Frames,
    ) -> Watcher {
        let now = Instant::now();
        let mut watcher = Watcher {
            changed: cache.changes(),
            namespace: place.namespace.to_owned(),
            selection,
            frames,
            initial: VecDeque::new(),
            initial_end: None,
            next: 0,
            backlog: None,
            asked: 0,
            failure: None,
            prefix: place.resource.prefix().to_owned(),
            ends: now + options.lifetime,
            bookmark: options.bookmarks.then_some(now + BOOKMARK_EVERY),
            done: false,
            inner,
            cache,
        };
        match options.from {
            From::State => {
                let seen = watcher.inner.hub.revision();
                let listing = watcher.cache.list(place.namespace, |entry| watcher.selection.matches(entry));
                watcher.initial_end = options.initial_end.then_some(seen.max(listing.revision));
                watcher.next = listing.next;
                watcher.asked = seen.max(listing.revision);
                watcher.initial = listing.entries.into();
            }
            From::Now => watcher.begin_after(watcher.inner.hub.revision()),
            From::Revision(revision) => watcher.begin_after(revision),
        }
        watcher
    }

    fn begin_after(&mut self, revision: Revision) {
        self.asked = revision;
        match self.cache.after(revision) {
            Ok(next) => self.next = next,
            Err(_) => self.look_back(),
        }
    }

    /// Goes on in the store's log, from which the window has moved away.
    fn look_back(&mut self) {
        match Backlog::open(&self.inner, &self.cache, &self.prefix, &self.namespace, self.asked) {
            Ok((backlog, next)) => {
                self.backlog = Some(backlog);
                self.next = next;
            }
            Err(status) => self.failure = Some(status),
        }
    }

    /// The next chunk of events; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        loop {
            if self.done {
                return None;
            }
            self.write_initial(&mut out);
            self.write_backlog(&mut out).await;
            if let Some(status) = self.failure.take() {
                self.frames.error(&mut out, &status);
                self.done = true;
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            // Read before the window: all changes up to this revision are in what the window yields next.
            let seen = self.inner.hub.revision();
            if !self.write_changes(&mut out) && out.is_empty() {
                self.wait(seen, &mut out).await;
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    async fn write_backlog(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK
            && let Some(backlog) = self.backlog.as_mut()
        {
            match backlog.next(&self.cache).await {
                Ok(Some(changes)) => changes.iter().for_each(|change| self.write_change(out, change)),
                Ok(None) => self.backlog = None,
                Err(status) => {
                    self.failure = Some(status);
                    self.backlog = None;
                }
            }
        }
    }

    fn write_initial(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK {
            let Some(entry) = self.initial.pop_front() else { break };
            self.frames.event(out, EventType::Added, &entry, entry.revision);
        }
        if self.initial.is_empty()
            && let Some(revision) = self.initial_end.take()
        {
            self.frames.bookmark(out, revision, true);
        }
    }

    /// Writes pending changes; false when there was nothing to do.
    fn write_changes(&mut self, out: &mut Vec<u8>) -> bool {
        let Ok(changes) = self.cache.read_changes(self.next, BATCH) else {
            self.look_back();
            return true;
        };
        self.next += changes.len() as u64;
        changes.iter().for_each(|change| self.write_change(out, change));
        !changes.is_empty()
    }

    fn write_change(&mut self, out: &mut Vec<u8>, change: &Change) {
        self.asked = change.revision;
        let ours = |entry: &&Arc<Entry>| {
            (self.namespace.is_empty() || entry.namespace() == self.namespace) && self.selection.matches(entry)
        };
        let (before, after) = (change.before.as_ref().filter(ours), change.after.as_ref().filter(ours));
        match (before, after) {
            (None, Some(entry)) => self.frames.event(out, EventType::Added, entry, entry.revision),
            (Some(_), Some(entry)) => self.frames.event(out, EventType::Modified, entry, entry.revision),
            (Some(entry), None) => self.frames.event(out, EventType::Deleted, entry, change.revision),
            (None, None) => {}
        }
    }

    /// Waits for a change, the next bookmark or the end.
    async fn wait(&mut self, seen: Revision, out: &mut Vec<u8>) {
        if self.cache.is_closed() {
            self.done = true;
            return;
        }
        let bookmark = self.bookmark.unwrap_or(self.ends);
        tokio::select! {
            changed = self.changed.changed() => self.done = changed.is_err(),
            () = self.inner.stop.cancelled() => self.done = true,
            () = tokio::time::sleep_until(self.ends.min(bookmark)) => {
                if self.bookmark.is_some() {
                    // Also at the end, so that the client resumes from here and not from its last event.
                    self.frames.bookmark(out, seen, false);
                    self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
                }
                self.done = Instant::now() >= self.ends;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_one_that_a_clock_can_count() {
        assert_eq!(lifetime(Some(5)), Duration::from_secs(5));
        assert!(Instant::now().checked_add(lifetime(Some(i64::MAX))).is_some());
        for unset in [None, Some(0), Some(-1)] {
            assert!(DEFAULT_SECONDS.contains(&lifetime(unset).as_secs()), "{unset:?}");
        }
    }
}
