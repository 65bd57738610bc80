//! The Watch service: many watches on one stream.
//!
//! Each watch has a task that follows the store and reports over one bounded channel; the stream's own task owns the
//! client. A client that reads slowly fills the channel, then the store's buffer of that watch, and is then fed from the
//! history at its own pace: it misses nothing unless the history it needs is compacted, which it is told. Memory per
//! stream is bounded all the while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;

use crate::error::WatchError;
use crate::types::{EventKind, WatchBatch, WatchRequest};
use crate::watch::Watcher;

use super::grpc::{Gone, Inbound, Outbound};
use super::limits::Limits;
use super::status::Status;
use super::{Endpoint, range, wire};

/// Reports that wait for the client, over all watches of a stream.
const WAITING: usize = 8;
/// A report takes in further revisions until it has this many bytes, or this many changes.
const REPORT_BYTES: usize = 256 << 10;
const REPORT_EVENTS: usize = 1024;
/// Largest message to a client that asked for fragments: etcd's default bound of requests.
const FRAGMENT: usize = 3 << 19;
/// Stands for all watches of a stream, or for none.
const NO_WATCH: i64 = -1;

enum News {
    Events { revision: u64, events: Vec<wire::Event> },
    Progress(u64),
    End(WatchError),
}

struct Report {
    watch: i64,
    /// Tells watches apart that had one id after another.
    serial: u64,
    news: News,
}

struct Running {
    serial: u64,
    task: AbortHandle,
    progress: Arc<Notify>,
    notify: bool,
    fragment: bool,
    _counted: OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
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
    sender: mpsc::Sender<Report>,
    watches: HashMap<i64, Running>,
    next_id: i64,
    serial: u64,
    gathering: Option<Gathering>,
}

impl Endpoint {
    pub(super) async fn watch(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
        limits: &Limits,
    ) -> Result<Status, Gone> {
        let (sender, mut reports) = mpsc::channel(WAITING);
        let watches = HashMap::new();
        let mut stream =
            Stream { endpoint: self, outbound, limits, sender, watches, next_id: 0, serial: 0, gathering: None };
        let mut listening = true;
        while listening || !stream.watches.is_empty() {
            tokio::select! {
                asked = inbound.next::<wire::WatchRequest>(), if listening => match asked {
                    Ok(Some(request)) => stream.ask(request).await?,
                    Ok(None) => listening = false,
                    Err(status) => return Ok(status),
                },
                Some(report) = reports.recv() => {
                    if let Some(status) = stream.deliver(report).await? {
                        return Ok(status);
                    }
                }
                gone = stream.outbound.gone(), if !listening => return Err(gone),
            }
        }
        Ok(Status::ok())
    }
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
        self.outbound.send(&wire::WatchResponse { header, ..response }).await
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
        self.serial += 1;
        let progress = Arc::new(Notify::new());
        let filtered = |filter: wire::WatchFilter| create.filters.contains(&(filter as i32));
        let following = Following {
            endpoint: self.endpoint.clone(),
            watch: watch_id,
            serial: self.serial,
            reports: self.sender.clone(),
            progress: progress.clone(),
            periodic: create.progress_notify.then_some(self.endpoint.inner.config.progress_every),
            puts: !filtered(wire::WatchFilter::NoPut),
            deletions: !filtered(wire::WatchFilter::NoDelete),
        };
        let task = tokio::spawn(following.run(request)).abort_handle();
        let (notify, fragment) = (create.progress_notify, create.fragment);
        self.watches
            .insert(watch_id, Running { serial: self.serial, task, progress, notify, fragment, _counted: counted });
        Ok(())
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
        self.watches.values().for_each(|watch| watch.progress.notify_one());
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

