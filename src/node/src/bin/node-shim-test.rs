//! Stands in for the rk executable in this crate's tests: it knows the hidden `shim` subcommand only.

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == "shim") {
        runtime::shim::main(args);
    }
    eprintln!("usage: node-shim-test shim FOLDER");
    std::process::exit(2);
}
