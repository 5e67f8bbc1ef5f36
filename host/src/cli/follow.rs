//! Waiting for a run: `run result`, and `run start --follow`, which shows ledger rows as they come.

use std::time::Duration;

use backstitch_client::params::RESULT_WAIT_MS_MAX;
use backstitch_client::views::{RowView, RunView};
use backstitch_core::{RunStatus, Seq, printable};
use tokio::time::Instant;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::output::Output;
use super::show::{said, verdict};

/// Rows of one look at the ledger.
const PAGE_ROWS: u32 = 500;
/// How long one look waits for the run to close before the ledger is read again.
const POLL: Duration = Duration::from_millis(250);

/// Waits until the run has closed or is parked. A run that goes on as a new one is waited for there.
pub(super) async fn wait(id: &str, timeout: Option<Duration>, context: &Context) -> CliResult<RunView> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut id = id.to_owned();
    // At first only a look: whoever waits for a run that is paused is told at once.
    let mut look = Duration::ZERO;
    let mut notes = PauseNotes::default();
    loop {
        let run = look_at(&id, look, context).await?;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        look = left.unwrap_or(Duration::MAX).min(Duration::from_millis(RESULT_WAIT_MS_MAX));
        notes.look(&run, context.out);
        match run.status {
            RunStatus::Continued if run.workflow_id != id => id = run.workflow_id,
            // Between the end of one generation and the start of the next.
            RunStatus::Continued => tokio::time::sleep(POLL).await,
            RunStatus::Running | RunStatus::Paused => {}
            _ => return Ok(run),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let what = format!("{id} is still {}", run.status.as_str());
            return Err(CliError::new(Exit::StillRunning, "still-running", what)
                .because("the time of --timeout is over")
                .hint(format!("look with `backstitch run show {id}`")));
        }
    }
}

/// Says once that a run which is waited for is paused, and once more each time that it is paused again.
#[derive(Default)]
struct PauseNotes {
    said: bool,
}

impl PauseNotes {
    fn look(&mut self, run: &RunView, out: Output) {
        let is_paused = run.status == RunStatus::Paused;
        if is_paused && !self.said {
            let id = &run.workflow_id;
            out.note(&format!("{id} is paused; it goes on after `backstitch run resume {}`", run.run_id));
        }
        self.said = is_paused;
    }
}

/// Shows the ledger's rows on stderr as they come, until the run has closed or is parked. Ctrl-C ends
/// the looking, not the run.
pub(super) async fn follow(run: RunView, context: &Context) -> CliResult {
    let id = run.run_id.to_string();
    let run = tokio::select! {
        run = rows_until_end(run, context) => run?,
        _ = tokio::signal::ctrl_c() => {
            context.out.note(&format!("\nno longer following; the run goes on: backstitch run result {id}"));
            return Err(CliError::silent(Exit::Interrupted));
        }
    };
    conclude(&run, context.out)
}

async fn rows_until_end(mut run: RunView, context: &Context) -> CliResult<RunView> {
    let mut id = run.run_id.to_string();
    let mut next = Seq(0);
    let mut notes = PauseNotes::default();
    loop {
        // First the status, then the rows: a run seen closed has all its rows.
        let status = run.status;
        next = show_rows(&id, next, context).await?;
        notes.look(&run, context.out);
        match status {
            RunStatus::Running | RunStatus::Paused => run = look_at(&id, POLL, context).await?,
            RunStatus::Continued => {
                let successor = look_at(&run.workflow_id, Duration::ZERO, context).await?;
                if successor.run_id == run.run_id {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                run = successor;
                id = run.run_id.to_string();
                next = Seq(0);
                context.out.note(&format!("goes on as {id}"));
            }
            _ => return Ok(run),
        }
    }
}

async fn show_rows(id: &str, from: Seq, context: &Context) -> CliResult<Seq> {
    let what = format!("follow {id}");
    let mut next = from;
    loop {
        let page = context.client.ledger(id, next, Some(PAGE_ROWS)).await;
        let page = page.map_err(|error| CliError::client(&what, error))?;
        let Some(last) = page.rows.last() else { return Ok(next) };
        next = Seq(last.seq.0 + 1);
        for row in &page.rows {
            context.out.note(&line(row));
        }
        if page.next_seq.is_none() {
            return Ok(next);
        }
    }
}

async fn look_at(id: &str, wait: Duration, context: &Context) -> CliResult<RunView> {
    let what = format!("wait for {id}");
    context.client.result(id, wait).await.map_err(|error| CliError::client(&what, error))
}

/// One row on one line.
fn line(row: &RowView) -> String {
    const PAYLOAD_BYTES_MAX: usize = 100;
    let op = row.op.map(|op| format!("op {op}")).unwrap_or_default();
    let name = row.name.as_deref().unwrap_or_default();
    let mut payload = said(row).replace(['\n', '\t'], " ");
    backstitch_core::printable::cut(&mut payload, PAYLOAD_BYTES_MAX);
    let words = format!("{:>4}  {}  {:<23}  {op:<6}  {name} {payload}", row.seq.0, row.at, row.kind);
    printable::line(words.trim_end()).into_owned()
}

/// The result on stdout, or how else the run ended on stderr and as the exit code.
pub(super) fn conclude(run: &RunView, out: Output) -> CliResult {
    if out.is_json() {
        out.document(run)?;
    } else if let Some(output) = &run.output {
        out.json(output.as_str())?;
    }
    verdict(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{Json, Op};

    #[test]
    fn a_row_is_one_printable_line() {
        let row = RowView {
            seq: Seq(12),
            kind: "activity-scheduled".into(),
            op: Some(Op(3)),
            name: Some("pay".into()),
            stored: None,
            payload: Some(Json::new("[\n1,\u{20}\"\u{9b}\"]").unwrap()),
            detail: None,
            attempt: None,
            at: "T".into(),
        };
        assert_eq!(line(&row), "  12  T  activity-scheduled       op 3    pay [ 1, \"\\u{9b}\"]");
    }
}
