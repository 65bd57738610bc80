//! Link settings of the release executable.
//!
//! Each crate that decodes a Kubernetes type has its own copy of the code for it. Where the linker is LLVM's, as the
//! toolchain has it on x86-64, it keeps one of equal copies.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).as_deref() == Ok(value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
