//! What rk says of a snapshot in its head, beside what the store says.

use super::keys::{self, Sealed};
use crate::members::kept;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::Path;
use storage::archive::Manifest;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct About {
    /// What the name begins with.
    pub(super) base: String,
    /// On which it was taken.
    pub(super) node: String,
    /// The hash of the cluster's CA certificate: which cluster it is, whatever became of its store.
    pub(super) ca: String,
    /// Addresses and names that hold for the whole cluster, if they are known.
    pub(super) cluster: Option<kept::Settings>,
    pub(super) keys: Sealed,
}

impl About {
    /// Gathers it on a server. Blocking.
    pub(super) fn gather(
        data_dir: &Path,
        base: &str,
        node: &str,
        cluster: Option<kept::Settings>,
    ) -> anyhow::Result<Self> {
        let ca = keys::ca_hash(data_dir)?;
        let ca = ca.with_context(|| format!("{} holds no server's data", data_dir.display()))?;
        let keys = keys::seal(data_dir, &ca)?;
        Ok(Self { base: base.to_owned(), node: node.to_owned(), ca, cluster, keys })
    }

    pub(super) fn of(manifest: &Manifest) -> Result<Self, serde_json::Error> {
        Self::deserialize(&manifest.about)
    }
}
