//! The API server as a whole: started on a store of its own, driven over its in-process transport and, with the real
//! kubectl, over TLS.

mod allocation;
mod authorization;
mod custom;
mod kubectl;
mod lists;
mod objects;
mod server;
mod watches;
