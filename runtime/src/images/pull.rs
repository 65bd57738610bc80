//! Pulling an image: resolve, choose the platform, fetch the config, download missing layers side by side, unpack them
//! in order, record.

use super::digest;
use super::download::{Blob, download};
use super::manifest::{self, ConfigFile, Document, MAX_DOCUMENT, MEDIA_TYPES};
use super::registry::{Client, Endpoint, Session, read_body};
use super::store::{Store, layer_folders};
use super::{Auth, ImageError, ImageRecord, ImageRef, Progress, RegistriesConfig};
use crate::link::lock;
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// Downloads side by side, per image.
const PARALLEL: usize = 3;

#[derive(Debug)]
pub(super) struct Puller {
    store: Arc<Store>,
    config: RegistriesConfig,
    client: Arc<Client>,
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// What a registry has under a name.
struct Found {
    manifest: Document,
    digest: String,
    config: ConfigFile,
    config_bytes: Vec<u8>,
}

impl Puller {
    pub(super) fn new(store: Arc<Store>, config: RegistriesConfig) -> Self {
        let client = Arc::new(Client::new(&config));
        Self { store, config, client, under_way: Mutex::default() }
    }

    pub(super) async fn pull(
        &self,
        name: &ImageRef,
        auth: &Auth,
        on_progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<ImageRecord, ImageError> {
        let turn = self.turn(&name.to_string());
        // Who waited finds the layers present and fetches documents only.
        let _guard = turn.lock().await;
        let (progress, mut steps) = mpsc::unbounded_channel();
        let mut work = std::pin::pin!(self.try_endpoints(name, auth, progress));
        loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => on_progress(step),
                result = &mut work => {
                    while let Ok(step) = steps.try_recv() {
                        on_progress(step);
                    }
                    return result;
                }
            }
        }
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut under_way = lock(&self.under_way);
        under_way.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = under_way.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        under_way.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Mirrors first, in their order. The registry's own answer is what the caller is told.
    async fn try_endpoints(
        &self,
        name: &ImageRef,
        auth: &Auth,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<ImageRecord, ImageError> {
        let mirrors = self.config.mirrors.get(name.domain()).or_else(|| self.config.mirrors.get("*"));
        for url in mirrors.into_iter().flatten() {
            let Some(endpoint) = Endpoint::of_mirror(url, &self.config) else {
                tracing::warn!(url, "mirror is not a URL and is skipped");
                continue;
            };
            let auth = self.config.auth.get(&endpoint.authority).cloned().unwrap_or_default();
            match self.pull_from(endpoint, name, auth, &progress).await {
                Ok(record) => return Ok(record),
                // What is wrong here cannot be better elsewhere.
                Err(error @ (ImageError::NoSpace(_) | ImageError::Io { .. })) => return Err(error),
                Err(error) => tracing::info!(image = %name, url, %error, "mirror does not serve the image"),
            }
        }
        let endpoint = Endpoint::of_registry(name.domain(), &self.config);
        let own = self.config.auth.get(name.domain()).cloned().unwrap_or_default();
        let auth = if *auth == Auth::Anonymous { own } else { auth.clone() };
        self.pull_from(endpoint, name, auth, &progress).await.map_err(|error| match error {
            ImageError::NotFound(_) => ImageError::NotFound(name.to_string()),
            ImageError::Unauthorized(_) => ImageError::Unauthorized(name.to_string()),
            other => other,
        })
    }

    async fn pull_from(
        &self,
        endpoint: Endpoint,
        name: &ImageRef,
        auth: Auth,
        progress: &mpsc::UnboundedSender<Progress>,
    ) -> Result<ImageRecord, ImageError> {
        let repository = name.path().to_owned();
        let open = |endpoint, auth| -> Source {
            Source { client: Arc::clone(&self.client), endpoint, repository: repository.clone(), auth }
        };
        let source = open(endpoint, auth);
        let session = source.session();
        let found = find(&session, name).await?;
        let layers = found.manifest.layers.len();
        tell(progress, Progress::Resolved { digest: found.digest.clone(), layers });
        let folders = layer_folders(&found.config.rootfs.diff_ids);
        let _lease = Store::lease(&self.store, &folders);
        let proof = lock(&session.proof).clone();
        self.fetch_layers(&source, proof, &found, progress).await?;
        let id = digest::of(&found.config_bytes);
        self.store.write_blob(&id, &found.config_bytes)?;
        let names: Vec<String> = name.tagged_name().filter(|_| name.digest().is_none()).into_iter().collect();
        let asked = name.digest().unwrap_or(&found.digest);
        let digest = format!("{}@{asked}", name.repository());
        let store = Arc::clone(&self.store);
        blocking(move || store.register(&id, &found.config, &names, Some(digest), false)).await
    }

    async fn fetch_layers(
        &self,
        source: &Source,
        proof: Option<http::HeaderValue>,
        found: &Found,
        progress: &mpsc::UnboundedSender<Progress>,
    ) -> Result<(), ImageError> {
        let diff_ids = &found.config.rootfs.diff_ids;
        let chain = digest::chain_ids(diff_ids);
        let slots = Arc::new(Semaphore::new(PARALLEL));
        let downloads: Vec<Option<AbortOnDropHandle<Result<Blob, ImageError>>>> = found
            .manifest
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                if self.store.has_layer(&chain[index]) {
                    tell(progress, Progress::LayerPresent { digest: layer.digest.clone() });
                    return None;
                }
                let (source, proof, layer) = (source.clone(), proof.clone(), layer.clone());
                let (store, slots, progress) = (Arc::clone(&self.store), Arc::clone(&slots), progress.clone());
                let task = tokio::spawn(async move {
                    let _slot = slots.acquire().await;
                    let session = source.session();
                    *lock(&session.proof) = proof;
                    download(&store, &session, &layer, |step| tell(&progress, step)).await
                });
                Some(AbortOnDropHandle::new(task))
            })
            .collect();
        for (index, task) in downloads.into_iter().enumerate() {
            let Some(task) = task else { continue };
            let blob = task.await.map_err(|e| ImageError::Unsupported(format!("download: {e}")))??;
            let (store, diff_ids) = (Arc::clone(&self.store), diff_ids.clone());
            blocking(move || {
                let file = File::open(&blob.path).map_err(ImageError::io(&blob.path))?;
                store.add_layer(&diff_ids, index, file)
            })
            .await?;
            tell(progress, Progress::Unpacked { digest: found.manifest.layers[index].digest.clone() });
        }
        Ok(())
    }
}

