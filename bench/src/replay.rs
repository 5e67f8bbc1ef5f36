//! `bench replay`: what it takes to bring a long run back whose host was killed.
//!
//! The run takes its steps and then waits for a signal in a host that is abandoned, as after a kill:
//! its lease is declared dead. The next host reads the ledger, goes over it and is ready for the
//! signal. Its CPU for that, everything included, is compared with the CPU of a start of a host
//! that finds nothing to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use backstitch_client::SendSignal;
use backstitch_core::{Json, RunStatus, Scope};
use serde::Serialize;

use crate::cpu::Cpu;
use crate::rig::{self, Rig, Server};

/// Options of `bench replay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Steps of the run.
    #[arg(long, default_value_t = 2_000)]
    steps: usize,
    /// How often to bring it back.
    #[arg(long, default_value_t = 20)]
    times: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    runs: u32,
    concurrency: usize,
    rows: u32,
    cpu_ms: f64,
    idle_cpu_ms: f64,
    resume_cpu_ms: f64,
    p50_ms: f64,
}

/// Kills, brings back, measures.
pub(crate) async fn run(database: Option<&str>, args: &Args) -> Result<serde_json::Value> {
    let guests = rig::step_guests()?;
    let server = Server::start(database).await?;
    let rig = Rig::start(server.config(), &guests).await?;
    let run =
        rig.start_run("steps_then_wait", &format!(r#"{{"n":{},"text":"x"}}"#, args.steps)).await?.to_string();
    let rows = loop {
        let view = rig.service.run(Scope::DEFAULT, &run).await?;
        ensure!(view.run.status == RunStatus::Running, "{view:?}");
        if view.waits_for.iter().any(|wait| wait.kind == "signal") {
            break view.rows;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    rig.stop().await;
    let mut times = Vec::new();
    let (mut busy, mut idle) = (Cpu::default(), Cpu::default());
    for _ in 0..args.times {
        let (spent, took) = term(&server, 1).await?;
        (busy.host, busy.postgres) = (busy.host + spent.host, busy.postgres + spent.postgres);
        times.push(took);
    }
    let rig = Rig::start(server.config(), &[]).await?;
    let go = SendSignal { name: "go".into(), payload: Json::null(), id: None };
    rig.service.signal(Scope::DEFAULT, &run, go).await?;
    let view = rig.service.result(Scope::DEFAULT, &run, Duration::from_secs(60)).await?;
    ensure!(view.status == RunStatus::Completed, "{view:?}");
    rig.stop().await;
    for _ in 0..args.times {
        let (spent, _) = term(&server, 0).await?;
        (idle.host, idle.postgres) = (idle.host + spent.host, idle.postgres + spent.postgres);
    }
    times.sort();
    let ms = |cpu: Cpu| cpu.us() / 1e3 / f64::from(args.times);
    let report = Report {
        bench: "replay",
        runs: args.times,
        concurrency: 1,
        rows,
        cpu_ms: ms(busy),
        idle_cpu_ms: ms(idle),
        resume_cpu_ms: ms(busy) - ms(idle),
        p50_ms: times[times.len() / 2].as_secs_f64() * 1e3,
    };
    println!("{}", rig::machine());
    println!(
        "bench replay: {} steps, {} rows: {:.1} ms of CPU to resume (a term with it {:.1} ms, one without {:.1} ms)",
        args.steps, report.rows, report.resume_cpu_ms, report.cpu_ms, report.idle_cpu_ms
    );
    Ok(serde_json::to_value(report)?)
}

/// One host's life: from its start until it has `runs` guests that wait, then its end.
async fn term(server: &Server, runs: u64) -> Result<(Cpu, Duration)> {
    let (before, begun) = (server.cpu()?, Instant::now());
    let rig = Arc::new(Rig::start(server.config(), &[]).await?);
    while rig.service.health().await.runs_warm < runs {
        ensure!(begun.elapsed().as_secs() < 60, "the run did not come back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The same span for all, so that what a host does when idle is in both figures.
    tokio::time::sleep_until((begun + Duration::from_millis(500)).into()).await;
    let (spent, took) = (server.cpu()?.since(before), begun.elapsed());
    if let Ok(rig) = Arc::try_unwrap(rig) {
        rig.stop().await;
    }
    Ok((spent, took))
}
