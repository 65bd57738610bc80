//! The Watch service: many watches on one stream.
//!
//! The stream's own task reads all its watches: a change wakes it once, however many of them it concerns, and what they
//! have to say goes out together. A client that reads slowly keeps the task waiting; then the store's buffers of the
//! watches fill up, and each goes on from the history at the client's pace: it misses nothing unless the history it needs is
//! compacted, which it is told. Memory per stream is bounded all the while.
//!
//! Many watches of one key are many responses for each change, which cost the client more than us. A stream that has just
//! had so many to send rests for a moment, and what happens meanwhile goes into one response for each watch.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::error::WatchError;
use crate::store::Store;
use crate::types::{EventKind, WatchBatch, WatchRequest};
use crate::watch::{Ready, Taken, Watcher};

use super::grpc::{self, Gone, Inbound, Outbound};
use super::limits::Limits;
use super::status::Status;
use super::{Endpoint, range, wire};

/// A response takes in further revisions until it has this many bytes, or this many changes.
const RESPONSE_BYTES: usize = 256 << 10;
const RESPONSE_EVENTS: usize = 1024;
/// Responses go out together until they have this many bytes.
const TOGETHER: usize = 64 << 10;
/// Watches that are looked at before the client is listened to again.
const AT_A_TIME: usize = 1024;
/// Watches that have something to say at a time from which on the stream rests; how long for each, and at the most.
const MANY: u32 = 32;
const REST: Duration = Duration::from_micros(50);
const LONGEST_REST: Duration = Duration::from_millis(10);
/// Between two reports of progress, whatever is configured.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// Largest message to a client that asked for fragments: etcd's default bound of requests.
const FRAGMENT: usize = 3 << 19;
/// Stands for all watches of a stream, or for none.
const NO_WATCH: i64 = -1;

/// One watch.
struct Running {
    serial: u64,
    /// For opening it anew.
    request: WatchRequest,
    watcher: Watcher,
    /// Progress is due, whatever becomes of the watcher.
    asked: bool,
    /// When it last had something to say.
    active: Instant,
    notify: bool,
    fragment: bool,
    puts: bool,
    deletions: bool,
    _counted: OwnedSemaphorePermit,
}

/// What a watch has to say.
struct Told {
    revision: u64,
    events: Vec<wire::Event>,
    then: Then,
}

enum Then {
    /// It says when there is more.
    Wait,
    /// There may be more at once.
    Further,
    Progress(u64),
    End(WatchError),
}

impl Running {
    /// Asks for a report without changes, which comes after all changes up to now.
    fn ask(&mut self) {
        self.asked = true;
        self.watcher.progress_handle().request();
    }

    /// Takes what is there, up to the size of a response. `reopen` makes another watcher for one that was too slow.
    fn collect(&mut self, reopen: impl Fn(WatchRequest) -> Result<Watcher, WatchError>) -> Told {
        self.watcher.taken_out();
        let mut told = Told { revision: 0, events: Vec::new(), then: Then::Further };
        let mut size = 0;
        while size < RESPONSE_BYTES && told.events.len() < RESPONSE_EVENTS {
            match self.watcher.take() {
                Taken::This(Ok(batch)) if batch.events.is_empty() => {
                    self.asked = false;
                    told.then = Then::Progress(batch.revision);
                    return told;
                }
                Taken::This(Ok(batch)) => size += self.add(batch, &mut told),
                // Its changes are in the history.
                Taken::This(Err(WatchError::TooSlow { resume_from })) => {
                    self.request.from = resume_from;
                    match reopen(self.request.clone()) {
                        Ok(watcher) => self.watcher = watcher,
                        Err(error) => told.then = Then::End(error),
                    }
                    if self.asked {
                        self.watcher.progress_handle().request();
                    }
                    return told;
                }
                Taken::This(Err(error)) => {
                    told.then = Then::End(error);
                    return told;
                }
                Taken::Further => return told,
                Taken::Nothing => {
                    told.then = Then::Wait;
                    return told;
                }
            }
        }
        told
    }

