//! OCI images and containers in process, one shim per pod.
//!
//! [`Runtime`] is the handle the node agent holds: images live under `RuntimeConfig::root`, everything about living
//! pods under `RuntimeConfig::state`. Each pod is owned by a *shim*: this very executable run again with the hidden
//! `shim` subcommand ([`shim::main`]), single-threaded, outliving the process that started it.
//!
//! Invariants: no Kubernetes types; unsafe code only under `sys`; this process never forks.

pub mod error;
pub mod images;
mod runtime;
pub mod session;
pub mod shim;
pub mod spec;
pub mod status;

pub use error::RuntimeError;
pub use images::{Auth, ImageConfig, ImageError, ImageRecord, ImageRef, Images, Progress};
pub use runtime::{Runtime, RuntimeConfig};
pub use session::{Session, SessionControl, SessionExit};
pub use spec::{ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec};
pub use status::{ContainerState, ContainerStats, ContainerStatus, Event, PodPhase, PodStats, PodStatus};
