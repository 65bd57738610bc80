//! The images of this node: pulled, imported or built, unpacked into layered snapshots.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::PathBuf;

pub mod reference;

pub use reference::ImageRef;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {}

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
    /// Never collected.
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
    /// PEM file of certificate authorities to trust; `None`: the host's own.
    pub ca_file: Option<PathBuf>,
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
}

impl Images {
    /// Brings an image here. Concurrent pulls of the same name share one download.
    pub async fn pull(
        &self,
        name: &ImageRef,
        auth: &Auth,
        on_progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<ImageRecord, ImageError> {
        unimplemented!("{name} {} {}", std::mem::size_of_val(auth), std::mem::size_of_val(&on_progress))
    }

    /// Reads a docker-archive or OCI-archive tar (plain, gzip or zstd). Blocks: call it off the async threads.
    pub fn import(&self, archive: impl Read) -> Result<Vec<ImageRecord>, ImageError> {
        unimplemented!("{}", std::mem::size_of_val(&archive))
    }

    /// Builds an image of a single layer, and pins it. The same input makes the same id. Blocks.
    pub fn add_layer_image(
        &self,
        name: &ImageRef,
        files: &[ImageFile],
        config: &ImageConfig,
    ) -> Result<ImageRecord, ImageError> {
        unimplemented!("{name} {files:?} {config:?}")
    }

    /// By name, `sha256:` id, or an unambiguous prefix (12 digits or more) of the id.
    pub fn get(&self, name_or_id: &str) -> Option<ImageRecord> {
        unimplemented!("{name_or_id}")
    }

    pub fn list(&self) -> Vec<ImageRecord> {
        unimplemented!()
    }

    /// Removes a name, and the image with its last name; by id: all of it.
    pub fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        unimplemented!("{name_or_id}")
    }

    /// Adds a name to an image.
    pub fn tag(&self, name_or_id: &str, name: &ImageRef) -> Result<(), ImageError> {
        unimplemented!("{name_or_id} {name}")
    }

    /// Removes unpinned images whose id is not in `in_use`, then layers that nothing needs. Returns bytes freed.
    pub fn gc(&self, in_use: &HashSet<String>) -> Result<u64, ImageError> {
        unimplemented!("{in_use:?}")
    }

    /// Bytes that images take, and bytes of the file system under them: (used, available, capacity).
    pub fn fs_usage(&self) -> io::Result<(u64, u64, u64)> {
        unimplemented!()
    }
}
