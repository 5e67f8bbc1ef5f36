//! `bench steps` and `bench fanout`: CPU of a durable step, one after the other and all at once.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use sqlx::Connection;

use crate::floor::{self, Floor};
use crate::load::{closed_loop, completed};
use crate::rig::{self, Place, Server};

/// Options of `bench steps`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs open at a time; several may be given.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1000])]
    concurrency: Vec<usize>,
    /// Runs to measure at each concurrency; the default is enough for some seconds.
    #[arg(long)]
    runs: Option<usize>,
    /// Activities of one run.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Also with a transaction for each host call, to show what group commit is worth.
    #[arg(long)]
    naive: bool,
    /// Also with the activities carried out by a worker outside, over HTTP; its CPU counts.
    #[arg(long)]
    remote: bool,
}

/// Options of `bench fanout`.
#[derive(clap::Args)]
pub(crate) struct FanoutArgs {
    /// Activities at once.
    #[arg(long, default_value_t = 1000)]
    activities: usize,
    /// How often.
    #[arg(long, default_value_t = 10)]
    runs: usize,
}

/// What one measurement gave.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    runs: usize,
    concurrency: usize,
    steps_per_s: f64,
    cpu_us_per_step: f64,
    host_cpu_us_per_step: f64,
    postgres_cpu_us_per_step: f64,
    rows_per_batch: f64,
    floor_cpu_us_per_row: f64,
    floor_rows_per_s: f64,
    ratio_to_floor: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    naive: Option<Box<Report>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<Box<Report>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Report>,
}

/// Runs of activities in a row. The last line's report holds the others.
pub(crate) async fn run(database: Option<&str>, args: &Args) -> Result<serde_json::Value> {
    let guests = rig::step_guests()?;
    println!("{}", rig::machine());
    println!(
        "{:<22} {:>9} {:>10} {:>9} {:>9} {:>9} {:>11} {:>9}",
        "bench steps", "steps/s", "µs/step", "host", "postgres", "rows/txn", "floor µs/row", "ratio"
    );
    let mut reports = Vec::new();
    for concurrency in &args.concurrency {
        let runs = args.runs.unwrap_or((concurrency * 20).clamp(2_000, 20_000));
        let measure =
            |naive, place, runs| measure(database, &guests, args.steps, runs, *concurrency, naive, place);
        // First, while the database of `--database-url` has no activities yet.
        let remote = match args.remote {
            true => Some(measure(false, Place::Worker(*concurrency), runs).await?),
            false => None,
        };
        let mut report = measure(false, Place::Host, runs).await?;
        if args.naive {
            let naive = measure(true, Place::Host, runs.min(2_000)).await?;
            println!(
                "{:<22} naive costs {:.1} times the CPU",
                "",
                naive.cpu_us_per_step / report.cpu_us_per_step
            );
            report.naive = Some(Box::new(naive));
        }
        if let Some(remote) = remote {
            println!(
                "{:<22} remote costs {:.1} times the CPU",
                "",
                remote.cpu_us_per_step / report.cpu_us_per_step
            );
            report.remote = Some(Box::new(remote));
        }
        reports.push(report);
    }
    let mut last = reports.pop().ok_or_else(|| anyhow::anyhow!("no concurrency was given"))?;
    last.others = reports;
    Ok(serde_json::to_value(last)?)
}

