//! `bench sleepers`: many runs that sleep for days.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::Connection;
use tokio::task::JoinSet;

use crate::cpu;
use crate::rig::{self, Rig, Server};

/// Options of `bench sleepers`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sleeping runs.
    #[arg(long, default_value_t = 100_000)]
    runs: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    runs: usize,
    concurrency: usize,
    starts_per_s: f64,
    cpu_us_per_run: f64,
    /// Resident memory when the warm guests were all there, and at the end.
    host_bytes_at_tenth: u64,
    host_bytes: u64,
    postgres_bytes_per_run: f64,
}

/// Starts them, and looks at what they take.
pub(crate) async fn run(database: Option<&str>, args: &Args) -> Result<serde_json::Value> {
    const AT_ONCE: usize = 500;
    let guests = rig::guests(&["follow-up-workflow", "example-activities"])?;
    let server = Server::start(database).await?;
    let rig = Arc::new(Rig::start(server.config(), &guests).await?);
    let empty = database_bytes(&server).await?;
    let (before, begun) = (server.cpu()?, Instant::now());
    let mut at_tenth = 0;
    let mut starting = JoinSet::new();
    for number in 0..args.runs {
        if starting.len() == AT_ONCE {
            starting.join_next().await.transpose()?.transpose()?;
        }
        if number == args.runs / 10 {
            at_tenth = cpu::resident_bytes()?;
        }
        let rig = Arc::clone(&rig);
        starting.spawn(async move {
            rig.start_run("follow_up", r#"{"customer":"ada@example.com","after":"30 days"}"#).await
        });
    }
    while let Some(start) = starting.join_next().await {
        start??;
    }
    wait_for_timers(&server, args.runs).await?;
    let (spent, took) = (server.cpu()?.since(before), begun.elapsed());
    let report = Report {
        bench: "sleepers",
        runs: args.runs,
        concurrency: AT_ONCE,
        starts_per_s: args.runs as f64 / took.as_secs_f64(),
        cpu_us_per_run: spent.us() / args.runs as f64,
        host_bytes_at_tenth: at_tenth,
        host_bytes: cpu::resident_bytes()?,
        postgres_bytes_per_run: (database_bytes(&server).await? - empty) as f64 / args.runs as f64,
    };
    println!("{}", rig::machine());
    println!(
        "bench sleepers: {} runs, {:.0} starts/s, {:.0} µs of CPU each; host {} MiB with a tenth of them, {} MiB with \
         all; {:.0} bytes a run in Postgres",
        report.runs,
        report.starts_per_s,
        report.cpu_us_per_run,
        report.host_bytes_at_tenth >> 20,
        report.host_bytes >> 20,
        report.postgres_bytes_per_run
    );
    Ok(serde_json::to_value(report)?)
}

async fn wait_for_timers(server: &Server, runs: usize) -> Result<()> {
    let mut connection = server.connect().await?;
    let begun = Instant::now();
    loop {
        let timers: i64 =
            sqlx::query_scalar("select count(*) from timers").fetch_one(&mut connection).await?;
        if timers >= i64::try_from(runs)? {
            connection.close().await?;
            return Ok(());
        }
        ensure!(begun.elapsed().as_secs() < 120, "{timers} of {runs} runs sleep");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn database_bytes(server: &Server) -> Result<i64> {
    let mut connection = server.connect().await?;
    sqlx::query("checkpoint").execute(&mut connection).await?;
    let bytes =
        sqlx::query_scalar("select pg_database_size(current_database())").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(bytes)
}
