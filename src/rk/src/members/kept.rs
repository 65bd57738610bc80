//! What a server keeps of its cluster beside the store, in `server/` of the data folder: the settings that hold for all
//! servers, and where the others were last known. Keys and tokens lie in files of their own.

use crate::config::{ClusterNetwork, ServerConfig};
use anyhow::Context;
use pki::files;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Settings that must be the same on every server. The first server's flags make them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) network: ClusterNetwork,
    /// First and last.
    pub(crate) node_ports: (u16, u16),
}

impl Settings {
    pub(crate) fn of(config: &ServerConfig) -> Self {
        let node_ports = (*config.node_ports.start(), *config.node_ports.end());
        Self { network: config.network.clone(), node_ports }
    }

    pub(crate) fn node_ports(&self) -> RangeInclusive<u16> {
        self.node_ports.0..=self.node_ports.1
    }
}

/// Written last when a server is let in: it says that all the others are whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) settings: Settings,
    /// `HOST:PORT` of the other servers when they were last seen; none: this server is, or was, alone.
    pub(crate) servers: Vec<String>,
    /// Of the cluster, as far as this server knows: it does not go back to an older one.
    #[serde(default)]
    pub(crate) generation: u64,
}

impl Kept {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("server/cluster.json")
    }

    pub(crate) fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let Some(text) = files::read_if_present(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| format!("read {}", path.display()))
    }

    /// Spares the disk what it has already.
    pub(crate) fn store_if_changed(&self, data_dir: &Path) -> anyhow::Result<()> {
        if Self::load(data_dir).ok().flatten().as_ref() == Some(self) { Ok(()) } else { self.store(data_dir) }
    }

    pub(crate) fn store(&self, data_dir: &Path) -> anyhow::Result<()> {
        Ok(files::write_private(&Self::path(data_dir), &serde_json::to_vec_pretty(self)?)?)
    }
}

/// Whether the settings are known in a data folder.
pub(crate) fn is_there(data_dir: &Path) -> bool {
    Kept::path(data_dir).exists()
}

/// Whether there is a store in a data folder.
pub(crate) fn has_store(data_dir: &Path) -> bool {
    store_folder(data_dir).join("FORMAT").exists()
}

pub(crate) fn store_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("server/db")
}

/// Where it is remembered that this server was removed from its cluster.
pub(crate) fn removed_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server/removed")
}
