//! The task that keeps a store equal to a collection of the API: one list in pages, then watches from the revision
//! reached, for ever. A lost connection goes on from the last revision; a revision that is gone (410) lists again.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

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

/// One line of a watch.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What a bookmark holds.
#[derive(Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

#[derive(Debug, thiserror::Error)]
enum ReflectError {
    #[error("revision is no longer available")]
    Expired,
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("watch could not be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("watch event of unknown type {0:?}")]
    UnknownEvent(String),
    #[error("the server ended the watch at once")]
    EndedAtOnce,
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
            objects.extend(page.items.into_iter().flatten().map(trim));
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
        let events = self.client.request_stream(self.endpoint.watch(from)?).await?;
        pin_mut!(events);
        let (mut count, mut line) = (0, Vec::new());
        // A last line without its end was cut off with the connection; the next watch brings it again.
        while events.read_until(b'\n', &mut line).await? > 0 && line.ends_with(b"\n") {
            count += 1;
            self.take(&line, from, failing)?;
            line.clear();
        }
        Ok(count)
    }

    /// Takes one line of a watch into the store.
    fn take(&self, line: &[u8], from: &mut String, failing: &mut bool) -> Result<(), ReflectError> {
        let Frame { kind, object } = serde_json::from_slice(line).map_err(kube::Error::SerdeError)?;
        let object = object.get();
        match kind {
            "ADDED" | "MODIFIED" => {
                let object: K = decode(object)?;
                remember(from, &object);
                self.store.apply(trim(object));
            }
            "DELETED" => {
                let object: K = decode(object)?;
                remember(from, &object);
                self.store.delete(&object);
            }
            "BOOKMARK" => {
                let revision = decode::<Bookmark>(object)?.metadata.resource_version.unwrap_or_default();
                self.store.observe(revision.parse().unwrap_or(0));
                *from = revision;
            }
            "ERROR" => return Err(kube::Error::Api(Box::new(decode(object)?)).into()),
            other => return Err(ReflectError::UnknownEvent(other.to_owned())),
        }
        self.back(failing);
        Ok(())
    }
}

fn remember<K: kube::Resource>(from: &mut String, object: &K) {
    if let Some(revision) = &object.meta().resource_version {
        from.clone_from(revision);
    }
}

/// Field ownership is the server's business and often the larger half of an object: not kept in memory.
fn trim<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
