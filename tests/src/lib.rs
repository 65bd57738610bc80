//! The black-box suite's harness: the real executable on hosts that are network namespaces, driven by the real
//! kubectl. Tests live in `tests/`; what the machine lacks skips a test loudly, with the reason ([`need`]).
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a broken expectation ends the test that has it")]

pub mod cluster;
pub mod guest;
pub mod host;
pub mod image;
pub mod kubectl;
pub mod members;
pub mod need;
pub mod process;
pub mod site;
pub mod traffic;
pub mod wait;
pub mod workload;
pub mod writer;

pub use cluster::{Cluster, Server};
pub use guest::Guest;
pub use host::{Host, Network};
pub use wait::until;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The executable under test: built by the same `cargo test`, two folders above the test's own executable.
pub fn rk() -> PathBuf {
    let own = std::env::current_exe().expect("the test knows its own path");
    let folder = own.parent().and_then(|deps| deps.parent()).expect("tests lie in target/…/deps");
    let rk = folder.join("rk");
    assert!(rk.exists(), "{} is missing: run the suite with `cargo test --workspace`", rk.display());
    rk
}

/// Scenarios of one test executable run one after another: each has a whole cluster, and boxes have few cores.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
