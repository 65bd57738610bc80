//! OCI images and containers in process, one shim per pod.
//!
//! [`Runtime`] is the handle the node agent holds: images live under `RuntimeConfig::root`, everything about living
//! pods under `RuntimeConfig::state`. Each pod is owned by a *shim*: this very executable run again with the hidden
//! `shim` subcommand ([`shim::main`]), single-threaded, outliving the process that started it.
//!
//! Invariants: no Kubernetes types; unsafe code only under `sys`; this process never forks.

#![deny(unsafe_code)]

mod bundle;
mod cgroup;
pub mod error;
pub mod images;
mod link;
pub mod open_files;
mod pod;
mod protocol;
mod records;
mod runtime;
mod seccomp;
pub mod session;
pub mod shim;
pub mod spec;
pub mod status;
#[expect(unsafe_code, reason = "the one place for system calls without a safe wrapper")]
mod sys;

pub use error::RuntimeError;
pub use images::{Auth, ImageConfig, ImageError, ImageRecord, ImageRef, Images, Progress};
pub use runtime::{Runtime, RuntimeConfig};
pub use session::{Session, SessionControl, SessionExit};
pub use spec::{ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec};
pub use status::{ContainerState, ContainerStats, ContainerStatus, Event, PodPhase, PodStats, PodStatus};

/// Whether the kernel has a file system of that type. It is asked for one first, and may load a module for it.
pub fn filesystem_exists(name: &str) -> std::io::Result<bool> {
    sys::fs::ask_for_filesystem(name)?;
    let known = std::fs::read_to_string("/proc/filesystems")?;
    Ok(known.lines().any(|line| line.split_whitespace().last() == Some(name)))
}

/// Keeps the heap of this process small after a load. To be called before there are other threads.
pub fn bound_heap() {
    sys::process::bound_heap();
}

/// Gives free pages of the heap back to the kernel. Takes milliseconds; for moments at which much was freed for good.
pub fn trim_heap() {
    sys::process::trim_heap();
}