async fn measure(
    database: Option<&str>,
    guests: &[Vec<u8>],
    steps: usize,
    runs: usize,
    concurrency: usize,
    naive: bool,
    place: Place,
) -> Result<Report> {
    let server = Server::start(database).await?;
    let mut config = server.config();
    if naive {
        config.batch_max = 1;
    }
    let rig = rig::step_rig(config, guests, place).await?;
    let input = format!(r#"{{"n":{steps},"text":"a payload of about the size that a small step has"}}"#);
    // Warm: code compiled, pages mapped, plans cached.
    closed_loop(&rig, "steps", &input, concurrency.min(runs), concurrency).await?;
    let (before, transactions, begun) = (server.cpu()?, committed(&server).await?, Instant::now());
    closed_loop(&rig, "steps", &input, runs, concurrency).await?;
    let (spent, took) = (server.cpu()?.since(before), begun.elapsed());
    let transactions = committed(&server).await? - transactions;
    if let Ok(rig) = Arc::try_unwrap(rig) {
        rig.stop().await;
    }
    let (total, rows) = (steps * runs, runs * (2 * steps + 2));
    let per_batch = rows as f64 / transactions.max(1) as f64;
    let floor = floor::measure(&server, rows.min(100_000), per_batch.round() as usize).await?;
    let name = match (naive, place) {
        (true, _) => "  naive",
        (false, Place::Host) => "  group commit",
        (false, Place::Worker(_)) => "  remote",
    };
    let report = report("steps", runs, concurrency, total, per_batch, spent, took.as_secs_f64(), floor);
    print(&format!("{name}, {concurrency} runs"), &report);
    Ok(report)
}

/// One run, many activities at once.
pub(crate) async fn fan_out(database: Option<&str>, args: &FanoutArgs) -> Result<serde_json::Value> {
    let guests = rig::step_guests()?;
    let server = Server::start(database).await?;
    let rig = rig::step_rig(server.config(), &guests, Place::Host).await?;
    let input =
        format!(r#"{{"n":{},"text":"a payload of about the size that a small step has"}}"#, args.activities);
    let first = rig.start_run("fan_out", &input).await?;
    completed(&rig, first).await?;
    let (before, transactions, begun) = (server.cpu()?, committed(&server).await?, Instant::now());
    for _ in 0..args.runs {
        let run = rig.start_run("fan_out", &input).await?;
        completed(&rig, run).await?;
    }
    let (spent, took) = (server.cpu()?.since(before), begun.elapsed());
    let transactions = committed(&server).await? - transactions;
    let (total, rows) = (args.activities * args.runs, args.runs * (2 * args.activities + 2));
    let per_batch = rows as f64 / transactions.max(1) as f64;
    let floor = floor::measure(&server, rows, per_batch.round() as usize).await?;
    let report = report("fanout", args.runs, 1, total, per_batch, spent, took.as_secs_f64(), floor);
    println!("{}", rig::machine());
    println!(
        "bench fanout: {} activities at once: {:.3} s of CPU, {:.3} s (floor {:.1} µs/row, ratio {:.1})",
        args.activities,
        spent.us() / 1e6 / args.runs as f64,
        took.as_secs_f64() / args.runs as f64,
        report.floor_cpu_us_per_row,
        report.ratio_to_floor
    );
    Ok(serde_json::to_value(report)?)
}

#[expect(clippy::too_many_arguments, reason = "one measurement's figures, named at the call")]
fn report(
    bench: &'static str,
    runs: usize,
    concurrency: usize,
    steps: usize,
    rows_per_batch: f64,
    spent: crate::cpu::Cpu,
    took_s: f64,
    floor: Floor,
) -> Report {
    let cpu_us_per_step = floor::us_per(spent, steps);
    let host_cpu_us_per_step = spent.host.as_secs_f64() * 1e6 / steps as f64;
    Report {
        bench,
        runs,
        concurrency,
        steps_per_s: steps as f64 / took_s,
        cpu_us_per_step,
        host_cpu_us_per_step,
        postgres_cpu_us_per_step: cpu_us_per_step - host_cpu_us_per_step,
        rows_per_batch,
        floor_cpu_us_per_row: floor.cpu_us_per_row,
        floor_rows_per_s: floor.rows_per_s,
        // A step is two rows.
        ratio_to_floor: cpu_us_per_step / (2.0 * floor.cpu_us_per_row),
        naive: None,
        remote: None,
        others: Vec::new(),
    }
}

fn print(name: &str, report: &Report) {
    println!(
        "{name:<22} {:>9.0} {:>10.1} {:>9.1} {:>9.1} {:>9.1} {:>11.1} {:>9.1}",
        report.steps_per_s,
        report.cpu_us_per_step,
        report.host_cpu_us_per_step,
        report.postgres_cpu_us_per_step,
        report.rows_per_batch,
        report.floor_cpu_us_per_row,
        report.ratio_to_floor
    );
}

/// Transactions that wrote, of the whole server: every one has taken an id.
async fn committed(server: &Server) -> Result<i64> {
    let mut connection = server.connect().await?;
    let next: String = sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(next.parse()?)
}
