//! Strategies of the core group.

pub mod config;
pub mod namespace;
pub mod pod;
pub mod service;
