//! The error of [`Runtime`](crate::Runtime)'s operations.

use crate::images::ImageError;
use crate::spec::{ContainerId, PodId};
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("pod {0} does not exist")]
    NoSuchPod(PodId),
    #[error("container {0} does not exist")]
    NoSuchContainer(ContainerId),
    #[error("pod {0} exists already")]
    PodExists(PodId),
    #[error("{0:?} cannot serve as an identifier")]
    BadId(String),
    /// The shim refused, with its words; they are fit to be shown to the user.
    #[error("{0}")]
    Refused(String),
    /// The container's process could not be made: a bad command, mount, user.
    #[error("{0}")]
    CannotRun(String),
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    #[error("the shim of pod {pod} is gone: {reason}")]
    ShimGone { pod: PodId, reason: String },
    #[error("shim did not start: {0}")]
    ShimStart(String),
    #[error("image")]
    Image(#[from] ImageError),
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cgroup {path}")]
    Cgroup { path: String, source: io::Error },
    #[error("talking to the shim of pod {pod}")]
    Channel { pod: PodId, source: io::Error },
}
