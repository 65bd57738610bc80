//! The API server as a whole: started on a store of its own, driven over its in-process transport and, with the real
//! kubectl, over TLS.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests outside of any cfg(test)")]

mod allocation;
mod authorization;
mod cluster;
mod connections;
mod custom;
mod documents;
mod kubectl;
mod lists;
mod measure;
mod objects;
mod quota;
mod server;
mod several;
mod watches;
