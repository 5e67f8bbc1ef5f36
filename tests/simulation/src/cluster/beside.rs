//! What has to stand beside a ledger whenever a statement is committed: an append is atomic, so nothing that follows from
//! its rows may be missing, nor be there without them.

use std::collections::BTreeMap;

use backstitch_core::run::OpenOp;
use backstitch_core::{Command, Event, Kind, Op, ParentClose, Row, Run, RunId, Seq};
use backstitch_ledger::{Awaited, ChildState};
use backstitch_scheduler::{START_OP, awaited, timers_of};

use super::checks::Broken;
use crate::model::Database;

/// How far clocks may be from each other, in milliseconds.
const CLOCKS_MS: u64 = 5_000;

/// A sleep, as the timers table calls it.
const SLEEP: i16 = 1;

/// What each ledger says, as far as it was looked at.
#[derive(Default)]
pub(super) struct Beside {
    seen: BTreeMap<RunId, Run>,
    /// A failover may have brought back a task of an attempt that was then made elsewhere: it goes when its lease is over.
    pub(super) has_lost_commits: bool,
}

impl Beside {
    /// What the ledger of a run says, as far as it was looked at.
    pub(super) fn run(&self, id: RunId) -> Option<&Run> {
        self.seen.get(&id)
    }

    /// Something of a run may have been committed.
    pub(super) fn committed(&mut self, id: RunId, database: &Database, now_ms: u64) -> Result<(), Broken> {
        let known = self.seen.remove(&id).filter(|run| database.has_row(id, run.next_seq(), run.chain()));
        let mut run = known.unwrap_or_else(|| Run::new(id));
        for row in database.rows(id, run.next_seq(), usize::MAX) {
            others_are_told(&run, &row, database)?;
            run.load(&row).map_err(|corrupt| format!("the ledger of run {id}: {corrupt}"))?;
        }
        if run.status().is_none() || database.is_closed_damaged(id) {
            // Its start was refused; or it was closed without a row.
            return Ok(());
        }
        timers(&run, database, now_ms)?;
        if !self.has_lost_commits {
            tasks(&run, database)?;
        }
        children(&run, database)?;
        self.seen.insert(id, run);
        Ok(())
    }
}

/// Every sleep has a timer, and every timer of a sleep somebody who waits for it. (The timer of a retry may still be there
/// when its host dies; what it brings then is nothing.)
fn timers(run: &Run, database: &Database, now_ms: u64) -> Result<(), Broken> {
    let id = run.id();
    let there: BTreeMap<Op, (u64, i16)> = database.timers_there(id);
    if !run.is_open() {
        return match there.is_empty() {
            true => Ok(()),
            false => Err(format!("run {id} is closed and has timers: {there:?}")),
        };
    }
    // The timers of retries go when they fire, which may be early by some host's clock; that of a delayed start as well.
    let stays = |op: Op, due_ms: u64| match run.open_op(op) {
        Some(OpenOp::Timer { .. }) => true,
        Some(_) => due_ms > now_ms + CLOCKS_MS,
        None => op != START_OP,
    };
    for timer in timers_of(run, run.started_at_ms()) {
        if stays(timer.op, timer.due_ms)
            && there.get(&timer.op).is_none_or(|(due_ms, _)| *due_ms != timer.due_ms)
        {
            return Err(format!("run {id} has no timer of op {} for {}", timer.op, timer.due_ms));
        }
    }
    let is_over = |op: Op, purpose: i16| purpose == SLEEP && run.open_op(op).is_none();
    match there.iter().find(|(op, (_, purpose))| is_over(**op, *purpose)) {
        Some((op, _)) => Err(format!("run {id} has a timer of op {op}, which is no sleep any more")),
        None => Ok(()),
    }
}

/// Every task is of a call that is open, and of its next attempt.
fn tasks(run: &Run, database: &Database) -> Result<(), Broken> {
    let id = run.id();
    for (op, attempt) in database.tasks_to_do(id) {
        let is_next = matches!(
            run.open_op(op),
            Some(OpenOp::Activity { attempts, .. }) if attempts + 1 == attempt
        );
        if !is_next {
            return Err(format!(
                "run {id} has a task for attempt {attempt} of op {op}, which waits for none"
            ));
        }
    }
    Ok(())
}

/// A child that has closed has left a message.
fn children(run: &Run, database: &Database) -> Result<(), Broken> {
    let waits: Vec<Awaited> = awaited(run).collect();
    if waits.is_empty() {
        return Ok(());
    }
    for (Awaited { parent, op, child }, state) in database.untold_children(&waits) {
        if matches!(state, ChildState::Untold { .. }) {
            return Err(format!("child {child} of op {op} of run {parent} has closed and left no message"));
        }
    }
    Ok(())
}

/// What a row has others do was said to them by the same append. `run` is what it was before the row.
fn others_are_told(run: &Run, row: &Row, database: &Database) -> Result<(), Broken> {
    let Ok(event) = row.event() else { return Ok(()) };
    let told = match &event {
        Event::CancelRequested { .. } => {
            run.children_to_cancel().into_iter().map(|child| (child, ParentClose::RequestCancel)).collect()
        }
        Event::Commanded { command: Command::Cancel { target }, .. } => match run.open_op(*target) {
            Some(OpenOp::Child { run: child, .. }) => vec![(*child, ParentClose::RequestCancel)],
            _ => Vec::new(),
        },
        event if event.kind().tag() >= Kind::RunCompleted.tag() => run.children_to_stop(),
        _ => Vec::new(),
    };
    for (child, how) in told {
        if !has_heard(child, how, database) {
            return Err(format!("child {child} was not told what row {} of run {} means", row.seq, run.id()));
        }
    }
    Ok(())
}

/// Whether a child was asked to stop, or has to be asked no more.
fn has_heard(child: RunId, how: ParentClose, database: &Database) -> bool {
    if database.status_of(child).is_none_or(|status| !status.is_open()) {
        return true;
    }
    let asked = |row: &Row| row.kind == Kind::CancelRequested.tag();
    let is_asked = how == ParentClose::RequestCancel;
    (is_asked && database.rows(child, Seq(0), usize::MAX).iter().any(asked))
        || database.has_request(child, is_asked)
}
