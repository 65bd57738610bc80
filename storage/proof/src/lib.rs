//! What shows that the store keeps its promises: disks that lose power, clusters in one thread, and checks of histories.
//!
//! Invariants: everything random follows from a seed, everything but [`processes`] in memory; nothing here is part of the product. Called
//! by the store's tests and by `cargo xtask chaos`.
#![forbid(unsafe_code)]

mod counts;
pub mod disk;
pub mod framing;
pub mod history;
pub mod mutation;
pub mod power_cut;
pub mod processes;
pub mod seeded;
pub mod seeds;
pub mod simulation;
