//! Real containers on this machine: images are made here from Debian's busybox-static, shims are `rk-shim-test`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends it")]

mod confinement;
mod containers;
mod image;
mod limits;
mod registry;
mod sessions;
mod support;
mod survival;