    /// Adds the changes of one revision; says how large they are.
    fn add(&self, batch: WatchBatch, told: &mut Told) -> usize {
        told.revision = batch.revision;
        let mut size = 0;
        for event in batch.events {
            if if event.kind == EventKind::Put { self.puts } else { self.deletions } {
                size += event.kv.value.len() + event.prev.as_ref().map_or(0, |prev| prev.value.len());
                told.events.push(wire::Event {
                    kind: i32::from(event.kind == EventKind::Delete),
                    kv: Some(event.kv.into()),
                    prev_kv: event.prev.map(Into::into),
                });
            }
        }
        size
    }
}

/// Watches that have yet to say how far they are, for one progress report on all.
struct Gathering {
    left: HashSet<i64>,
    revision: u64,
    /// Asked for once more meanwhile.
    again: bool,
}

struct Stream<'a> {
    endpoint: &'a Endpoint,
    outbound: &'a mut Outbound,
    limits: &'a Limits,
    /// Messages that are yet to go out.
    written: BytesMut,
    watches: HashMap<i64, Running>,
    /// Ids of watches that have something to say; perhaps of one that is no more.
    ready: Arc<Ready>,
    /// When watches are next looked at that want to hear of progress from time to time.
    due: BinaryHeap<Reverse<(Instant, i64, u64)>>,
    next_id: i64,
    /// Tells watches apart that had one id after another.
    serial: u64,
    /// Before that nothing more is taken from the watches.
    rests_until: Option<Instant>,
    /// The store is closed.
    stopped: bool,
    gathering: Option<Gathering>,
}

impl Endpoint {
    pub(super) async fn watch(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
        limits: &Limits,
    ) -> Result<Status, Gone> {
        let mut stream = Stream {
            endpoint: self,
            outbound,
            limits,
            written: BytesMut::new(),
            watches: HashMap::new(),
            ready: Arc::default(),
            due: BinaryHeap::new(),
            next_id: 0,
            serial: 0,
            rests_until: None,
            stopped: false,
            gathering: None,
        };
        let mut listening = true;
        let mut end = None;
        while end.is_none() && (listening || !stream.watches.is_empty()) {
            let (ready, due) = (stream.ready.clone(), stream.due.peek().map(|Reverse((due, ..))| *due));
            let rest = stream.rests_until;
            tokio::select! {
                asked = inbound.next::<wire::WatchRequest>(), if listening => match asked {
                    Ok(Some(request)) => stream.ask(request).await?,
                    Ok(None) => listening = false,
                    Err(status) => end = Some(status),
                },
                () = ready.wait(), if rest.is_none() => end = stream.advance().await?,
                () = tokio::time::sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {
                    stream.rests_until = None;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => stream.remind(),
                gone = stream.outbound.gone(), if !listening => return Err(gone),
            }
            stream.flush().await?;
            if stream.stopped {
                end = Some(Status::stopped());
            }
        }
        Ok(end.unwrap_or_else(Status::ok))
    }
}

/// A watch's id as the token of its watcher.
fn token(watch_id: i64) -> u64 {
    watch_id.cast_unsigned()
}

fn open(store: &Store, request: WatchRequest, ready: &Arc<Ready>, watch_id: i64) -> Result<Watcher, WatchError> {
    store.watch_among(request, ready, token(watch_id))
}

impl Stream<'_> {
    async fn ask(&mut self, request: wire::WatchRequest) -> Result<(), Gone> {
        match request.ask {
            Some(wire::WatchAsk::Create(create)) => self.create(create).await,
            Some(wire::WatchAsk::Cancel(cancel)) => self.cancel(cancel.watch_id).await,
            Some(wire::WatchAsk::Progress(_)) => self.progress().await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, revision: u64, response: wire::WatchResponse) -> Result<(), Gone> {
        let header = Some(self.endpoint.header(revision));
        grpc::write(&mut self.written, &wire::WatchResponse { header, ..response }).map_err(|_| Gone)?;
        if self.written.len() >= TOGETHER { self.flush().await } else { Ok(()) }
    }

    /// Sends what has been written; waits for as long as the client does not take it.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.written.is_empty() { Ok(()) } else { self.outbound.push(self.written.split().freeze()).await }
    }

