//! The per-pod shim: this executable run again, single-threaded, outliving the runtime that started it.
//!
//! It lives in the pod's net, ipc and uts namespaces and so holds them; makes each container in a short-lived fork of
//! itself (libcontainer clones, changes directory and dumpability of its caller); copies output into CRI-format logs;
//! keeps exit codes on disk; and serves [`crate::protocol`] on a socket. Nothing here may start a thread.

mod attach;
mod connection;
mod container;
mod create;
mod diagnostics;
mod exec;
mod executor;
mod job;
mod launch;
pub(crate) use launch::{READY, SERVING};
mod log;
mod reap;
mod request;
mod rootfs;
mod server;
mod streams;

use std::ffi::OsString;
use std::path::PathBuf;

/// Runs the shim; the executable calls it for its hidden `shim` subcommand, before any thread exists. `args` is what
/// follows the subcommand: the pod's folder.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    if let Err(error) = crate::open_files::lower() {
        eprintln!("cannot set the limit of open files: {error}");
    }
    let mut args = args.into_iter();
    let code = match (args.next(), args.next()) {
        (Some(folder), None) => launch::from_runtime(&PathBuf::from(folder)),
        (Some(folder), Some(flag)) if flag == launch::SEALED => launch::sealed(&PathBuf::from(folder)),
        _ => {
            eprintln!("this command is rk's own; it takes the folder of a pod");
            2
        }
    };
    std::process::exit(code)
}
