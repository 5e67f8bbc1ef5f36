//! Benchmarks of a whole host on a real Postgres, each with the floor measured in the same run.
//!
//! A wall time says more about the machine than about the program, so every line shows CPU: of this
//! process, which holds the host and the little that drives it, and of every process of Postgres. The
//! floor is the cheapest way to make as many rows durable: bare `UNNEST` inserts in batches as large
//! as the host's were.

mod cpu;
mod floor;
mod latency;
mod load;
mod price;
mod replay;
mod rig;
mod sleepers;
mod steps;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures a host on a real Postgres, and the floor beside it")]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Print one JSON object as the last line.
    #[arg(long, global = true)]
    json: bool,
    /// A database to use instead of a private one; its server must run on this machine.
    #[arg(long, global = true, env = "DATABASE_URL")]
    database_url: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Runs of 10 activities in a row.
    Steps(steps::Args),
    /// One run of one activity on an idle host, again and again.
    Latency(latency::Args),
    /// One run that calls many activities at once.
    Fanout(steps::FanoutArgs),
    /// A long run whose host is killed: what the next host spends until it goes on.
    Replay(replay::Args),
    /// What the bounds on computing cost compiled code; without a database.
    Price(price::Args),
    /// Many runs that sleep: memory of the host, bytes in Postgres.
    Sleepers(sleepers::Args),
}

fn main() -> Result<()> {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("a debug build: the figures mean nothing; use `cargo run --release -p bench …`");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let database = args.database_url.as_deref();
        match args.what {
            What::Steps(what) => steps::run(database, &what).await,
            What::Latency(what) => latency::run(database, &what).await,
            What::Fanout(what) => steps::fan_out(database, &what).await,
            What::Replay(what) => replay::run(database, &what).await,
            What::Price(what) => price::run(&what),
            What::Sleepers(what) => sleepers::run(database, &what).await,
        }
    })?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}
