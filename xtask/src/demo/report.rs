//! What the demo prints when all orders are done.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use backstitch_client::views::{RowView, RunView};
use comfy_table::{Table, presets};

use super::audit::{self, Story};

/// Longest payload in the shown ledger.
const PAYLOAD_BYTES_MAX: usize = 60;

/// How long things took, from the start of the second host.
pub(super) struct Times {
    /// Until it answered.
    pub(super) ready: Duration,
    /// Until the last order was done.
    pub(super) finished: Duration,
    /// Starts that no host answered and that were sent again.
    pub(super) repeated_starts: u64,
}

pub(super) fn print(story: &Story, times: &Times) -> anyhow::Result<()> {
    println!("\nresults");
    for (kind, count) in kinds(story.runs.values()) {
        println!("  {count:>4} {kind}");
    }
    let run = survivor(story).context("no run was open when the host was killed")?;
    let rows = story.ledgers.get(&run.run_id.to_string()).context("its ledger was read")?;
    println!("\nthe ledger of {}, which the kill found under way", run.workflow_id);
    println!("{}", ledger(rows, story.respawned_ms));
    counts(story);
    takeover(story, times);
    Ok(())
}

fn counts(story: &Story) {
    let [first, second] = &story.attempts;
    let (closed, open) = story.at_kill();
    let rows: usize = story.ledgers.values().map(Vec::len).sum();
    println!("\nthe crash");
    println!("  {closed} orders were done and {open} under way when the host was killed");
    println!("\nactivities");
    println!(
        "  {:>5} attempts begun: {} by the first host, {} by the second",
        first.len() + second.len(),
        first.len(),
        second.len()
    );
    println!("  {:>5} outcomes recorded, in {rows} ledger rows", story.recorded(false).len());
    println!(
        "  {:>5} attempts under way at the kill were begun again, under the same idempotency key",
        story.repeated_in_flight()
    );
    println!("  {:>5} attempts recorded before the kill were begun again", story.repeated_in_vain().len());
    println!("\nreplay");
    println!(
        "  {} of {} ledgers are repeated by their component, command for command",
        story.identical,
        story.ledgers.len()
    );
}

fn takeover(story: &Story, times: &Times) {
    println!("\nthe takeover, from the start of the second host");
    println!("  {:>5} ms until it answered: Postgres recovered, lease taken", times.ready.as_millis());
    if let Some(first) = story.first_row_after_ms() {
        println!("  {:>5} ms until the first new ledger row", first - story.respawned_ms);
    }
    println!("  {:>5} ms until the last order was done", times.finished.as_millis());
    if times.repeated_starts > 0 {
        println!(
            "  {:>5} starts found no host, were sent again, and made no run twice",
            times.repeated_starts
        );
    }
}

/// How runs ended: the outcome that the workflow names, or the status.
fn kinds<'a>(runs: impl Iterator<Item = &'a RunView>) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for run in runs {
        let output = run.output.as_ref().and_then(|output| serde_json::from_str(output.as_str()).ok());
        let outcome =
            output.and_then(|output: serde_json::Value| Some(output.get("outcome")?.as_str()?.to_owned()));
        *kinds.entry(outcome.unwrap_or_else(|| run.status.as_str().to_owned())).or_default() += 1;
    }
    kinds
}

/// Of the runs that were open at the kill, one with as much of its ledger on both sides as can be had.
fn survivor(story: &Story) -> Option<&RunView> {
    let sides = |run: &RunView| {
        let rows = story.ledgers.get(&run.run_id.to_string()).map_or(&[][..], Vec::as_slice);
        let before = rows.iter().filter(|row| audit::at_ms(row) < story.respawned_ms).count();
        before.min(rows.len() - before)
    };
    story.runs.values().filter(|run| sides(run) > 0).max_by_key(|run| sides(run))
}

fn ledger(rows: &[RowView], respawned_ms: u64) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).force_no_tty();
    table.set_header(["host", "seq", "at", "kind", "op", "attempt", "name", "payload"]);
    for row in rows {
        let mut payload = row.payload.as_ref().map_or(String::new(), ToString::to_string);
        backstitch_core::printable::cut(&mut payload, PAYLOAD_BYTES_MAX);
        let number = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
        let host = if audit::at_ms(row) < respawned_ms { "first" } else { "second" };
        table.add_row([
            host.to_owned(),
            row.seq.to_string(),
            row.at.clone(),
            row.kind.clone(),
            number(row.op.map(|op| op.0)),
            number(row.attempt),
            row.name.clone().unwrap_or_default(),
            payload,
        ]);
    }
    table.lines().map(|line| format!(" {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}
