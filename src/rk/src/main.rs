//! `rk`: a whole Kubernetes cluster in one executable.
//!
//! The hidden `shim` subcommand is taken before anything else happens in the process: the shim must stay
//! single-threaded, so neither the async runtime nor the argument parser may run in it.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod demo;
mod hello;
mod https;
mod images;
mod join;
mod kill_all;
mod kubeconfig;
mod local;
mod logging;
mod manifests;
mod member;
mod members;
mod notify;
mod peers;
mod preflight;
mod progress;
mod server_list;
mod snapshot;
mod supervisor;
mod token;
mod tunnel;

use anyhow::Context;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

/// Exit status of a server that its cluster has shut out for good.
const REMOVED: u8 = 78;

/// The Kubernetes API version served.
const KUBERNETES_VERSION: &str = "1.36.0";

/// The version that servers and nodes tell, such as `v1.36.0+rk0.1.0`.
pub(crate) fn version() -> String {
    format!("v{KUBERNETES_VERSION}+rk{}", env!("CARGO_PKG_VERSION"))
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == "shim") {
        runtime::shim::main(args.into_iter().skip(2));
    }
    runtime::bound_heap();
    match run(args) {
        Ok(Next::End) => ExitCode::SUCCESS,
        Ok(Next::Again) => {
            eprintln!("rk: cannot start itself again: {}", again());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("rk: {error:#}");
            // The service's unit knows this one, and does not start rk again.
            let excluded = error.is::<members::enter::Removed>() || error.is::<storage::Exclusion>();
            if excluded { ExitCode::from(REMOVED) } else { ExitCode::FAILURE }
        }
    }
}

/// What to do when a command has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    End,
    /// Start anew, as the same process.
    Again,
}

fn run(args: Vec<std::ffi::OsString>) -> anyhow::Result<Next> {
    let command = cli::parse(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(worker_threads())
        .build()
        .context("start the async runtime")?;
    let outcome = runtime.block_on(command.run());
    // Blocking calls still under way (a read of a dead disk) must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    outcome
}

/// Replaces this process by a new one of the same arguments; returns only when that fails.
fn again() -> std::io::Error {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| "rk".into());
    // By this name the executable is found even if another has taken its place on disk.
    std::process::Command::new("/proc/self/exe").arg0(name).args(args).exec()
}

/// Edge boxes have few cores and little memory; more workers than this only add stacks.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}
