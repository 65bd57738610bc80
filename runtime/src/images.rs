//! The images of this node: pulled, imported or built, unpacked into layered snapshots.
//!
//! On disk, below `RuntimeConfig::root`: `images/<digest>.json` (records), `snapshots/<layer>/fs` (unpacked layers, one
//! per chain of layers, shared by images), `blobs/<digest>` (configs and manifests), `ingest/` (downloads under way).
//! Every file appears by rename after it is complete; layers are verified while they are unpacked.

mod build;
mod compression;
mod connect;
mod digest;
mod download;
mod import;
mod manifest;
mod pull;
pub mod reference;
mod registry;
mod sniff;
mod store;
mod unpack;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use reference::{ImageRef, ParseRefError};
pub(crate) use store::LayerLease;
use store::Store;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    store: Arc<Store>,
    puller: Arc<pull::Puller>,
}

/// An image present on this node, unpacked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `sha256:…` of its config.
    pub id: String,
    /// Canonical names with tag, e.g. `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// `name@sha256:…`
    pub repo_digests: Vec<String>,
    /// Bytes its layers take unpacked.
    pub size: u64,
    pub config: ImageConfig,
    /// sha256 of each layer's tar, lowest first.
    pub diff_ids: Vec<String>,
    /// Never collected: made here or imported, so that perhaps no registry has it.
    #[serde(default)]
    pub pinned: bool,
    pub added_at: jiff::Timestamp,
}

/// The run configuration of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// How to prove oneself to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A refresh (identity) token, exchanged for access tokens.
    IdentityToken(String),
    /// Sent as it is.
    Bearer(String),
}

impl std::fmt::Debug for Auth {
    /// Says the kind only: secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic",
            Self::IdentityToken(_) => "IdentityToken",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// Per-registry settings.
#[derive(Clone, Debug, Default)]
pub struct RegistriesConfig {
    /// Registries spoken to in plain HTTP or without verifying TLS (loopback ones always may be plain).
    pub insecure: Vec<String>,
    /// Registry → endpoints (`https://host[:port][/prefix]`) tried before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registry (`host` or `host:port`) → PEM file of certificate authorities to trust besides the machine's own.
    pub ca_files: BTreeMap<String, PathBuf>,
    /// Credentials by registry, used when a pull brings none.
    pub auth: BTreeMap<String, Auth>,
}

/// Steps of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Resolved { digest: String, layers: usize },
    LayerPresent { digest: String },
    Downloading { digest: String, done: u64, total: u64 },
    Unpacked { digest: String },
}

/// A file of an image built by [`Images::add_layer_image`].
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Absolute path in the image.
    pub path: PathBuf,
    pub mode: u32,
    pub source: FileSource,
}

#[derive(Clone, Debug)]
pub enum FileSource {
    Bytes(bytes::Bytes),
    Host(PathBuf),
    Directory,
    Symlink(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{0}: not found")]
    NotFound(String),
    #[error("image {0:?} is not present on this node")]
    NotPresent(String),
    #[error("{0}: unauthorized: authentication required or credentials refused")]
    Unauthorized(String),
    #[error("{registry}: too many requests: the registry asks to come back later")]
    TooManyRequests { registry: String, retry_after: Option<u64> },
    #[error("{url}: unexpected status {status}: {body}")]
    Status { url: String, status: u16, body: String },
    #[error("cannot reach {host}: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("{0} has no image for this machine's platform ({1})")]
    Platform(String, String),
    #[error("{what} is malformed: {reason}")]
    Malformed { what: String, reason: String },
    #[error(
        "not an image archive but {found}: accepted are docker-archive and OCI-archive tars, plain or compressed by \
         gzip or zstd"
    )]
    NotAnArchive { found: String },
    #[error("image {image} is used by {}; with --force it goes, and its layers stay until those containers do", .users.join(", "))]
    InUse { image: String, users: Vec<String> },
    /// The archive itself is broken.
    #[error("broken archive: entry {entry:?} at offset {offset}: {reason}")]
    BrokenArchive { entry: String, offset: u64, reason: String },
    #[error("{what}: digest is {actual}, expected {expected}")]
    DigestMismatch { what: String, expected: String, actual: String },
    #[error("{0} is not a docker-archive or OCI-archive: it holds neither manifest.json nor index.json")]
    UnknownArchive(String),
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("no space left on device while writing {0}")]
    NoSpace(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Reference(#[from] ParseRefError),
}

impl ImageError {
    /// Wraps an error on a file of ours; a full disk is told apart.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path.to_path_buf()),
            _ => Self::Io { path: path.to_path_buf(), source },
        }
    }
}

