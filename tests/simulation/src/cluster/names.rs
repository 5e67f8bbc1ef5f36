//! What inputs are called, and whose they are: for the log and for coverage.

use backstitch_core::{Kind, Row, RunId};
use backstitch_ledger::StatusChange;
use backstitch_scheduler::{Action, ActivationError, Input, Loaded, Wake};

use super::env::SimEnv;

/// The input's name, and the runs that it is about.
pub(super) fn name(input: &Input<SimEnv>) -> (&'static str, Vec<RunId>) {
    match input {
        Input::Start(start) => ("start", vec![start.identity.run]),
        Input::Acknowledged(_) => ("acknowledged", Vec::new()),
        Input::Activated(activated) => {
            let name = match &activated.result {
                Ok(_) => "activated",
                Err(ActivationError::Fault(_)) => "faulted",
                Err(ActivationError::Abandoned) => "abandoned",
                Err(ActivationError::NoRoom(_)) => "no-room",
            };
            (name, vec![activated.run])
        }
        Input::AttemptEnded { run, .. } => ("attempt-ended", vec![*run]),
        Input::PlacesFree(_) => ("places-free", Vec::new()),
        Input::Defer(deferring) => ("defer", vec![deferring.run]),
        Input::Settle(settle) => ("settle", vec![settle.token.run]),
        Input::Leased(tokens) => ("leased", tokens.iter().map(|token| token.run).collect()),
        Input::Lacking(runs) => ("lacking", runs.iter().map(|(run, _)| *run).collect()),
        Input::Found { from, .. } => ("found", vec![from.0]),
        Input::Posted { from, .. } => ("posted", vec![from.0]),
        Input::Loaded(loaded) => (loaded_as(loaded), vec![loaded.run]),
        Input::Timers(due, _) => ("timers", due.iter().map(|timer| timer.run).collect()),
        Input::Inbox(items, _) => ("inbox", items.iter().map(|item| item.run).collect()),
        Input::Unreadable(_) => ("unreadable", Vec::new()),
        Input::Claimed(runs, _) => ("claimed", runs.iter().map(|run| run.run).collect()),
        Input::Reconnected => ("reconnected", Vec::new()),
        Input::Lost(runs) => ("lost", runs.iter().map(|(run, _)| *run).collect()),
        Input::Reappeared(items) => ("reappeared", items.iter().map(|(run, _)| *run).collect()),
        Input::TrialBegun(trial, _) => ("trial-begun", vec![trial.run]),
        Input::TrialEnded(trial, _) => ("trial-ended", vec![trial.run]),
        Input::Woken(Wake::TrialMayBegin(trial) | Wake::TrialIsGone(trial)) => {
            ("woken-trial", vec![trial.run])
        }
        Input::Woken(Wake::TrialOutlived(_)) => ("woken-outlived", Vec::new()),
        Input::Woken(Wake::NoteProgress) => ("woken-progress", Vec::new()),
        Input::Woken(Wake::PostAgain((run, _), _)) => ("woken-post", vec![*run]),
        Input::ShortOfMemory => ("short-of-memory", Vec::new()),
        Input::Tick => ("tick", Vec::new()),
        Input::Drain(_) => ("drain", Vec::new()),
    }
}

fn loaded_as(loaded: &Loaded<SimEnv>) -> &'static str {
    match &loaded.result {
        None => "loaded-nothing",
        Some(loaded) if loaded.ledger.is_err() => "loaded-damaged",
        Some(loaded) if loaded.program.is_err() => "loaded-without-program",
        Some(loaded) if loaded.parked => "loaded-parked",
        Some(_) => "loaded",
    }
}

/// What an action is, for the log.
pub(super) fn action(action: &Action<SimEnv>) -> String {
    match action {
        Action::Append(item) => {
            let rows: Vec<String> =
                item.append.rows.iter().map(|row| format!("{} {}", row.seq, kind(row))).collect();
            let status = match &item.append.status {
                None => "",
                Some(StatusChange::Close(_)) => " (closes)",
                Some(StatusChange::Park { .. }) => " (parks)",
                Some(StatusChange::Pause) => " (pauses)",
                Some(StatusChange::Run) => " (runs)",
            };
            format!(
                "append {} of {}{status}: {:?}, starts {}, sends {}, consumes {}, tasks {}, timers {}-{}",
                item.ticket,
                item.append.run,
                rows,
                item.append.new_runs.len(),
                item.append.inbox.len(),
                item.append.inbox_done.len(),
                item.append.tasks.len(),
                item.append.timers.len(),
                item.append.timers_done.len()
            )
        }
        Action::Activate(job) => format!("activate {} ({})", job.key().0, job.key().1.0),
        Action::AbandonActivation(run, activation) => format!("abandon {run} ({})", activation.0),
        Action::StartAttempt(new) => {
            format!("attempt {} of op {} of {}", new.attempt, new.op, new.identity.run)
        }
        Action::StopAttempt(run, op, how) => format!("stop op {op} of {run}: {how:?}"),
        Action::Deliver(_, attempt) => format!("deliver {}", attempt.token),
        Action::Offered(_, name) => format!("offered {name}"),
        Action::Served => "served".to_owned(),
        Action::Started(_, started) => format!("started {started:?}"),
        Action::Settled(_, settlement) => format!("settled {settlement:?}"),
        Action::Deferred(_, token) => format!("deferred {token}"),
        Action::Read { run, number, .. } => format!("read {run} ({number})"),
        Action::ReadClaimed(runs, _) => format!("{} claimed runs are read", runs.len()),
        Action::ReadToClose { run, number } => format!("read {run} to close ({number})"),
        Action::FindRun { workflow_id, .. } => format!("find {workflow_id}"),
        Action::FindSuccessor { of, .. } => format!("find the successor of {of}"),
        Action::Post { item, .. } => format!("post {} to {}", item.item_id, item.run),
        Action::CompareHeads(heads) => format!("compare {} heads", heads.len()),
        Action::CompareConsumed(items) => format!("compare {} consumed", items.len()),
        Action::NoteLoss(_, loss) => format!("note the loss of {}", loss.run),
        Action::BeginTrial(trial) => format!("begin {trial:?}"),
        Action::EndTrial(trial, went_on) => format!("end {trial:?}, went on: {went_on}"),
        Action::NoteProgress(replayed, went_on) => {
            format!("note {} replayed, {} went on", replayed.len(), went_on.len())
        }
        Action::Wake(after, wake) => format!("wake in {after:?}: {wake:?}"),
        Action::ReadInbox => "look into the inbox".to_owned(),
        Action::TimerDue(due_ms) => format!("timer due at {due_ms}"),
        Action::Closed(run) => format!("closed {run}"),
        Action::Drained(_) => "drained".to_owned(),
    }
}

/// Which run an action is about, if it is about one.
pub(super) fn run_of(action: &Action<SimEnv>) -> Option<RunId> {
    match action {
        Action::Append(item) => Some(item.append.run),
        Action::Activate(job) => Some(job.key().0),
        Action::StartAttempt(new) => Some(new.identity.run),
        Action::Deliver(_, attempt) => Some(attempt.identity.run),
        Action::Read { run, .. } | Action::Closed(run) => Some(*run),
        _ => None,
    }
}

/// What a row says, in a word.
pub(super) fn kind(row: &Row) -> String {
    let kind = Kind::from_tag(row.kind).map_or_else(|| row.kind.to_string(), |kind| format!("{kind:?}"));
    row.op.map_or_else(|| kind.clone(), |op| format!("{kind}({op})"))
}
