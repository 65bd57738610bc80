//! The task that keeps a store equal to a collection of the API: one list in pages, then watches from the revision
//! reached, for ever. A lost connection goes on from the last revision; a revision that is gone (410) lists again.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{self, Event};
use super::store::Store;
use super::{Endpoint, Observed};
use crate::api::decode;
use crate::backoff::Backoff;

const PAGE: u32 = 500;
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// What the reflector does to a kind's objects: all that depends on their type. The rest is the same code for all.
pub(super) trait Kind: Send + Sync {
    fn list(&self) -> Box<dyn Listing + '_>;

    /// Puts an encoded object into the store, or takes it out. Returns its revision.
    fn take(&self, object: &[u8], deleted: bool) -> kube::Result<Option<String>>;

    /// Records that everything up to `revision` is in the store.
    fn observe(&self, revision: u64);

    /// Ends the subscriptions.
    fn close(&self);
}

/// A list that comes in pages.
pub(super) trait Listing: Send {
    fn page(&mut self, page: &[u8]) -> kube::Result<ListMeta>;

    /// Puts all pages into the store, in place of what was there.
    fn finish(self: Box<Self>, revision: u64);
}

/// The objects of type `K`.
pub(super) struct Typed<K> {
    store: Arc<Store<K>>,
    metadata_only: bool,
}

struct Pages<'a, K> {
    kind: &'a Typed<K>,
    objects: Vec<K>,
}

/// A list response. kube's own list type flattens its header, which buffers every item untyped first.
#[derive(Deserialize)]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default = "Option::default")]
    items: Option<Vec<K>>,
}

impl<K: Observed> Typed<K> {
    /// Field ownership is the server's business and often the larger half of an object: not kept in memory. Whoever
    /// asks for metadata alone follows owners and finalizers of every object there is: no texts are kept for that.
    fn trim(&self, mut object: K) -> K {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        if self.metadata_only {
            (meta.labels, meta.annotations) = (None, None);
        }
        object
    }
}

impl<K: Observed> Kind for Typed<K> {
    fn list(&self) -> Box<dyn Listing + '_> {
        Box::new(Pages { kind: self, objects: Vec::new() })
    }

    fn take(&self, object: &[u8], deleted: bool) -> kube::Result<Option<String>> {
        let object: K = decode(object)?;
        let revision = object.meta().resource_version.clone();
        if deleted {
            self.store.delete(&object);
        } else {
            self.store.apply(self.trim(object));
        }
        Ok(revision)
    }

    fn observe(&self, revision: u64) {
        self.store.observe(revision);
    }

    fn close(&self) {
        self.store.close();
    }
}

impl<K: Observed> Listing for Pages<'_, K> {
    fn page(&mut self, page: &[u8]) -> kube::Result<ListMeta> {
        let Page { metadata, items } = decode::<Page<K>>(page)?;
        self.objects.extend(items.into_iter().flatten().map(|object| self.kind.trim(object)));
        Ok(metadata)
    }

    fn finish(self: Box<Self>, revision: u64) {
        self.kind.store.replace(self.objects, revision);
    }
}

pub(super) struct Reflector {
    client: kube::Client,
    endpoint: Endpoint,
    kind: Box<dyn Kind>,
}

#[derive(Debug, thiserror::Error)]
enum ReflectError {
    #[error("revision is no longer available")]
    Expired,
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the server ended the watch at once")]
    EndedAtOnce,
    #[error("an event cannot be read")]
    Event(#[from] serde_json::Error),
    #[error("request could not be built")]
    Request(#[from] http::Error),
}

impl ReflectError {
    fn or_expired(self) -> Self {
        match self {
            Self::Api(kube::Error::Api(status)) if status.code == 410 || status.reason == "Expired" => Self::Expired,
            other => other,
        }
    }
}

impl Reflector {
    pub(super) fn new<K: Observed>(client: kube::Client, endpoint: Endpoint, store: Arc<Store<K>>) -> Self {
        let kind = Box::new(Typed { store, metadata_only: endpoint.is_metadata_only() });
        Self { client, endpoint, kind }
    }

    /// Follows the collection until `stop`, then ends the subscriptions.
    pub(super) async fn run_until(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.run()).await;
        self.kind.close();
    }

    async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut from: Option<String> = None;
        let mut failing = false;
        loop {
            let result = self.step(&mut from, &mut failing).await;
            if matches!(result, Err(ReflectError::Expired)) && from.take().is_some() {
                continue;
            }
            if let Err(error) = &result {
                if !failing {
                    tracing::warn!(path = self.endpoint.path(), %error, "list or watch failed, retrying");
                    backoff.reset();
                }
                failing = true;
                tokio::time::sleep(backoff.next_delay()).await;
            } else {
                self.back(&mut failing);
                backoff.reset();
            }
        }
    }

    /// Says once that the collection is followed again.
    fn back(&self, failing: &mut bool) {
        if std::mem::take(failing) {
            tracing::info!(path = self.endpoint.path(), "watch is back");
        }
    }

    /// One list, or one watch to its end.
    async fn step(&self, from: &mut Option<String>, failing: &mut bool) -> Result<(), ReflectError> {
        match from {
            None => {
                *from = Some(self.list().await.map_err(ReflectError::or_expired)?);
                Ok(())
            }
            Some(revision) => {
                let started = Instant::now();
                let events = self.watch(revision, failing).await.map_err(ReflectError::or_expired)?;
                // A server that ends watches at once must not be asked in a tight loop.
                if events == 0 && started.elapsed() < SHORT_WATCH { Err(ReflectError::EndedAtOnce) } else { Ok(()) }
            }
        }
    }

    async fn list(&self) -> Result<String, ReflectError> {
        let mut pages = self.kind.list();
        let mut token: Option<String> = None;
        loop {
            let request = self.endpoint.list(PAGE, token.as_deref())?;
            let header = pages.page(self.client.request_text(request).await?.as_bytes())?;
            token = header.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                let revision = header.resource_version.unwrap_or_default();
                pages.finish(revision.parse().unwrap_or(0));
                return Ok(revision);
            }
        }
    }

    /// Follows one watch to its end and says how many events it had.
    async fn watch(&self, from: &mut String, failing: &mut bool) -> Result<u64, ReflectError> {
        let mut count = 0;
        let body = self.client.request_stream(self.endpoint.watch(from)?).await?;
        let mut lines = Box::pin(body).lines();
        while let Some(line) = lines.next().await {
            let line = match line {
                Ok(line) => line,
                // The connection is lost: the next watch goes on from here, or says what is wrong.
                Err(error) => {
                    tracing::debug!(path = self.endpoint.path(), %error, "watch broke off");
                    break;
                }
            };
            let event = match event::parse(&line) {
                // Its last line came in part only.
                Err(error) if error.is_eof() => break,
                event => event?,
            };
            count += 1;
            self.take(event, from)?;
            self.back(failing);
        }
        Ok(count)
    }

    fn take(&self, event: Event<'_>, from: &mut String) -> Result<(), ReflectError> {
        let revision = match event {
            Event::Present(object) => self.kind.take(object, false)?,
            Event::Deleted(object) => self.kind.take(object, true)?,
            Event::Bookmark(revision) => {
                self.kind.observe(revision.parse().unwrap_or(0));
                Some(revision)
            }
            Event::Error(status) => return Err(kube::Error::Api(status).into()),
        };
        if let Some(revision) = revision {
            *from = revision;
        }
        Ok(())
    }
}