    /// Passes on what a watch reports. Returns the status with which the whole stream ends, if it does.
    async fn deliver(&mut self, report: Report) -> Result<Option<Status>, Gone> {
        let Report { watch, serial, news } = report;
        let Some(running) = self.watches.get(&watch).filter(|running| running.serial == serial) else {
            return Ok(None);
        };
        match news {
            News::Events { revision, events } => {
                let fragment = running.fragment;
                self.events(watch, revision, events, fragment).await?;
            }
            News::Progress(revision) => {
                let asked = self.gathering.as_ref().is_some_and(|gathering| gathering.left.contains(&watch));
                if asked {
                    self.gathered(watch, revision).await?;
                } else if running.notify {
                    self.send(revision, wire::WatchResponse { watch_id: watch, ..Default::default() }).await?;
                }
            }
            News::End(WatchError::Compacted { oldest, .. }) => {
                self.watches.remove(&watch);
                let cancelled = wire::WatchResponse {
                    watch_id: watch,
                    canceled: true,
                    compact_revision: oldest.cast_signed(),
                    cancel_reason: Status::compacted().message,
                    ..Default::default()
                };
                let now = self.endpoint.store().revision();
                self.send(now, cancelled).await?;
                self.gathered(watch, u64::MAX).await?;
            }
            News::End(_) => return Ok(Some(Status::stopped())),
        }
        Ok(None)
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

/// One watch's task.
struct Following {
    endpoint: Endpoint,
    watch: i64,
    serial: u64,
    reports: mpsc::Sender<Report>,
    progress: Arc<Notify>,
    periodic: Option<Duration>,
    puts: bool,
    deletions: bool,
}

impl Following {
    async fn run(self, mut request: WatchRequest) {
        let mut asked = false;
        let error = loop {
            match self.follow(request.clone(), &mut asked).await {
                // Its changes are in the history.
                Err(WatchError::TooSlow { resume_from }) => request.from = resume_from,
                Err(error) => break error,
                Ok(()) => return,
            }
        };
        // A stream that is gone needs no end.
        let _told = self.report(News::End(error)).await;
    }

    /// Returns when the stream is gone. `asked` stands for as long as progress is due.
    async fn follow(&self, request: WatchRequest, asked: &mut bool) -> Result<(), WatchError> {
        let mut watcher = self.endpoint.store().watch(request)?;
        loop {
            if *asked {
                watcher.progress_handle().request();
            }
            let batch = tokio::select! {
                batch = watcher.next() => batch?,
                () = self.progress.notified() => {
                    *asked = true;
                    continue;
                }
                () = tokio::time::sleep(self.periodic.unwrap_or_default()), if self.periodic.is_some() => {
                    *asked = true;
                    continue;
                }
            };
            match self.pass_on(batch, &mut watcher).await {
                Some(told) => *asked &= !told,
                None => return Ok(()),
            }
        }
    }

    /// Reports a batch and what else is there already. Says whether that was progress; nothing when the stream is gone.
    async fn pass_on(&self, first: WatchBatch, watcher: &mut Watcher) -> Option<bool> {
        let (mut events, mut size) = (Vec::new(), 0);
        let mut batch = first;
        loop {
            let revision = batch.revision;
            if batch.events.is_empty() {
                self.events(revision, events).await?;
                return self.report(News::Progress(revision)).await.map(|()| true);
            }
            for event in batch.events {
                let wanted = if event.kind == EventKind::Put { self.puts } else { self.deletions };
                if wanted {
                    size += event.kv.value.len() + event.prev.as_ref().map_or(0, |prev| prev.value.len());
                    events.push(wire::Event {
                        kind: i32::from(event.kind == EventKind::Delete),
                        kv: Some(event.kv.into()),
                        prev_kv: event.prev.map(Into::into),
                    });
                }
            }
            let room = size < REPORT_BYTES && events.len() < REPORT_EVENTS;
            match if room { watcher.buffered() } else { None } {
                Some(next) => batch = next,
                None => return self.events(revision, events).await.map(|()| false),
            }
        }
    }

    /// Without changes there is nothing to say: to a client that would be progress.
    async fn events(&self, revision: u64, events: Vec<wire::Event>) -> Option<()> {
        if events.is_empty() { Some(()) } else { self.report(News::Events { revision, events }).await }
    }

    /// Nothing when the stream is gone.
    async fn report(&self, news: News) -> Option<()> {
        self.reports.send(Report { watch: self.watch, serial: self.serial, news }).await.ok()
    }
}
