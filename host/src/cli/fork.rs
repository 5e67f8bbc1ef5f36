//! `backstitch run fork`, `run reset` and `run repair`: a run goes on from an earlier row.

use backstitch_client::views::StartedView;
use backstitch_client::{ForkRun, ResetRun};
use backstitch_core::Seq;

use super::context::Context;
use super::exit::{CliError, CliResult};

#[derive(Debug, clap::Args)]
pub(super) struct ForkArgs {
    run: String,
    /// The last row that the new run takes: see `run ledger`
    #[arg(long, value_name = "SEQ")]
    at_seq: u32,
    /// The new run's workflow id [default: made up]
    #[arg(long)]
    id: Option<String>,
    /// On the component that serves the workflow now, instead of the one that the run is pinned to
    #[arg(long)]
    deployed: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    run: String,
    /// The last row that is kept: see `run ledger`
    #[arg(long, value_name = "SEQ")]
    to_seq: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct RepairArgs {
    run: String,
    /// The last row that is kept [default: the last one before the damage]
    #[arg(long, value_name = "SEQ")]
    to_seq: Option<u32>,
    #[command(flatten)]
    how: How,
}

/// How a run goes on from an earlier row.
#[derive(Debug, clap::Args)]
struct How {
    /// Kept in the ledger of the run that is stopped
    #[arg(long, default_value = "")]
    reason: String,
    /// On the component that serves the workflow now, instead of the one that the run is pinned to
    #[arg(long)]
    deployed: bool,
    /// Forget the signals that came after the row, instead of sending them to the new run
    #[arg(long)]
    drop_signals: bool,
}

impl How {
    fn request(self, to_seq: Option<u32>) -> ResetRun {
        let Self { reason, deployed, drop_signals } = self;
        ResetRun { to_seq: to_seq.map(Seq), reason, deployed, drop_signals }
    }
}

pub(super) async fn fork(args: ForkArgs, context: &Context) -> CliResult {
    let ForkArgs { run, at_seq, id, deployed } = args;
    let fork = ForkRun { at_seq: Seq(at_seq), workflow_id: id, deployed };
    let begun = context.client.fork(&run, &fork).await;
    report(&begun.map_err(|error| CliError::client(&format!("fork {run}"), error))?, context)
}

pub(super) async fn reset(args: ResetArgs, context: &Context) -> CliResult {
    let ResetArgs { run, to_seq, how } = args;
    let begun = context.client.reset(&run, &how.request(Some(to_seq))).await;
    report(&begun.map_err(|error| CliError::client(&format!("reset {run}"), error))?, context)
}

pub(super) async fn repair(args: RepairArgs, context: &Context) -> CliResult {
    let RepairArgs { run, to_seq, how } = args;
    let begun = context.client.repair(&run, &how.request(to_seq)).await;
    report(&begun.map_err(|error| CliError::client(&format!("repair {run}"), error))?, context)
}

fn report(begun: &StartedView, context: &Context) -> CliResult {
    context.out.answer(begun, || begun.run.run_id.to_string())?;
    context.out.note("a host takes the new run up within a second");
    Ok(())
}
