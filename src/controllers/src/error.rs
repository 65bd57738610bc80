//! What can go wrong in one reconciliation. Conflicts and the like are ordinary: the key is tried again.

use client::retry;
use kube::core::ParseExpressionError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("request failed")]
    Api(#[from] kube::Error),
    #[error("selector is not valid")]
    Selector(#[from] ParseExpressionError),
    #[error("serialisation failed")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Blocked(String),
}

impl ReconcileError {
    /// Whether the failure is part of normal life and not worth a warning.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            Self::Api(error) => {
                retry::is_conflict(error)
                    || retry::is_not_found(error)
                    || retry::is_already_exists(error)
                    || retry::is_namespace_terminating(error)
            }
            Self::Blocked(_) => true,
            Self::Selector(_) | Self::Json(_) => false,
        }
    }
}
