//! `backstitch activity …`: calls that are answered from outside. RUN is a run id or a workflow id.

use backstitch_client::ClientError;
use backstitch_client::tasks::{ActivityView, ListActivities, TaskFailure};
use backstitch_core::Op;
use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult};
use super::input;
use super::output::{cell, foreign, optional};
use super::pages::pages;

#[derive(Debug, Subcommand)]
pub(super) enum ActivityCommand {
    /// List calls that wait for a worker, that one has, or that are answered later
    List(ListArgs),
    /// Give a call its outcome, whoever is at it: the word of a person, or of whoever knows better
    Complete {
        run: String,
        /// The call's number, as `activity list` and `run show` have it
        op: u32,
        /// What the workflow gets: JSON text, @FILE or - for stdin [default: null]
        output: Option<String>,
    },
    /// Fail the attempt of a call that is next or under way, whoever is at it
    Fail {
        run: String,
        /// The call's number, as `activity list` and `run show` have it
        op: u32,
        /// For the workflow to match on
        #[arg(long, default_value = "application")]
        code: String,
        /// For people
        #[arg(long, default_value = "")]
        message: String,
        /// Make no other attempt, whatever the call's policy says
        #[arg(long = "final")]
        is_final: bool,
    },
    /// Make the next attempt of a call now that waits for its time
    Retry {
        run: String,
        /// The call's number, as `run show` has it
        op: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only calls of this run
    run: Option<String>,
    /// Only calls on this task queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50, conflicts_with = "all", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// Calls of one request when many are wanted.
const PAGE_ROWS: u32 = 200;

pub(super) async fn activity(command: ActivityCommand, context: &Context) -> CliResult {
    let client = &context.client;
    match command {
        ActivityCommand::List(args) => list(args, context).await,
        ActivityCommand::Complete { run, op, output } => {
            let output = input::json(output.as_deref())?;
            let told = client.complete_activity(&run, Op(op), &output).await;
            told.map_err(failed("complete", &run, op))?;
            context.out.note("the run will go on with it");
            Ok(())
        }
        ActivityCommand::Fail { run, op, code, message, is_final } => {
            let failure = TaskFailure { code, message, retryable: !is_final, ..TaskFailure::default() };
            let told = client.fail_activity(&run, Op(op), &failure).await;
            told.map_err(failed("fail", &run, op))?;
            context.out.note("the attempt will be failed");
            Ok(())
        }
        ActivityCommand::Retry { run, op } => {
            let told = client.retry_activity(&run, Op(op)).await;
            told.map_err(failed("retry", &run, op))?;
            context.out.note("the next attempt will be made now");
            Ok(())
        }
    }
}

fn failed(verb: &str, run: &str, op: u32) -> impl FnOnce(ClientError) -> CliError {
    let what = format!("{verb} op {op} of the run {run}");
    move |error| CliError::client(&what, error)
}

async fn list(args: ListArgs, context: &Context) -> CliResult {
    let ListArgs { run, queue: task_queue, limit, all } = args;
    let limit = (!all).then_some(limit);
    let (activities, cursor) = pages(limit, PAGE_ROWS, context.out, async |limit, cursor| {
        let limit = Some(limit);
        let page = ListActivities { task_queue: task_queue.clone(), run: run.clone(), limit, cursor };
        let page = context.client.activities(&page).await;
        let page = page.map_err(|error| CliError::client("list activities", error))?;
        Ok((page.activities, page.next_cursor))
    })
    .await?;
    context.out.answer(&json!({ "activities": activities, "next_cursor": cursor }), || {
        let row = |view: &ActivityView| {
            [
                foreign(&view.workflow_id),
                cell(view.op),
                foreign(&view.name),
                foreign(&view.task_queue),
                cell(view.attempt),
                cell(&view.state),
                optional(view.worker.as_ref()),
                cell(&view.offered_at),
                optional(view.leased_until.as_ref()),
            ]
        };
        let titles =
            ["RUN", "OP", "ACTIVITY", "QUEUE", "ATTEMPT", "STATE", "WORKER", "OFFERED", "LEASED UNTIL"];
        context.out.table(titles, activities.iter().map(row).collect())
    })
}
