//! `bench latency`: how long a run of one activity takes on an idle host, in commits.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::floor::Commits;
use crate::rig::{self, Place, Server};

/// Options of `bench latency`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs, one after the other.
    #[arg(long, default_value_t = 500)]
    runs: usize,
    /// With the activity carried out by a worker outside, over HTTP.
    #[arg(long)]
    remote: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    remote: bool,
    runs: usize,
    concurrency: usize,
    p50_ms: f64,
    p99_ms: f64,
    commit_p50_ms: f64,
    p50_commits: f64,
}

/// One run at a time.
pub(crate) async fn run(database: Option<&str>, args: &Args) -> Result<serde_json::Value> {
    let guests = rig::step_guests()?;
    let server = Server::start(database).await?;
    let place = if args.remote { Place::Worker(16) } else { Place::Host };
    let rig = rig::step_rig(server.config(), &guests, place).await?;
    let mut times = Vec::with_capacity(args.runs);
    let mut commits = Commits::new(&server).await?;
    let mut commit_times = Vec::with_capacity(args.runs);
    for number in 0..args.runs + 20 {
        // In turns, so that both meet the same disk and the same neighbours.
        let commit = commits.one().await?;
        let mut closings = rig.service.closings();
        let begun = Instant::now();
        let run = rig.start_run("steps", r#"{"n":1,"text":"x"}"#).await?;
        while closings.recv().await? != run {}
        if number >= 20 {
            times.push(begun.elapsed());
            commit_times.push(commit);
        }
    }
    commits.end().await?;
    times.sort();
    commit_times.sort();
    let commit = commit_times[commit_times.len() / 2];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let report = Report {
        bench: "latency",
        remote: args.remote,
        runs: args.runs,
        concurrency: 1,
        p50_ms: ms(p50),
        p99_ms: ms(p99),
        commit_p50_ms: ms(commit),
        p50_commits: p50.as_secs_f64() / commit.as_secs_f64(),
    };
    println!("{}", rig::machine());
    println!(
        "bench latency{}: p50 {:.2} ms, p99 {:.2} ms; a bare commit takes {:.2} ms: {:.1} commits",
        if args.remote { " --remote" } else { "" },
        report.p50_ms,
        report.p99_ms,
        report.commit_p50_ms,
        report.p50_commits
    );
    Ok(serde_json::to_value(report)?)
}
