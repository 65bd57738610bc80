//! Developer tasks: gen-tables, dist, bench.
fn main() {}
