//! How `rk snapshot save` asks the running server: `POST /rk/v1/snapshots`, for administrators only.

use super::maker::{Saved, Snapshots};
use crate::https::Https;
use anyhow::{Context, ensure};
use bytes::Bytes;
use client::{Kubeconfig, tls};
use http::{Request, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const PATH: &str = "/rk/v1/snapshots";
/// Who may do everything.
const ADMINISTRATORS: &str = "system:masters";
/// A large store on a slow card.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    base: String,
    /// An absolute path on the server; its usual folder if there is none.
    dir: Option<PathBuf>,
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a snapshot holds every Secret: only a member of {ADMINISTRATORS} may take one")]
    NotAdministrator,
    #[error("the request is malformed")]
    Malformed(#[source] serde_json::Error),
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotAdministrator => StatusCode::FORBIDDEN,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The server's side.
pub(crate) async fn answer(snapshots: &Snapshots, groups: &[String], body: &[u8]) -> Result<String, Refusal> {
    if !groups.iter().any(|group| group == ADMINISTRATORS) {
        return Err(Refusal::NotAdministrator);
    }
    let Wanted { base, dir } = serde_json::from_slice(body).map_err(Refusal::Malformed)?;
    let saved = snapshots.save(&base, dir.as_deref()).await.map_err(Refusal::Failed)?;
    tracing::info!(path = %saved.path.display(), revision = saved.revision, "snapshot taken as asked");
    serde_json::to_string(&saved).map_err(|error| Refusal::Failed(error.into()))
}

/// The command's side.
pub(super) async fn ask(kubeconfig: &Path, base: &str, dir: Option<PathBuf>) -> anyhow::Result<Saved> {
    let config = crate::kubeconfig::read(kubeconfig)?;
    let Kubeconfig { server, ca_pem, cert_pem, key_pem } = config;
    let identity = tls::Identity { cert_pem: &cert_pem, key_pem: &key_pem };
    let https = Https::new(&server, tls::trusting(&ca_pem, Some(identity))?).patient(PATIENCE);
    let body = serde_json::to_vec(&Wanted { base: base.to_owned(), dir })?;
    let request = Request::post(PATH).header(header::CONTENT_TYPE, "application/json").body(Bytes::from(body))?;
    let answer = https.send(request).await.with_context(|| format!("ask the server at {server} for a snapshot"))?;
    let saved: Saved = serde_json::from_slice(&answer).context("the server's answer is malformed")?;
    ensure!(
        saved.path.exists(),
        "the server at {server} took the snapshot {}, but that is another machine: its kubeconfig is {}",
        saved.path.display(),
        kubeconfig.display()
    );
    Ok(saved)
}
