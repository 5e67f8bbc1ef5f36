//! `./x simulate`: plays seeds on all cores, and shows the first that fails with all that led to it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::cluster::{Cluster, Coverage, Failure, Plan};
use simulation::minimise::minimise;

/// Lines of the log that are shown of a failure.
const LINES_MAX: usize = 400_000;

/// Plays clusters in simulated time, with faults, and checks that what is promised holds.
#[derive(Debug, Parser)]
struct Cli {
    /// How many seeds
    #[arg(long, default_value_t = simulation::SEEDS)]
    seeds: u64,
    /// Play this seed alone, and show all that happens
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after so many minutes, however many seeds are left
    #[arg(long)]
    minutes: Option<f64>,
    /// Show which inputs met a run in which standing
    #[arg(long)]
    coverage: bool,
    /// Of a seed that fails, say what does not hold and no more
    #[arg(long)]
    brief: bool,
}

/// What all threads have found.
#[derive(Default)]
struct Found {
    coverage: Coverage,
    steps: u64,
    runs: u64,
    failed: Option<(u64, Failure)>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.seed {
        return show(seed, &Plan::new(seed));
    }
    let found = play(&cli);
    let Found { coverage, failed, .. } = &found;
    if cli.coverage {
        show_coverage(coverage);
    }
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, failure)) => {
            println!("seed {seed} fails: {}", failure.what);
            if cli.brief {
                return ExitCode::FAILURE;
            }
            println!("looking for a smaller plan that fails in the same way …");
            show(*seed, &minimise(&Plan::new(*seed)));
            println!("again: ./x simulate --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

fn play(cli: &Cli) -> Found {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, stop) = (AtomicU64::new(cli.from), AtomicBool::new(false));
    let found = Mutex::new(Found::default());
    let began = Instant::now();
    let until = cli.minutes.map(|minutes| began + Duration::from_secs_f64(minutes * 60.0));
    let end = cli.from.saturating_add(cli.seeds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = Cluster::new(Plan::new(seed)).run();
                    let Ok(mut found) = found.lock() else { break };
                    found.steps += outcome.steps;
                    found.runs += outcome.runs as u64;
                    for (pair, times) in outcome.coverage {
                        *found.coverage.entry(pair).or_default() += times;
                    }
                    if let Some(failure) = outcome.failure {
                        stop.store(true, Ordering::Relaxed);
                        if found.failed.as_ref().is_none_or(|(known, _)| seed < *known) {
                            found.failed = Some((seed, failure));
                        }
                    }
                }
            });
        }
    });
    let played = next.load(Ordering::Relaxed).min(end) - cli.from;
    let found = found.into_inner().unwrap_or_default();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{played} seeds in {seconds:.1} s ({:.0} a second): {} runs, {} events, {} pairs of input and standing",
        played as f64 / seconds,
        found.runs,
        found.steps,
        found.coverage.len()
    );
    found
}

/// Plays a plan and writes down what happens.
fn show(seed: u64, plan: &Plan) -> ExitCode {
    println!("seed {seed}: {} hosts, {} workers", plan.hosts, plan.workers);
    for (at_us, event) in &plan.events {
        println!("{:>12.3} ms  {event:?}", *at_us as f64 / 1_000.0);
    }
    let outcome = Cluster::new(plan.clone()).with_log().run();
    let skipped = outcome.log.len().saturating_sub(LINES_MAX);
    if skipped > 0 {
        println!("({skipped} lines left out)");
    }
    outcome.log.iter().skip(skipped).for_each(|line| println!("{line}"));
    match outcome.failure {
        None => {
            println!("all holds: {} runs, {} events", outcome.runs, outcome.steps);
            ExitCode::SUCCESS
        }
        Some(Failure { what, at_us }) => {
            println!("at {:.3} ms: {what}", at_us as f64 / 1_000.0);
            ExitCode::FAILURE
        }
    }
}

fn show_coverage(coverage: &Coverage) {
    let mut by_input: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((input, standing), times) in coverage {
        let standing = standing.map_or_else(|| "-".to_owned(), |standing| format!("{standing:?}"));
        by_input.entry(input).or_default().push(format!("{standing} {times}"));
    }
    for (input, standings) in by_input {
        println!("{input:<16} {}", standings.join(", "));
    }
}
