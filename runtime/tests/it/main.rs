//! Real containers on this machine: images are made here from Debian's busybox-static, shims are `rk-shim-test`.

mod containers;
mod image;
mod sessions;
mod support;
mod survival;