/// Where downloads come from; each opens a session of its own.
#[derive(Clone)]
struct Source {
    client: Arc<Client>,
    endpoint: Endpoint,
    repository: String,
    auth: Auth,
}

impl Source {
    fn session(&self) -> Session<'_> {
        Session {
            client: &self.client,
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            auth: self.auth.clone(),
            proof: Mutex::new(None),
        }
    }
}

fn tell(progress: &mpsc::UnboundedSender<Progress>, step: Progress) {
    if progress.send(step).is_err() {
        tracing::trace!("nobody follows the pull");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ImageError::Unsupported(format!("unpacking panicked: {error}"))))
}

async fn find(session: &Session<'_>, name: &ImageRef) -> Result<Found, ImageError> {
    let asked = name.digest().or(name.tag()).unwrap_or("latest");
    let (mut bytes, mut digest) = document(session, &format!("manifests/{asked}"), name.digest()).await?;
    let top = digest.clone();
    let mut document_: Document = manifest::parse(&digest, &bytes)?;
    while document_.config.is_none() && !document_.manifests.is_empty() {
        let chosen = manifest::choose(&name.to_string(), &document_.manifests)?.digest.clone();
        (bytes, digest) = document(session, &format!("manifests/{chosen}"), Some(&chosen)).await?;
        document_ = manifest::parse(&digest, &bytes)?;
    }
    let Some(config) = &document_.config else {
        return Err(ImageError::Unsupported(format!("{name}: manifests of schema {}", document_.schema_version)));
    };
    let (config_bytes, _) = document(session, &format!("blobs/{}", config.digest), Some(&config.digest)).await?;
    let config: ConfigFile = manifest::parse(&config.digest, &config_bytes)?;
    config.check_platform(&name.to_string())?;
    if config.rootfs.diff_ids.len() != document_.layers.len() {
        let reason = format!("{} layers, {} diff ids", document_.layers.len(), config.rootfs.diff_ids.len());
        return Err(ImageError::Malformed { what: name.to_string(), reason });
    }
    Ok(Found { manifest: document_, digest: top, config, config_bytes })
}

/// A small document and its digest, which is checked where it is known.
async fn document(session: &Session<'_>, path: &str, expected: Option<&str>) -> Result<(Vec<u8>, String), ImageError> {
    let accept: &[&str] = if path.starts_with("manifests/") { &MEDIA_TYPES } else { &[] };
    let answer = session.get(path, accept, None).await?;
    let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
    let bytes = read_body(answer, limit).await?.to_vec();
    let actual = digest::of(&bytes);
    match expected {
        Some(expected) if expected != actual => {
            Err(ImageError::DigestMismatch { what: path.to_owned(), expected: expected.to_owned(), actual })
        }
        _ => Ok((bytes, actual)),
    }
}
