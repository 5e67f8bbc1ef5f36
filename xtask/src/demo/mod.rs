//! `./x demo`: the promise, put to the test on this machine in half a minute.
//!
//! 250 orders are started on a host with a Postgres of its own. When half of their steps have begun, the
//! host gets SIGKILL, and with it goes Postgres. Another host starts in the same directory, takes the
//! runs over and finishes them. Then the ledgers are read and compared with what the hosts logged:
//! nothing may be lost, and nothing that was recorded may have been done again.
//!
//! Everything is done from outside, through the real program: `backstitch build`, `dev`, and the API.

mod audit;
mod host;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use backstitch::ambient;
use backstitch_client::views::{ReplayVerdict, RowView, RunView};
use backstitch_client::{Client, ClientError, ListRuns, StartRun};
use backstitch_core::{Json, RunStatus};
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use self::audit::Story;
use self::host::Host;
use crate::place::{root, target_dir};

/// The workflow of the example.
const WORKFLOW: &str = "order_workflow";
/// Its crates.
const PACKAGES: [&str; 2] = ["order-workflow", "order-activities"];
/// Most orders take three steps: the host is killed when about half of so many have begun.
const STEPS_PER_ORDER: u64 = 3;
/// Orders that are on their way to the host at once.
const STARTS_AT_ONCE: usize = 64;
/// What takes longer than this hangs.
const TIMEOUT: Duration = Duration::from_secs(120);

/// One line of the example's orders.
#[derive(Clone, Debug, Deserialize)]
struct Order {
    id: String,
    input: Json,
}

pub(crate) fn run(keep: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let place = Place::make(keep)?;
    let shown = runtime.block_on(async {
        tokio::select! {
            shown = show(&place) => shown,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    });
    shown.with_context(|| match fs::read_dir(&place.dir) {
        Ok(_) if keep => format!("the demo failed; logs and database are in {}", place.dir.display()),
        _ => "the demo failed; --keep keeps logs and database".to_owned(),
    })
}

async fn show(place: &Place) -> anyhow::Result<()> {
    let program = target_dir()?.join("debug/backstitch");
    ensure!(program.exists(), "{} is missing: cargo build", program.display());
    let orders = read_orders()?;

    println!("building the order example");
    let components = build(&program, &place.dir)?;

    println!("starting a host with a Postgres of its own in {}", place.dir.display());
    let first = Host::start(&program, &place.dir, 1, "127.0.0.1:0")?;
    let client = Client::new(&first.url)?;
    for component in components {
        let deployed = client.deploy(fs::read(&component)?).await?;
        let names: Vec<&str> = deployed.names.iter().map(|name| name.name.as_str()).collect();
        println!("  deployed {} {}: {}", deployed.kind, deployed.digest.short(), names.join(", "));
    }

    println!("starting {} orders; the host will be killed half-way", orders.len());
    let starting = tokio::spawn(start_all(client.clone(), orders.clone()));
    let bar = bar(orders.len());
    wait_for_half(&client, orders.len(), &bar).await?;
    let address = first.address().to_owned();
    let killed_pid = first.kill()?;
    bar.suspend(|| println!("SIGKILL to host {killed_pid} and, with it, to its Postgres"));

    let respawned = Instant::now();
    let respawned_ms = ambient::wall_ms();
    let second = Host::start(&program, &place.dir, 2, &address)?;
    let ready = respawned.elapsed();
    bar.suspend(|| println!("another host is ready after {ready:.0?}"));
    wait_for_all(&client, &orders, &bar).await?;
    let finished = respawned.elapsed();
    bar.finish_and_clear();
    let runs = read_results(&client, &orders).await?;
    let repeated_starts = starting.await??;

    println!("reading {} ledgers", runs.len());
    let story = Story {
        respawned_ms,
        ledgers: read_ledgers(&client, &runs).await?,
        attempts: [place.attempts(1)?, place.attempts(2)?],
        identical: replay_all(&client, &runs).await?,
        runs,
    };
    report::print(&story, &report::Times { ready, finished, repeated_starts })?;
    second.stop()?;
    println!("\nthe host has stopped; nothing is left running");
    audit::verdict(&story, orders.len())
}

fn read_orders() -> anyhow::Result<Vec<Order>> {
    let path = root().join("examples/order/orders.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let orders: Result<Vec<Order>, _> = text.lines().map(serde_json::from_str).collect();
    orders.with_context(|| format!("{} is not as it was", path.display()))
}

fn build(program: &Path, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let out = dir.join("components");
    let mut command = Command::new(program);
    command.args(["build", "--quiet", "--out"]).arg(&out).arg(root());
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let status = command.stdout(Stdio::null()).status().context("cannot run backstitch build")?;
    ensure!(status.success(), "backstitch build ended with {status}");
    Ok(PACKAGES.iter().map(|package| out.join(format!("{package}.wasm"))).collect())
}

/// Starts every order. A host that does not answer is asked again: an order's id makes the repeat the
/// same order. Gives the number of repeats.
async fn start_all(client: Client, orders: Vec<Order>) -> anyhow::Result<u64> {
    let client = Arc::new(client);
    let starts = orders.into_iter().map(|order| {
        let client = Arc::clone(&client);
        async move { start(&client, order).await }
    });
    let repeats = futures::stream::iter(starts).buffer_unordered(STARTS_AT_ONCE);
    repeats.try_fold(0, |sum, repeats| async move { Ok(sum + repeats) }).await
}

async fn start(client: &Client, order: Order) -> anyhow::Result<u64> {
    let deadline = Instant::now() + TIMEOUT;
    let mut repeats = 0;
    loop {
        let (workflow_id, input) = (Some(order.id.clone()), order.input.clone());
        let started = client.start(StartRun::new(WORKFLOW, workflow_id, input)).await;
        match started {
            Ok(_) => return Ok(repeats),
            Err(error) if Instant::now() < deadline && is_passing(&error) => {
                repeats += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot start {}", order.id)),
        }
    }
}

fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. }) || error.has_status(503)
}

