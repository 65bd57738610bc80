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
mod notify;
mod preflight;
mod progress;
mod snapshot;
mod supervisor;
mod token;
mod tunnel;

use anyhow::Context;
use std::process::ExitCode;

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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<std::ffi::OsString>) -> anyhow::Result<()> {
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

/// Edge boxes have few cores and little memory; more workers than this only add stacks.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}
