//! The rk executable.
fn main() {}
