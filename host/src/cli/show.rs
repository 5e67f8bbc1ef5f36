//! What several commands say of a run and of its rows.

use std::borrow::Cow;

use backstitch_client::views::{RowView, RunView};
use backstitch_core::RunStatus;

use super::exit::{CliError, CliResult, Exit};

/// What there is to show of a row on one line.
pub(super) fn said(row: &RowView) -> Cow<'_, str> {
    match (row.stored, row.payload.as_ref().or(row.detail.as_ref())) {
        (Some(stored), _) => {
            format!("({} bytes: backstitch run payload RUN {})", stored.bytes, row.seq).into()
        }
        (None, Some(json)) => json.as_str().into(),
        (None, None) => "-".into(),
    }
}

/// What a run that has ended, or is parked, means for the exit code.
pub(super) fn verdict(run: &RunView) -> CliResult {
    let id = &run.workflow_id;
    let because = |exit, what: &str, why: String| {
        let code = run.status.as_str();
        Err(CliError::new(exit, code, format!("{id} {what}")).because(why))
    };
    let failure = || run.failure.as_ref().map_or_else(|| "no reason is recorded".into(), ToString::to_string);
    match run.status {
        RunStatus::Completed | RunStatus::Continued => Ok(()),
        RunStatus::Running | RunStatus::Paused => {
            let what = format!("{id} is still {}", run.status.as_str());
            Err(CliError::new(Exit::StillRunning, "still-running", what))
        }
        RunStatus::Failed => because(Exit::RunClosed, "failed", failure()),
        RunStatus::Cancelled => because(Exit::RunClosed, "was cancelled", failure()),
        RunStatus::Terminated => because(Exit::RunClosed, "was terminated", failure()),
        RunStatus::TimedOut => because(Exit::RunClosed, "timed out", failure()),
        RunStatus::Parked => {
            let fault = run.fault.as_ref().map_or_else(|| "no fault is recorded".into(), ToString::to_string);
            because(Exit::RunParked, "is parked", fault).map_err(|error| {
                error.hint(format!(
                    "look with `backstitch run show {0}`, then let it go on with `backstitch run retry {0}`",
                    run.run_id
                ))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{Digest, Failure, Fault, FaultKind, RunId};

    fn view(status: RunStatus) -> RunView {
        RunView {
            run_id: RunId(uuid::Uuid::nil()),
            workflow_id: "order-1".into(),
            generation: 0,
            workflow: "order".into(),
            digest: Digest([0; 32]),
            status,
            parent_run_id: None,
            started_at: "2026-01-01T00:00:00.000Z".into(),
            closed_at: None,
            attributes: None,
            output: None,
            failure: Some(Failure::cancelled()),
            fault: Some(Fault::new(FaultKind::Panic, "boom \x1b[2J")),
        }
    }

    #[test]
    fn how_a_run_ended_is_the_exit_code() {
        let exit = |status| verdict(&view(status)).err().map(|error| error.exit);
        assert_eq!(exit(RunStatus::Completed), None);
        assert_eq!(exit(RunStatus::Failed), Some(Exit::RunClosed));
        assert_eq!(exit(RunStatus::Cancelled), Some(Exit::RunClosed));
        assert_eq!(exit(RunStatus::Terminated), Some(Exit::RunClosed));
        assert_eq!(exit(RunStatus::Parked), Some(Exit::RunParked));
        assert_eq!(exit(RunStatus::Paused), Some(Exit::StillRunning));
    }

    #[test]
    fn a_guests_message_cannot_write_to_the_terminal() {
        let error = verdict(&view(RunStatus::Parked)).unwrap_err();
        assert_eq!(error.why.as_deref(), Some("panic: boom \\u{1b}[2J"));
    }
}
