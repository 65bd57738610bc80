//! The task that keeps a store equal to a collection of the API: one list in pages, then watches from the revision
//! reached, for ever. A lost connection goes on from the last revision; a revision that is gone (410) lists again.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use tokio::time::Instant;

use super::event::{self, Event};
use super::store::Store;
use super::{Endpoint, Observed};
use crate::api::decode;
use crate::backoff::Backoff;

const PAGE: u32 = 500;
const SHORT_WATCH: Duration = Duration::from_secs(1);

pub(super) struct Reflector<K> {
    client: kube::Client,
    endpoint: Endpoint,
    store: Arc<Store<K>>,
}

/// A list response. kube's own list type flattens its header, which buffers every item untyped first.
#[derive(Deserialize)]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default = "Option::default")]
    items: Option<Vec<K>>,
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

impl From<Box<kube::core::Status>> for ReflectError {
    fn from(status: Box<kube::core::Status>) -> Self {
        Self::from(kube::Error::Api(status)).or_expired()
    }
}

impl ReflectError {
    fn or_expired(self) -> Self {
        match self {
            Self::Api(kube::Error::Api(status)) if status.code == 410 || status.reason == "Expired" => Self::Expired,
            other => other,
        }
    }
}

impl<K: Observed> Reflector<K> {
    pub(super) fn new(client: kube::Client, endpoint: Endpoint, store: Arc<Store<K>>) -> Self {
        Self { client, endpoint, store }
    }

    pub(super) async fn run(self) {
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
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = self.endpoint.list(PAGE, token.as_deref())?;
            let page: Page<K> = decode(self.client.request_text(request).await?)?;
            objects.extend(page.items.into_iter().flatten().map(|object| self.trim(object)));
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                let revision = page.metadata.resource_version.unwrap_or_default();
                self.store.replace(objects, revision.parse().unwrap_or(0));
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
            let event = match event::parse::<K>(&line) {
                // Its last line came in part only.
                Err(error) if error.is_eof() => break,
                event => event?,
            };
            count += 1;
            if !matches!(event, Event::Error(_)) {
                self.back(failing);
            }
            match event {
                Event::Present(object) => {
                    remember(from, &object);
                    self.store.apply(self.trim(object));
                }
                Event::Deleted(object) => {
                    remember(from, &object);
                    self.store.delete(&object);
                }
                Event::Bookmark(revision) => {
                    self.store.observe(revision.parse().unwrap_or(0));
                    *from = revision;
                }
                Event::Error(status) => return Err(status.into()),
            }
        }
        Ok(count)
    }

    /// Field ownership is the server's business and often the larger half of an object: not kept in memory. Whoever
    /// asks for metadata alone follows owners and finalizers of every object there is: no texts are kept for that.
    fn trim(&self, mut object: K) -> K {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        if self.endpoint.is_metadata_only() {
            (meta.labels, meta.annotations) = (None, None);
        }
        object
    }
}

fn remember<K: kube::Resource>(from: &mut String, object: &K) {
    if let Some(revision) = &object.meta().resource_version {
        from.clone_from(revision);
    }
}