impl Images {
    pub(crate) fn open(root: PathBuf, registries: RegistriesConfig) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(root)?);
        let puller = Arc::new(pull::Puller::new(Arc::clone(&store), registries));
        Ok(Self { store, puller })
    }

    /// Brings an image here. Concurrent pulls of the same name share one download.
    pub async fn pull(
        &self,
        name: &ImageRef,
        auth: &Auth,
        on_progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, ImageError> {
        self.puller.pull(name, auth, &on_progress).await
    }

    /// Reads a docker-archive or OCI-archive tar (plain, gzip or zstd); the records have the names that the archive
    /// gives. Blocks: call it off the async threads.
    pub fn import(&self, archive: impl Read) -> Result<Vec<ImageRecord>, ImageError> {
        import::import(&self.store, archive)
    }

    /// Builds an image of a single layer, and pins it. The same input makes the same id. Blocks.
    pub fn add_layer_image(
        &self,
        name: &ImageRef,
        files: &[ImageFile],
        config: &ImageConfig,
    ) -> Result<ImageRecord, ImageError> {
        build::build(&self.store, name, files, config)
    }

    /// By name, `sha256:` id, or an unambiguous prefix (12 digits or more) of the id.
    pub fn get(&self, name_or_id: &str) -> Option<ImageRecord> {
        self.store.get(name_or_id)
    }

    pub fn list(&self) -> Vec<ImageRecord> {
        self.store.list()
    }

    /// The image that goes when this name or id is removed: `None` if it has further names.
    pub(crate) fn doomed(&self, name_or_id: &str) -> Result<Option<ImageRecord>, ImageError> {
        self.store.doomed(name_or_id)
    }

    /// Removes a name, and the image with its last name; by id: all of it. Layers a container uses stay until it goes.
    pub fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        self.store.remove(name_or_id)
    }

    /// Adds a name to an image.
    pub fn tag(&self, name_or_id: &str, name: &ImageRef) -> Result<(), ImageError> {
        self.store.tag(name_or_id, name)
    }

    /// Keeps an image from being collected, or no longer.
    pub fn pin(&self, name_or_id: &str, pinned: bool) -> Result<(), ImageError> {
        self.store.pin(name_or_id, pinned)
    }

    /// Removes unpinned images whose id is not in `in_use`, then layers that nothing needs. Returns bytes freed.
    pub fn gc(&self, in_use: &HashSet<String>) -> Result<u64, ImageError> {
        self.store.gc(in_use)
    }

    /// Bytes that images take, and bytes of the file system under them: (used, available, capacity).
    pub fn fs_usage(&self) -> io::Result<(u64, u64, u64)> {
        self.store.fs_usage()
    }

    pub(crate) fn snapshots_folder(&self) -> PathBuf {
        self.store.snapshots_folder()
    }

    /// Folders of the image's layers below the snapshots' folder, the topmost first.
    pub(crate) fn layer_folders(&self, image: &ImageRecord) -> Vec<String> {
        store::layer_folders(&image.diff_ids)
    }

    pub(crate) fn lease(&self, layers: &[String]) -> LayerLease {
        Store::lease(&self.store, layers)
    }
}