/// Waits until half of the steps have begun and the first tenth of the orders is done: at that moment
/// most of the others are under way.
async fn wait_for_half(client: &Client, orders: usize, bar: &ProgressBar) -> anyhow::Result<()> {
    let half = orders as u64 * STEPS_PER_ORDER / 2;
    let tenth = u32::try_from(orders / 10)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if client.health().await?.activities_started >= half {
            let done =
                ListRuns { status: Some(RunStatus::Completed), limit: Some(tenth), ..ListRuns::default() };
            let done = client.list(done).await?.runs.len();
            bar.set_position(done as u64);
            if done >= tenth as usize {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "the host does not get half of the work done");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until every order has a run, only one, and every run is closed.
async fn wait_for_all(client: &Client, orders: &[Order], bar: &ProgressBar) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let runs = list_all(client).await?;
        if let Some(parked) = runs.iter().find(|run| run.fault.is_some()) {
            bail!("{} is parked: {:?}", parked.workflow_id, parked.fault);
        }
        let closed = runs.iter().filter(|run| !run.status.is_open()).count();
        bar.set_position(closed as u64);
        if closed == runs.len() && closed >= orders.len() {
            ensure!(runs.len() == orders.len(), "{} orders became {} runs", orders.len(), runs.len());
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {closed} of {} orders are done", orders.len());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

async fn list_all(client: &Client) -> anyhow::Result<Vec<RunView>> {
    let mut runs = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.list(ListRuns { limit: Some(1_000), cursor, ..ListRuns::default() }).await?;
        runs.extend(page.runs);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(runs);
        }
    }
}

/// Every order's run with its result, by order.
async fn read_results(client: &Client, orders: &[Order]) -> anyhow::Result<BTreeMap<String, RunView>> {
    let runs = orders.iter().map(|order| async {
        let run = client.result(&order.id, Duration::ZERO).await?;
        anyhow::Ok((order.id.clone(), run))
    });
    futures::stream::iter(runs).buffer_unordered(STARTS_AT_ONCE).try_collect().await
}

async fn read_ledgers(
    client: &Client,
    runs: &BTreeMap<String, RunView>,
) -> anyhow::Result<BTreeMap<String, Vec<RowView>>> {
    let ledgers = runs.values().map(|run| async {
        let id = run.run_id.to_string();
        let page = client.ledger(&id, backstitch_core::Seq(0), None).await?;
        ensure!(page.next_seq.is_none(), "the ledger of an order is longer than a page");
        Ok((id, page.rows))
    });
    futures::stream::iter(ledgers).buffer_unordered(STARTS_AT_ONCE).try_collect().await
}

/// Leads the component along every ledger. Gives how many it repeated.
async fn replay_all(client: &Client, runs: &BTreeMap<String, RunView>) -> anyhow::Result<usize> {
    let replays = runs.values().map(|run| async {
        let replayed = client.replay(&run.run_id.to_string(), None).await?;
        anyhow::Ok(usize::from(matches!(replayed.verdict, ReplayVerdict::Identical)))
    });
    let replays = futures::stream::iter(replays).buffer_unordered(8);
    replays.try_fold(0, |sum, identical| async move { Ok(sum + identical) }).await
}

fn bar(orders: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("orders done {wide_bar} {pos}/{len}");
    let bar = ProgressBar::new(orders as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The demo's directory: new for every run, gone afterwards.
struct Place {
    dir: PathBuf,
    keep: bool,
}

impl Place {
    /// Under `target/`, or under `/tmp` where root's Postgres user could not get into it.
    fn make(keep: bool) -> anyhow::Result<Self> {
        let near = target_dir()?.join("demo");
        let dir = match backstitch_ledger::blocked_by(&near.join("data"))? {
            None => near,
            Some(_) => PathBuf::from(format!("/tmp/backstitch-demo-{}", std::process::id())),
        };
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, keep })
    }

    /// The attempts that the host of a life logged.
    fn attempts(&self, life: u32) -> anyhow::Result<Vec<audit::Attempt>> {
        let path = host::log(&self.dir, life);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(audit::attempts(&String::from_utf8_lossy(&text)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep {
            // What remains is in target/ or /tmp, and cleared by the next demo.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
