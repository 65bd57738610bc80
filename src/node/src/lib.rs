//! The node agent: pod sync, volumes, probes, images, status.
//!
//! Pure cores: [`spec`] (pod → what the runtime is told), [`plan`] (what to do next), [`status`] (what to tell). They
//! import no tokio, files or clock. Around them: [`pods`] (one worker task per pod UID, driven by events), `volumes`,
//! `probes`, `images`, and the node's own object (`registration`, `heartbeat`, `node_status`, `pressure`).
//!
//! Invariants: the API is seen through `client` alone; containers outlive the process and are re-adopted by the
//! runtime's records; a pod is its UID, never its name; nothing polls.
#![forbid(unsafe_code)]

pub mod config;
mod context;
pub mod dns;
mod extended;
mod heartbeat;
pub mod http;
mod images;
mod machine;
mod network;
mod node;
mod node_status;
pub mod plan;
mod pods;
mod pressure;
mod probes;
mod registration;
pub mod services;
pub mod spec;
pub mod status;
mod streaming;
mod volumes;

pub use config::{Eviction, ImageGc, NodeConfig, Timing};
pub use node::{ContainerHandle, LookupError, Node, StartError};
pub use registration::RegistrationError;
