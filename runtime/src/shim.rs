//! The per-pod shim process.

use std::ffi::OsString;

/// Runs the shim; the executable calls it for its hidden `shim` subcommand, before any thread exists. `args` is what
/// follows the subcommand.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    drop(args.into_iter());
    std::process::exit(1)
}
