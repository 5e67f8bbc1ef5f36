//! What has to hold when everything has come to its end: of what hosts have in memory, and of what ledgers say.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use backstitch_core::{Event, Replay, Row, RunId, RunStatus, Seq, StartOptions, Status};

use super::checks::Broken;
use super::state::Cluster;
use super::worker::Answering;
use crate::script::{Guest, WORKFLOWS};

/// How much later than its deadline a run may have closed, in milliseconds.
const OVERDUE_MS: u64 = 60_000;

impl Cluster {
    /// Nothing is left in the memory of hosts, nor beside ledgers, of runs that have all closed.
    pub(super) fn is_at_rest(&self) -> Result<(), Broken> {
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(term) = &host.term else { continue };
            let figures = term.scheduler.figures();
            let left = [
                ("runs in memory", figures.runs_loaded as usize),
                ("warm guests", figures.runs_warm as usize),
                ("attempts in their places", figures.activities_running as usize),
                ("messages in hand", term.scheduler.in_hand().len()),
                ("runs that are absent", term.scheduler.absent().len()),
                ("batches under way", term.batches.len()),
                ("appends without an answer", term.tickets.len()),
                ("attempts under way", term.attempts.len()),
                ("reservations", Rc::strong_count(&term.shared) - 2),
                ("answers to give", self.unanswered(number, host.epoch)),
                ("updates under way", self.sent.waiting),
            ];
            if let Some((what, count)) = left.into_iter().find(|(_, count)| *count > 0) {
                return Err(format!("host {number} has {count} {what}, and all runs have closed"));
            }
        }
        match self.database.left_of_closed() {
            (0, 0, 0) => Ok(()),
            (messages, timers, tasks) => Err(format!(
                "{messages} messages, {timers} timers and {tasks} tasks of runs are left that have closed"
            )),
        }
    }

    /// How many wait for an answer of a host.
    fn unanswered(&self, host: usize, epoch: u64) -> usize {
        let waits = |answering: &&Answering| match answering {
            Answering::Start { asked, .. } | Answering::Settle { asked, .. } | Answering::Stop { asked } => {
                *asked == (host, epoch)
            }
            Answering::Defer => false,
        };
        self.answering.values().filter(waits).count()
    }

    /// Every run has come to an end that its workflow leads to, and what it left over has gone on.
    pub(super) fn expect_ends(&self) -> Result<(), Broken> {
        let mut runs = self.database.named_runs();
        runs.sort_by(|one, other| (&one.1, one.2).cmp(&(&other.1, other.2)));
        // By run: what those before it have heard that it goes on from.
        let mut heard_before: BTreeMap<RunId, BTreeSet<String>> = BTreeMap::new();
        let (mut heard, mut last_name) = (BTreeSet::new(), "");
        for (run, name, generation, status) in &runs {
            if std::mem::replace(&mut last_name, name) != name {
                heard.clear();
            }
            if self.database.is_closed_damaged(*run) {
                continue;
            }
            let rows = self.database.rows(*run, Seq(0), usize::MAX);
            if let Some(Ok(Event::RunStarted { options, .. })) = rows.first().map(Row::event)
                && let Some(forked) = &options.forked
            {
                heard = heard_before.get(&forked.run).cloned().unwrap_or_default();
            }
            heard_before.insert(*run, heard.clone());
            let unused = self.replayed(*run, *status, &rows)?;
            // What a run has left over comes to the next once more, and is new there.
            let is_left = |signal: &String| unused.as_ref().is_some_and(|unused| unused.contains(signal));
            for signal in signals(&rows).into_iter().filter(|signal| !is_left(signal)) {
                if !heard.insert(signal.clone()) {
                    return Err(format!("{name} has heard signal {signal} twice, in run {run} and before"));
                }
            }
            let Some(unused) = unused else { continue };
            if self.checks.has_lost_commits && self.sent.is_reset(name) {
                // The run that was reset may be there again, beside the one that goes on from it.
                continue;
            }
            let next = runs.iter().find(|(_, other, number, _)| other == name && *number == generation + 1);
            let Some((next, ..)) = next else {
                return Err(format!("run {run} ({name}) has continued as new, and nothing came after it"));
            };
            let first = self.database.rows(*next, Seq(1), unused.len());
            let passed_on = signals(&first);
            if passed_on != unused {
                return Err(format!("run {run} left {unused:?} over, and {passed_on:?} came to {next}"));
            }
        }
        Ok(())
    }

    /// Leads a guest along a ledger; which signals it left to the run that continues it.
    fn replayed(&self, id: RunId, status: RunStatus, rows: &[Row]) -> Result<Option<Vec<String>>, Broken> {
        let Some(Ok(Event::RunStarted { workflow, input, options })) = rows.first().map(Row::event) else {
            return Err(format!("run {id} has no start"));
        };
        is_in_time(id, &options, rows)?;
        if matches!(status, RunStatus::Terminated | RunStatus::TimedOut) {
            return Ok(None);
        }
        let place = WORKFLOWS.iter().position(|name| **name == *workflow);
        let Some(script) = place.map(|place| Arc::new(self.plan.scripts[place].clone())) else {
            return Err(format!("run {id} is of no workflow"));
        };
        let mut replay = Replay::new(id, rows[0].at_ms, &options);
        for row in &rows[1..] {
            let event = row.event().map_err(|error| format!("row {} of run {id}: {error}", row.seq))?;
            replay.enqueue(row.seq, row.at_ms, event);
        }
        let mut guest = Guest::new(script, replay, input);
        let done = guest.activate().map_err(|stopped| format!("run {id} cannot be replayed: {stopped}"))?;
        if !done.commands.is_empty() || done.status == Status::Blocked {
            return Err(format!("run {id} does not come to its end when it is replayed"));
        }
        let unused = guest.replay().unused_signals().into_iter();
        let unused = unused.filter_map(|signal| signal.id.map(|id| id.to_string())).collect();
        Ok((status == RunStatus::Continued).then_some(unused))
    }
}

fn is_in_time(id: RunId, options: &StartOptions, rows: &[Row]) -> Result<(), Broken> {
    let (Some((due_ms, _)), Some(last)) = (options.deadline(rows[0].at_ms), rows.last()) else {
        return Ok(());
    };
    match last.at_ms <= due_ms + OVERDUE_MS {
        true => Ok(()),
        false => Err(format!("run {id} has closed {} ms after its time", last.at_ms - due_ms)),
    }
}

/// The ids of the signals in these rows.
fn signals(rows: &[Row]) -> Vec<String> {
    let id = |row: &Row| match row.event() {
        Ok(Event::SignalReceived { id, .. }) => id.map(|id| id.to_string()),
        _ => None,
    };
    rows.iter().filter_map(id).collect()
}
