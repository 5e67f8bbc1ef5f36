//! `backstitch run …`: inspect and steer runs. RUN is a run id or a workflow id.

use std::time::Duration;

use backstitch_client::views::{RowView, RunDetailView, RunView, StatusCountView, UpdateView, WaitView};
use backstitch_client::{ClientError, CountRuns, ListRuns, SendUpdate};
use backstitch_core::{RunStatus, Seq, printable};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::export::{self, ExportArgs, PayloadArgs};
use super::follow;
use super::fork::{self, ForkArgs, RepairArgs, ResetArgs};
use super::input;
use super::output::{Output, cell, foreign, optional, status};
use super::pages::pages;
use super::show::said;
use super::start::{self, StartArgs};
use super::tree;
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    /// Start a run, or one for each line of a file
    Start(StartArgs),
    /// List runs, newest first
    List(ListArgs),
    /// Count runs by their status
    Count(Search),
    /// Show a run and what it waits for
    Show { run: String },
    /// Show a run's ledger
    Ledger(LedgerArgs),
    /// Print the payload of a ledger's row, whatever its size
    Payload(PayloadArgs),
    /// Wait for a run to close and print its result
    Result(ResultArgs),
    /// Send a signal to a run
    Signal {
        run: String,
        /// The signal's name
        name: String,
        /// JSON text, @FILE or - for stdin [default: null]
        payload: Option<String>,
        /// What you call it: a second signal of the same id is dropped
        #[arg(long)]
        id: Option<String>,
    },
    /// Ask a run about its state, closed or not, without a trace in its ledger
    Query {
        run: String,
        /// The query's name
        name: String,
        /// JSON text, @FILE or - for stdin [default: null]
        input: Option<String>,
    },
    /// Ask a run to do something, and wait for its answer
    Update {
        run: String,
        /// The update's name
        name: String,
        /// JSON text, @FILE or - for stdin [default: null]
        input: Option<String>,
        /// What you call it: a second update of the same id is the same one [default: made up]
        #[arg(long)]
        id: Option<String>,
        /// How long to wait for the answer, such as 10s
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = config::parse_duration)]
        timeout: Duration,
    },
    /// Write a run as one document, for an audit or `backstitch replay --history`
    Export(ExportArgs),
    /// Ask a run to cancel; it may clean up first
    Cancel {
        run: String,
        /// Kept in the ledger
        #[arg(long, default_value = "")]
        reason: String,
        /// What you call it: a second request of the same id is dropped
        #[arg(long)]
        id: Option<String>,
    },
    /// Stop a run without asking it
    Terminate {
        run: String,
        /// Kept in the ledger
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Hold a run: no timer fires and no attempt begins until it is resumed
    Pause {
        run: String,
        /// Kept in the ledger
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a paused run go on
    Resume {
        run: String,
        /// Kept in the ledger
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a parked run go on
    Retry { run: String },
    /// Start a new run with the first rows of another's ledger
    Fork(ForkArgs),
    /// Stop a run and let a new one of its workflow id go on from an earlier row
    Reset(ResetArgs),
    /// Let a new run go on from the sound rows of one whose ledger is damaged
    Repair(RepairArgs),
    /// Show a run and the runs below it
    Tree { run: String },
}

/// Which runs are meant: those that meet all of it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Search {
    /// Only runs of this status
    #[arg(long, value_parser = parse_status)]
    status: Option<RunStatus>,
    /// Only runs of this workflow
    #[arg(long)]
    workflow: Option<String>,
    /// Only runs that meet this, such as 'status = "running" and attributes.customer = "acme"'
    ///
    /// Fields: status, workflow, workflow_id, run_id, parent, started, closed, attributes.NAME.
    /// Compare them with = != < <= > >= or in (…), and join that with and, or, not and parentheses.
    /// Values: "text", numbers, true, false, time("2026-01-31T12:00:00Z"); started and closed take
    /// a time as a text too.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    search: Search,
    /// At most this many
    #[arg(long, default_value_t = 50, conflicts_with = "all", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LedgerArgs {
    run: String,
    /// The first row
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    from: u32,
    /// At most this many rows [default: all]
    #[arg(long)]
    limit: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResultArgs {
    run: String,
    /// Wait no longer than this, such as 30s or 5m [default: for ever]
    #[arg(long, value_parser = config::parse_duration)]
    timeout: Option<Duration>,
}

/// Rows of one request when many are wanted.
const PAGE_ROWS: u32 = 500;

pub(super) async fn run(command: RunCommand, context: &Context) -> CliResult {
    let client = &context.client;
    let told = |what: String, answer: Result<(), ClientError>, done: &str| {
        answer.map_err(|error| CliError::client(&what, error))?;
        context.out.note(done);
        Ok(())
    };
    match command {
        RunCommand::Start(args) => start::start(args, context).await,
        RunCommand::List(args) => list(args, context).await,
        RunCommand::Count(search) => count(search, context).await,
        RunCommand::Show { run } => show(&run, context).await,
        RunCommand::Ledger(args) => ledger(&args, context).await,
        RunCommand::Payload(args) => export::payload(&args, context).await,
        RunCommand::Result(args) => {
            let run = follow::wait(&args.run, args.timeout, context).await?;
            follow::conclude(&run, context.out)
        }
        RunCommand::Signal { run, name, payload, id } => {
            let payload = input::json(payload.as_deref())?;
            let answer = client.signal_once(&run, &name, &payload, id).await;
            told(format!("signal {run}"), answer, "the signal is kept and will be delivered")
        }
        RunCommand::Update { run, name, input, id, timeout } => {
            let input = input::json(input.as_deref())?;
            update(&run, SendUpdate { name, input, id, wait: timeout }, context).await
        }
        RunCommand::Query { run, name, input } => query(&run, &name, input.as_deref(), context).await,
        RunCommand::Export(args) => export::export(&args, context).await,
        RunCommand::Cancel { run, reason, id } => {
            let answer = client.cancel_once(&run, &reason, id).await;
            told(format!("cancel {run}"), answer, "the run has been asked to cancel")
        }
        RunCommand::Terminate { run, reason } => {
            let answer = client.terminate(&run, &reason).await;
            told(format!("terminate {run}"), answer, "the run will be stopped")
        }
        RunCommand::Pause { run, reason } => {
            let answer = client.pause(&run, &reason).await;
            told(format!("pause {run}"), answer, "the run will be held until it is resumed")
        }
        RunCommand::Resume { run, reason } => {
            let answer = client.resume(&run, &reason).await;
            told(format!("resume {run}"), answer, "the run goes on")
        }
        RunCommand::Fork(args) => fork::fork(args, context).await,
        RunCommand::Reset(args) => fork::reset(args, context).await,
        RunCommand::Repair(args) => fork::repair(args, context).await,
        RunCommand::Tree { run } => tree::tree(&run, context).await,
        RunCommand::Retry { run } => {
            let answer = client.retry(&run).await;
            told(format!("retry {run}"), answer, "the run goes on")
        }
    }
}

async fn query(id: &str, name: &str, input: Option<&str>, context: &Context) -> CliResult {
    let input = input::json(input)?;
    let answer = context
        .client
        .query(id, name, &input)
        .await
        .map_err(|error| CliError::client(&format!("query {id}"), error))?;
    if context.out.is_json() {
        context.out.document(&answer)
    } else {
        context.out.json(answer.output.as_str())
    }
}

async fn update(run: &str, update: SendUpdate, context: &Context) -> CliResult {
    let what = format!("update {run}");
    let view = context.client.update(run, update).await.map_err(|error| CliError::client(&what, error))?;
    let UpdateView { update_id, output, failure, answered, .. } = &view;
    if context.out.is_json() {
        context.out.document(&view)?;
    } else if let Some(output) = output {
        context.out.json(output.as_str())?;
    }
    match failure {
        Some(failure) => {
            let why = failure.to_string();
            let what = format!("the update {update_id} failed");
            Err(CliError::new(Exit::RunClosed, "update-failed", what).because(why))
        }
        None if !answered => {
            let hint = format!("repeat the command with --id {update_id}");
            let what = format!("the update {update_id} is not answered yet");
            Err(CliError::new(Exit::StillRunning, "not-answered", what).hint(hint))
        }
        None => Ok(()),
    }
}

async fn list(args: ListArgs, context: &Context) -> CliResult {
    let ListArgs { search, limit, all } = args;
    let limit = (!all).then_some(limit);
    let (runs, cursor) = pages(limit, PAGE_ROWS, context.out, async |limit, cursor| {
        let Search { status, workflow, condition } = search.clone();
        let page = ListRuns { status, workflow, condition, limit: Some(limit), cursor };
        let page = context.client.list(page).await.map_err(|error| CliError::client("list runs", error))?;
        Ok((page.runs, page.next_cursor))
    })
    .await?;
    context.out.answer(&json!({ "runs": runs, "next_cursor": cursor }), || {
        let row = |run: &RunView| {
            [
                cell(run.run_id),
                foreign(&run.workflow_id),
                foreign(&run.workflow),
                status(run.status),
                cell(&run.started_at),
                optional(run.closed_at.as_ref()),
            ]
        };
        let titles = ["RUN", "WORKFLOW ID", "WORKFLOW", "STATUS", "STARTED", "CLOSED"];
        context.out.table(titles, runs.iter().map(row).collect())
    })
}

async fn count(search: Search, context: &Context) -> CliResult {
    let Search { status: wanted, workflow, condition } = search;
    let counted = context.client.count(CountRuns { status: wanted, workflow, condition }).await;
    let counted = counted.map_err(|error| CliError::client("count runs", error))?;
    context.out.answer(&counted, || {
        let of = |count: &StatusCountView| [status(count.status), cell(count.runs)];
        let rows = counted.by_status.iter().map(of).chain([[cell("all"), cell(counted.runs)]]);
        context.out.table(["STATUS", "RUNS"], rows.collect())
    })
}

async fn show(id: &str, context: &Context) -> CliResult {
    let what = format!("show {id}");
    let run = context.client.run(id).await.map_err(|error| CliError::client(&what, error))?;
    context.out.answer(&run, || detail(&run, context.out))
}

fn detail(detail: &RunDetailView, out: Output) -> String {
    let RunDetailView { run, input, rows, waits_for, signals_kept, start, entity, damage } = detail;
    let mut fields = vec![
        [cell("run"), cell(run.run_id)],
        [cell("workflow id"), foreign(&run.workflow_id)],
        [cell("workflow"), foreign(&run.workflow)],
        [cell("component"), cell(run.digest)],
        [cell("status"), status(run.status)],
        [cell("started"), cell(&run.started_at)],
    ];
    if run.generation > 0 {
        fields.push([cell("generation"), cell(run.generation)]);
    }
    let ours = [
        ("closed", run.closed_at.clone()),
        ("parent", run.parent_run_id.map(|parent| parent.to_string())),
        ("rows", Some(rows.to_string())),
        ("signals kept", (*signals_kept > 0).then(|| signals_kept.to_string())),
    ];
    fields.extend(ours.into_iter().filter_map(|(name, text)| Some([cell(name), cell(text?)])));
    let theirs = [
        ("input", input.as_ref().map(ToString::to_string)),
        ("start", start.as_ref().map(ToString::to_string)),
        ("attributes", run.attributes.as_ref().map(ToString::to_string)),
        ("entity", entity.as_ref().map(ToString::to_string)),
        ("output", run.output.as_ref().map(ToString::to_string)),
        ("failure", run.failure.as_ref().map(ToString::to_string)),
        ("fault", run.fault.as_ref().map(ToString::to_string)),
        ("damage", damage.clone()),
    ];
    fields.extend(theirs.into_iter().filter_map(|(name, text)| Some([cell(name), foreign(&text?)])));
    let mut text = out.table(["FIELD", "VALUE"], fields);
    if !waits_for.is_empty() {
        let row = |wait: &WaitView| {
            [cell(wait.op), cell(&wait.kind), foreign(&wait.what), optional(wait.due_at.as_ref())]
        };
        let waits = out.table(["OP", "WAITS FOR", "WHAT", "DUE"], waits_for.iter().map(row).collect());
        text = format!("{text}\n\n{waits}");
    }
    if let Some(frames) = run.fault.as_ref().and_then(|fault| fault.backtrace.as_deref()) {
        text = format!("{text}\n\n{}", printable::lines(frames.trim_end()));
    }
    text
}

async fn ledger(args: &LedgerArgs, context: &Context) -> CliResult {
    let rows = fetch_ledger(&args.run, args.from, args.limit, context).await?;
    context.out.answer(&Rows { rows: &rows }, || ledger_table(&rows, context.out))
}

/// The document of `run ledger`. Not a `serde_json::Value`, which keeps neither the bytes of a payload
/// nor one that is nested as deeply as a payload may be.
#[derive(Serialize)]
struct Rows<'a> {
    rows: &'a [RowView],
}

/// Every row from `from` on, page by page, at most `limit` of them.
async fn fetch_ledger(id: &str, from: u32, limit: Option<u32>, context: &Context) -> CliResult<Vec<RowView>> {
    let what = format!("read the ledger of {id}");
    let mut left = limit.unwrap_or(u32::MAX);
    let mut next = Some(Seq(from));
    let mut rows = Vec::new();
    while let Some(seq) = next.filter(|_| left > 0) {
        let page = context.client.ledger(id, seq, Some(PAGE_ROWS.min(left))).await;
        let page = page.map_err(|error| CliError::client(&what, error))?;
        left = left.saturating_sub(u32::try_from(page.rows.len()).unwrap_or(u32::MAX));
        // A page that is empty and claims a next one would be asked for again for ever.
        next = page.next_seq.filter(|_| !page.rows.is_empty());
        rows.extend(page.rows);
    }
    Ok(rows)
}

fn ledger_table(rows: &[RowView], out: Output) -> String {
    let row = |row: &RowView| {
        [
            cell(row.seq),
            cell(&row.at),
            cell(&row.kind),
            optional(row.op),
            optional(row.attempt),
            foreign(row.name.as_deref().unwrap_or("-")),
            foreign(&said(row)),
        ]
    };
    out.table(["SEQ", "AT", "KIND", "OP", "ATTEMPT", "NAME", "PAYLOAD"], rows.iter().map(row).collect())
}

fn parse_status(text: &str) -> Result<RunStatus, String> {
    let status = RunStatus::ALL.into_iter().find(|status| status.as_str() == text);
    status.ok_or_else(|| {
        let all = RunStatus::ALL.map(RunStatus::as_str).join(", ");
        format!("there is no such status; one of {all}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{Json, Op};

    #[test]
    fn a_ledger_is_a_table_of_one_line_a_row() {
        let rows = [RowView {
            seq: Seq(3),
            kind: "activity-completed".into(),
            op: Some(Op(0)),
            name: None,
            stored: None,
            payload: Some(Json::new("{\"a\":\n1}").unwrap()),
            detail: None,
            attempt: Some(2),
            at: "2026-01-01T00:00:00.000Z".into(),
        }];
        let table = ledger_table(&rows, Output::plain());
        let last = table.lines().last().unwrap();
        assert_eq!(table.lines().count(), 2);
        assert_eq!(last, "3    2026-01-01T00:00:00.000Z  activity-completed  0   2        -     {\"a\": 1}");
    }
}
