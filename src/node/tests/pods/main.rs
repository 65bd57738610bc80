//! A node with the real runtime and the real network, against an API server in memory.
//!
//! Needs root and a static busybox for the image; where they lack, each test says so and passes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod configuration;
mod endings;
mod lifecycle;
mod machine;
mod probes;
mod volumes;
