//! Developer tasks: gen-tables, bench, chaos.
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod gen_tables;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Developer tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild embedded/tables from published API descriptions.
    GenTables(gen_tables::Args),
    /// Measure the release executable against the budgets of docs/benchmarks.md. Takes root and about five minutes.
    Bench(bench::Args),
    /// Run the store through power cuts or simulated clusters by the thousand, or clusters of processes for some time.
    Chaos(chaos::Args),
    /// One member of the clusters of `chaos --model processes`.
    #[command(hide = true)]
    ChaosMember,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::GenTables(args) => gen_tables::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Chaos(args) => chaos::run(&args),
        Task::ChaosMember => proof::processes::main().map_err(|error| anyhow::anyhow!(error)),
    }
}
