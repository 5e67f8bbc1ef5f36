//! `backstitch replay`: the same question as "may I deploy this?", "why is it parked?" and "is the
//! ledger sound?". Exit code 0 means that every command was repeated.

use std::path::{Path, PathBuf};

use backstitch_client::views::{ReplayVerdict, ReplayView};
use backstitch_core::printable;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::input;
use super::output::Output;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Run id or workflow id
    #[arg(required_unless_present = "history")]
    pub(super) run: Option<String>,
    /// Another component than the one the run is pinned to: would it have done the same?
    #[arg(long, value_name = "FILE.wasm")]
    pub(super) component: Option<PathBuf>,
    /// What `backstitch run export` wrote, instead of a run: needs neither host nor database
    #[arg(long, value_name = "FILE.json", requires = "component", conflicts_with = "run")]
    pub(super) history: Option<PathBuf>,
}

pub(super) async fn replay(run: &str, component: Option<&Path>, context: &Context) -> CliResult {
    let component = component.map(input::component).transpose()?;
    let replayed = context.client.replay(run, component).await;
    let replayed = replayed.map_err(|error| CliError::client(&format!("replay {run}"), error))?;
    conclude(&replayed, context.out)
}

/// Says what came out, and ends with it.
pub(super) fn conclude(replayed: &ReplayView, out: Output) -> CliResult {
    out.answer(replayed, || text(replayed))?;
    match replayed.verdict {
        ReplayVerdict::Identical => Ok(()),
        ReplayVerdict::Diverged { .. } => Err(CliError::silent(Exit::Diverged)),
        ReplayVerdict::Faulted { .. } => Err(CliError::silent(Exit::Faulted)),
    }
}

fn text(replayed: &ReplayView) -> String {
    let ReplayView { digest, rows, commands, fuel, verdict, .. } = replayed;
    let (headline, backtrace) = match verdict {
        ReplayVerdict::Identical => ("identical".to_owned(), None),
        ReplayVerdict::Diverged { divergence } => {
            let row = divergence.seq.map(|seq| format!(", row {seq}")).unwrap_or_default();
            let headline = format!(
                "diverged at op {}{row}\n  ledger: {}\n  guest:  {}",
                divergence.op,
                printable::lines(&divergence.ledger),
                printable::lines(&divergence.guest)
            );
            (headline, divergence.backtrace.as_deref())
        }
        ReplayVerdict::Faulted { fault } => {
            let headline = format!("faulted ({}): {}", fault.kind, printable::lines(&fault.message));
            (headline, fault.backtrace.as_deref())
        }
    };
    let backtrace =
        backtrace.map(|frames| format!("\n{}", printable::lines(frames.trim_end()))).unwrap_or_default();
    let short = digest.short();
    format!("{headline}{backtrace}\n{rows} rows, {commands} commands, {fuel} fuel, component {short}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{Digest, Divergence, Op, RunId, Seq};

    #[test]
    fn a_divergence_shows_both_sides() {
        let divergence = Divergence {
            op: Op(2),
            seq: Some(Seq(5)),
            ledger: "activity pay(1)".into(),
            guest: "activity refund(1)".into(),
            backtrace: Some("order::run\n".into()),
        };
        let run_id = RunId(uuid::Uuid::nil());
        let verdict = ReplayVerdict::Diverged { divergence };
        let replayed = ReplayView { run_id, digest: Digest([0; 32]), rows: 9, commands: 2, fuel: 7, verdict };
        assert_eq!(
            text(&replayed),
            "diverged at op 2, row 5\n  ledger: activity pay(1)\n  guest:  activity refund(1)\norder::run\n\
             9 rows, 2 commands, 7 fuel, component 000000000000"
        );
    }
}
