//! The server's snapshots: taken when asked for, by the schedule or an administrator, one at a time.

use super::about::About;
use super::folder;
use super::settings::Settings;
use crate::members::kept;
use crate::preflight;
use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::Store;
use storage::archive::{Label, Manifest};
use tokio::sync::Mutex;

/// What names begin with when nobody says otherwise.
pub(super) const BASE: &str = "snapshot";

/// A snapshot that is on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) path: PathBuf,
    pub(super) revision: u64,
    pub(super) keys: u64,
    pub(super) size: u64,
}

/// Takes the snapshots of a running server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    settings: Settings,
    data_dir: PathBuf,
    node: String,
    /// Of the cluster.
    cluster: kept::Settings,
    /// Whoever takes a snapshot: two at once would only compete for the disk.
    turn: Mutex<()>,
}

impl Snapshots {
    pub(crate) fn new(store: Store, settings: Settings, data_dir: &Path, node: &str, cluster: kept::Settings) -> Self {
        let (data_dir, node) = (data_dir.to_owned(), node.to_owned());
        Self { inner: Arc::new(Inner { store, settings, data_dir, node, cluster, turn: Mutex::new(()) }) }
    }

    pub(super) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.inner.data_dir
    }

    pub(super) fn node(&self) -> &str {
        &self.inner.node
    }

    /// Takes a snapshot into `dir`, or the usual folder.
    pub(super) async fn save(&self, base: &str, dir: Option<&Path>) -> anyhow::Result<Saved> {
        let Inner { store, settings, data_dir, node, cluster, turn } = &*self.inner;
        let _turn = turn.lock().await;
        let about = {
            let (data_dir, base, node, cluster) = (data_dir.clone(), base.to_owned(), node.clone(), cluster.clone());
            tokio::task::spawn_blocking(move || About::gather(&data_dir, &base, &node, Some(cluster))).await??
        };
        let target = Target::new(dir.unwrap_or(&settings.dir), &about)?;
        let label = target.label(&about)?;
        let manifest = store.save(target.path.clone(), label).await?;
        target.saved(&manifest)
    }
}

/// Where a snapshot is to be, and since when.
pub(super) struct Target {
    created: i64,
    pub(super) path: PathBuf,
}

impl Target {
    /// Makes the folder. A name that is taken is of this very second: the next free one is used.
    pub(super) fn new(dir: &Path, about: &About) -> anyhow::Result<Self> {
        ensure!(folder::is_name(&about.base), "{:?} cannot be the beginning of a name", about.base);
        ensure!(dir.is_absolute(), "the folder {} must be an absolute path", dir.display());
        if !dir.is_dir() {
            preflight::private_folder(dir)?;
        }
        folder::sweep(dir).with_context(|| format!("tidy {}", dir.display()))?;
        let now = Timestamp::now().as_second();
        let path = |created| dir.join(folder::name(&about.base, &about.node, created));
        let created = (now..).find(|created| !path(*created).exists()).unwrap_or(now);
        Ok(Self { created, path: path(created) })
    }

    pub(super) fn label(&self, about: &About) -> anyhow::Result<Label> {
        let written_by = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Label { created: self.created, written_by, about: serde_json::to_value(about)? })
    }

    pub(super) fn saved(self, manifest: &Manifest) -> anyhow::Result<Saved> {
        let Self { path, .. } = self;
        let size = path.metadata().with_context(|| format!("look at {}", path.display()))?.len();
        Ok(Saved { path, revision: manifest.revision, keys: manifest.keys, size })
    }
}
