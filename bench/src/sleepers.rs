//! `bench sleepers`: many runs that sleep for days, and what a check of the timers costs beside many more of another host.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use backstitch_core::HostId;
use backstitch_ledger::{ConnectOptions, Ledger, TimerCheck};
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
    /// Runs of another host that sleep beside them, half of them for too long already.
    #[arg(long, default_value_t = 1_000_000)]
    foreign: usize,
}

/// Checks that are measured together.
const CHECKS: usize = 200;

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
    foreign: usize,
    /// What a check of the timers of this host costs without those of the other, and with them.
    look_cpu_us_alone: f64,
    look_cpu_us_beside_foreign: f64,
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
    let (host_bytes, postgres_bytes) = (cpu::resident_bytes()?, database_bytes(&server).await? - empty);
    let host = rig.service.health().await.host_id.parse()?;
    let alone = check_us(&server, host).await?;
    add_foreign(&server, args.foreign).await?;
    let beside = check_us(&server, host).await?;
    let report = Report {
        bench: "sleepers",
        runs: args.runs,
        concurrency: AT_ONCE,
        starts_per_s: args.runs as f64 / took.as_secs_f64(),
        cpu_us_per_run: spent.us() / args.runs as f64,
        host_bytes_at_tenth: at_tenth,
        host_bytes,
        postgres_bytes_per_run: postgres_bytes as f64 / args.runs as f64,
        foreign: args.foreign,
        look_cpu_us_alone: alone,
        look_cpu_us_beside_foreign: beside,
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
    println!(
        "a look at the timers: {alone:.0} µs of CPU alone, {beside:.0} µs beside {} of another host, {:.2} times as much",
        report.foreign,
        beside / alone
    );
    Ok(serde_json::to_value(report)?)
}

/// CPU of one check for timers of the host that are due, and for the next one, in microseconds.
async fn check_us(server: &Server, host: HostId) -> Result<f64> {
    let ledger = Ledger::connect(ConnectOptions::new(&server.url)).await?;
    let now_ms = backstitch::ambient::wall_ms();
    let check = TimerCheck { host, from_ms: 0, now_ms, always: 4, except: &[] };
    let before = server.cpu()?;
    for _ in 0..CHECKS {
        ensure!(ledger.due_timers(check, 500).await?.is_empty(), "a run that sleeps for days is due");
        ensure!(ledger.next_due(check).await?.is_some(), "nobody sleeps");
    }
    let spent = server.cpu()?.since(before);
    ledger.close().await;
    Ok(spent.us() / CHECKS as f64)
}

/// Another host that lives, and its sleepers.
async fn add_foreign(server: &Server, count: usize) -> Result<()> {
    let mut connection = server.connect().await?;
    let owner = backstitch::ambient::new_host_id();
    sqlx::query(
        "insert into leases (shard, host_id, epoch, heartbeat_at, lease_ms, dead, name)
         values (0, $1, 1, now(), 86400000, false, 'foreign')",
    )
    .bind(owner.0)
    .execute(&mut connection)
    .await?;
    sqlx::query(
        "with foreign_runs as (
             insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status, owner, started_at)
             select 0, 1, gen_random_uuid(), 'foreign-' || n, 0, 'w', decode(repeat('07', 32), 'hex'), 1, $1, now()
             from generate_series(1, $2) n
             returning run_id
         )
         insert into timers (shard, tenant, run_id, op, due_at, purpose, owner)
         select 0, 1, run_id, 0, now() + (random() - 0.5) * interval '2 days', 1, $1 from foreign_runs",
    )
    .bind(owner.0)
    .bind(i32::try_from(count)?)
    .execute(&mut connection)
    .await?;
    sqlx::query("vacuum analyze timers").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
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
