//! What `./x` runs once the machine has what it takes: the demo and the tests.

mod demo;
mod guests;
mod tests;

use std::path::{Path, PathBuf};

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

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Where cargo puts what it builds for this workspace: this program is in `target/PROFILE/`.
fn target_dir() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    target.map(Path::to_owned).ok_or_else(|| anyhow::anyhow!("{} is not in target/", program.display()))
}
