//! What `./x` runs once the machine has what it takes: the demo and the tests.

mod demo;
mod guests;
mod place;
mod tests;

use clap::{Parser, Subcommand};

/// Tasks of this repository.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start 250 orders, kill the host half-way, start it again, and check what the ledger says
    Demo {
        /// Keep the data directory with its database and logs
        #[arg(long)]
        keep: bool,
    },
    /// Build the guests, then run every test
    Test {
        /// Handed to cargo test
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo { keep } => demo::run(keep),
        Task::Test { args } => tests::run(&args),
    }
}
