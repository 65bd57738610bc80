//! Developer tasks: gen-tables, dist, bench.

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::GenTables(args) => gen_tables::run(&args),
    }
}
