//! Strategies of the core group (and of views of its kinds).

pub mod config;
pub mod endpoints;
pub mod event;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod quota;
pub mod service;
pub mod volume;