    async fn create(&mut self, create: wire::WatchCreateRequest) -> Result<(), Gone> {
        let now = self.endpoint.store().revision();
        let end = range::end(create.range_end);
        // The smallest key there can be.
        let key = if create.key.is_empty() { vec![0] } else { create.key };
        let counted = self.limits.watch();
        let refusal = if end.as_ref().is_some_and(|end| !end.is_empty() && key.as_slice() >= end.as_ref()) {
            Some("mvcc: watcher range is empty")
        } else if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        let (refusal, counted) = match (refusal, counted) {
            (None, None) => (Some("etcdserver: too many watches on one connection"), None),
            other => other,
        };
        let (None, Some(counted)) = (refusal, counted) else {
            let reason = refusal.unwrap_or_default();
            let cancel_reason = reason.to_owned();
            let refused = wire::WatchResponse {
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            return self.send(now, refused).await;
        };
        let watch_id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let from = u64::try_from(create.start_revision).unwrap_or(0);
        // From a fixed revision on, so that nothing which happens from now is missed however often the watch reopens.
        let from = if from == 0 { now + 1 } else { from };
        let request = WatchRequest { key: key.into(), end, from, prev_kv: create.prev_kv };
        self.send(now, wire::WatchResponse { watch_id, created: true, ..Default::default() }).await?;
        let watcher = match open(self.endpoint.store(), request.clone(), &self.ready, watch_id) {
            Ok(watcher) => watcher,
            Err(WatchError::Compacted { oldest, .. }) => return self.compacted(watch_id, oldest).await,
            Err(_) => {
                self.stopped = true;
                return Ok(());
            }
        };
        self.serial += 1;
        let filtered = |filter: wire::WatchFilter| create.filters.contains(&(filter as i32));
        let running = Running {
            serial: self.serial,
            request,
            watcher,
            asked: false,
            active: Instant::now(),
            notify: create.progress_notify,
            fragment: create.fragment,
            puts: !filtered(wire::WatchFilter::NoPut),
            deletions: !filtered(wire::WatchFilter::NoDelete),
            _counted: counted,
        };
        self.watches.insert(watch_id, running);
        if create.progress_notify {
            self.remind_at(Instant::now() + self.endpoint.inner.config.progress_every, watch_id, self.serial);
        }
        Ok(())
    }

    fn remind_at(&mut self, due: Instant, watch: i64, serial: u64) {
        // Those of watches that are no more would be kept until they are due.
        if self.due.len() > 2 * self.watches.len() + 64 {
            let watches = &self.watches;
            let alive = |watch: &i64, serial: &u64| watches.get(watch).is_some_and(|running| running.serial == *serial);
            self.due.retain(|Reverse((_, watch, serial))| alive(watch, serial));
        }
        self.due.push(Reverse((due, watch, serial)));
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), Gone> {
        if self.watches.remove(&watch_id).is_none() {
            return Ok(());
        }
        let now = self.endpoint.store().revision();
        self.send(now, wire::WatchResponse { watch_id, canceled: true, ..Default::default() }).await?;
        self.gathered(watch_id, u64::MAX).await
    }

    async fn progress(&mut self) -> Result<(), Gone> {
        if let Some(gathering) = &mut self.gathering {
            gathering.again = true;
            return Ok(());
        }
        let revision = self.endpoint.store().revision();
        if self.watches.is_empty() {
            return self.send(revision, wire::WatchResponse { watch_id: NO_WATCH, ..Default::default() }).await;
        }
        self.gather();
        Ok(())
    }

    fn gather(&mut self) {
        self.watches.values_mut().for_each(Running::ask);
        let left = self.watches.keys().copied().collect();
        self.gathering = Some(Gathering { left, revision: u64::MAX, again: false });
    }

    /// One more watch is as far as `revision`; tells the client once all are.
    async fn gathered(&mut self, watch: i64, revision: u64) -> Result<(), Gone> {
        let Some(gathering) = &mut self.gathering else { return Ok(()) };
        if gathering.left.remove(&watch) {
            gathering.revision = gathering.revision.min(revision);
        }
        if !gathering.left.is_empty() {
            return Ok(());
        }
        let Gathering { revision, again, .. } = *gathering;
        self.gathering = None;
        // Without a watch left there is nothing older to come than what comes next.
        let revision = if revision == u64::MAX { self.endpoint.store().revision() } else { revision };
        self.send(revision, wire::WatchResponse { watch_id: NO_WATCH, ..Default::default() }).await?;
        if again && !self.watches.is_empty() {
            self.gather();
        }
        Ok(())
    }

    /// Asks watches for progress that have had nothing to say for long.
    fn remind(&mut self) {
        let (now, every) = (Instant::now(), self.endpoint.inner.config.progress_every.max(LEAST_PAUSE));
        while self.due.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, watch, serial))) = self.due.pop() else { return };
            let Some(running) = self.watches.get_mut(&watch).filter(|running| running.serial == serial) else {
                continue;
            };
            let silent_until = running.active + every;
            if silent_until <= now {
                running.ask();
            }
            self.remind_at(if silent_until <= now { now + every } else { silent_until }, watch, serial);
        }
    }

    /// Passes on what watches have to say. Returns the status with which the whole stream ends, if it does.
    async fn advance(&mut self) -> Result<Option<Status>, Gone> {
        let mut told = 0;
        for _ in 0..AT_A_TIME {
            let Some(token) = self.ready.pop() else { break };
            told += 1;
            // A long history must not keep the other tasks of this thread waiting.
            tokio::task::consume_budget().await;
            if let Some(status) = self.tell(token.cast_signed()).await? {
                return Ok(Some(status));
            }
        }
        if told >= MANY {
            self.rests_until = Some(Instant::now() + (REST * told).min(LONGEST_REST));
        }
        Ok(None)
    }

    async fn tell(&mut self, watch: i64) -> Result<Option<Status>, Gone> {
        let Some(running) = self.watches.get_mut(&watch) else { return Ok(None) };
        let (store, ready) = (self.endpoint.store(), &self.ready);
        let Told { revision, events, then } = running.collect(|request| open(store, request, ready, watch));
        let (fragment, notify) = (running.fragment, running.notify);
        if notify {
            running.active = Instant::now();
        }
        if matches!(then, Then::Further) {
            running.watcher.wake();
        }
        // Without changes there is nothing to say: to a client that would be progress.
        if !events.is_empty() {
            self.events(watch, revision, events, fragment).await?;
        }
        match then {
            Then::Wait | Then::Further => {}
            Then::Progress(revision) => {
                let asked = self.gathering.as_ref().is_some_and(|gathering| gathering.left.contains(&watch));
                if asked {
                    self.gathered(watch, revision).await?;
                } else if notify {
                    self.send(revision, wire::WatchResponse { watch_id: watch, ..Default::default() }).await?;
                }
            }
            Then::End(WatchError::Compacted { oldest, .. }) => {
                self.watches.remove(&watch);
                self.compacted(watch, oldest).await?;
            }
            Then::End(_) => return Ok(Some(Status::stopped())),
        }
        Ok(None)
    }

    /// Ends a watch whose history is gone.
    async fn compacted(&mut self, watch_id: i64, oldest: u64) -> Result<(), Gone> {
        let cancelled = wire::WatchResponse {
            watch_id,
            canceled: true,
            compact_revision: oldest.cast_signed(),
            cancel_reason: Status::compacted().message,
            ..Default::default()
        };
        let now = self.endpoint.store().revision();
        self.send(now, cancelled).await?;
        self.gathered(watch_id, u64::MAX).await
    }

    async fn events(
        &mut self,
        watch_id: i64,
        revision: u64,
        events: Vec<wire::Event>,
        split: bool,
    ) -> Result<(), Gone> {
        let response = |events, fragment| wire::WatchResponse { watch_id, events, fragment, ..Default::default() };
        if !split {
            return self.send(revision, response(events, false)).await;
        }
        let (mut part, mut size) = (Vec::new(), 0);
        for event in events {
            let length = event.encoded_len() + 8;
            if size + length > FRAGMENT && !part.is_empty() {
                self.send(revision, response(std::mem::take(&mut part), true)).await?;
                size = 0;
            }
            size += length;
            part.push(event);
        }
        self.send(revision, response(part, false)).await
    }
}
