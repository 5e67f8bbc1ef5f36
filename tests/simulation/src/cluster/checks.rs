//! What has to hold in a cluster, at every step and at the end.

use std::collections::{BTreeMap, BTreeSet};

use backstitch_core::{
    ActivityOptions, Command, Event, Op, Row, Run, RunId, RunStatus, Seq, StartOptions, TaskToken, limits,
};
use backstitch_ledger::{Append, NewRun};
use backstitch_scheduler::ActivationId;

use crate::model::Database;

/// What a cluster remembers in order to know whether it did right.
#[derive(Default)]
pub(super) struct Checks {
    /// The database may lack what was committed: then a promise about what is there is void.
    pub(super) has_lost_commits: bool,
    /// How far each ledger was ever committed.
    committed: BTreeMap<RunId, Seq>,
    /// Where the row of each command is.
    commands: BTreeMap<(RunId, Op), Seq>,
    /// The last outcome that the guest had when it gave the command.
    given: BTreeMap<(RunId, Op), Seq>,
    /// The last outcome of each activation that is under way.
    activations: BTreeMap<(RunId, ActivationId), Seq>,
    /// Starts that a client was told of.
    started: BTreeSet<RunId>,
    /// Answers that a worker was told of.
    settled: BTreeSet<(RunId, Op)>,
    /// Ids of signals that a client was told of, and which run took each.
    signals: BTreeMap<String, RunId>,
    /// Activations of each host.
    ids: BTreeSet<(usize, ActivationId)>,
    /// The priority of each run.
    priorities: BTreeMap<RunId, u8>,
}

/// Something does not hold.
pub(super) type Broken = String;

impl Checks {
    /// An append goes to the writer.
    pub(super) fn sent(&mut self, append: &Append) {
        append.new_runs.iter().for_each(|new| self.begun(new));
        for row in &append.rows {
            if let Ok(Event::Commanded { op, .. }) = row.event() {
                self.commands.insert((append.run, op), row.seq);
            }
        }
    }

    /// A run is to begin.
    pub(super) fn begun(&mut self, new: &NewRun) {
        if let Ok(Event::RunStarted { options, .. }) = new.first.event() {
            self.priorities.insert(new.run, options.priority());
        }
    }

    /// Rows of a run are committed up to where its ledger ends now.
    pub(super) fn committed(&mut self, run: RunId, database: &Database) {
        if let Some(head) = database.head(run) {
            let known = self.committed.entry(run).or_default();
            *known = (*known).max(head.seq);
        }
    }

    pub(super) fn priority(&self, run: RunId) -> u8 {
        self.priorities.get(&run).copied().unwrap_or(StartOptions::PRIORITY_DEFAULT)
    }

    pub(super) fn is_committed(&self, run: RunId, seq: Seq) -> bool {
        self.committed.get(&run).is_some_and(|committed| *committed >= seq)
    }

    /// A guest is given outcomes up to this one.
    pub(super) fn activates(
        &mut self,
        host: usize,
        run: RunId,
        activation: ActivationId,
        last: Option<Seq>,
    ) -> Result<(), Broken> {
        self.activations.insert((run, activation), last.unwrap_or_default());
        match self.ids.insert((host, activation)) {
            true => Ok(()),
            false => Err(format!("host {host} has an activation {} already", activation.0)),
        }
    }

    /// There was no room for it: the same may go once more.
    pub(super) fn comes_back(&mut self, host: usize, activation: ActivationId) {
        self.ids.remove(&(host, activation));
    }

    /// It came back with these commands.
    pub(super) fn activated(&mut self, run: RunId, activation: ActivationId, ops: impl Iterator<Item = Op>) {
        let Some(given) = self.activations.remove(&(run, activation)) else { return };
        self.given.extend(ops.map(|op| ((run, op), given)));
    }

    /// A command has an effect outside: it has to be committed.
    pub(super) fn takes_effect(&self, run: RunId, op: Op, what: &str) -> Result<(), Broken> {
        let Some(seq) = self.commands.get(&(run, op)) else { return Ok(()) };
        match self.is_committed(run, *seq) {
            true => Ok(()),
            false => Err(format!("{what} of op {op} of run {run} before its row {seq} was committed")),
        }
    }

    /// An attempt begins on a host: what its guest knew has to be committed, and its call must have no outcome, unless that
    /// is of another host which has the run by now.
    pub(super) fn attempts(&self, run: RunId, op: Op, database: &Database, owns: bool) -> Result<(), Broken> {
        if let Some(given) = self.given.get(&(run, op))
            && !self.is_committed(run, *given)
        {
            return Err(format!("an attempt of op {op} of run {run} before row {given} was committed"));
        }
        if owns && has_outcome(&database.rows(run, Seq(0), usize::MAX), op) {
            return Err(format!("an attempt of op {op} of run {run}, which has an outcome"));
        }
        Ok(())
    }

    /// A client hears that its run was started.
    pub(super) fn started(&mut self, run: RunId) -> Result<(), Broken> {
        self.started.insert(run);
        match self.is_committed(run, Seq(0)) {
            true => Ok(()),
            false => Err(format!("the start of run {run} was acknowledged before it was committed")),
        }
    }

    /// A worker hears that its answer is taken.
    pub(super) fn settled(&mut self, token: TaskToken, database: &Database) -> Result<(), Broken> {
        self.settled.insert((token.run, token.op));
        let is_there = has_outcome(&database.rows(token.run, Seq(0), usize::MAX), token.op);
        match is_there || self.has_lost_commits {
            true => Ok(()),
            false => Err(format!("the answer {token} was acknowledged, and is not in the ledger")),
        }
    }

    /// A client hears that its signal is taken.
    pub(super) fn signalled(&mut self, id: String, run: RunId) {
        self.signals.insert(id, run);
    }

    /// What has to hold of all ledgers, whenever nothing is under way.
    pub(super) fn all(&self, database: &Database, is_over: bool) -> Result<(), Broken> {
        let runs = database.runs();
        for (id, status) in &runs {
            if database.is_closed_damaged(*id) {
                // A ledger that could not be read has no row of its end.
                continue;
            }
            let rows = database.rows(*id, Seq(0), usize::MAX);
            self.ledger(*id, *status, &rows, database, is_over)?;
        }
        if self.has_lost_commits || !is_over {
            return Ok(());
        }
        for run in &self.started {
            if !runs.contains_key(run) {
                return Err(format!("run {run} was acknowledged and is gone"));
            }
        }
        for (run, op) in &self.settled {
            if !has_outcome(&database.rows(*run, Seq(0), usize::MAX), *op) {
                return Err(format!("the outcome of op {op} of run {run} was acknowledged and is gone"));
            }
        }
        Ok(())
    }

    fn ledger(
        &self,
        id: RunId,
        status: RunStatus,
        rows: &[Row],
        database: &Database,
        is_over: bool,
    ) -> Result<(), Broken> {
        let folded = Run::load_closed(id, rows, database.end(id));
        let (run, events) = folded.map_err(|corrupt| format!("the ledger of run {id}: {corrupt}"))?;
        if !status.is_open() && run.status() != Some(status) || run.is_open() != status.is_open() {
            return Err(format!("run {id} is {status:?}, and its ledger says {:?}", run.status()));
        }
        if is_over && status.is_open() {
            return Err(format!("run {id} is {status:?} at the end, with {} rows: it is stuck", rows.len()));
        }
        said_once(id, &events)?;
        attempts_allowed(id, &events)
    }

    /// What has to hold of the signals that were taken: one that a run has not heard is there, or its run has ended.
    pub(super) fn messages(&self, database: &Database) -> Result<(), Broken> {
        if self.has_lost_commits {
            return Ok(());
        }
        for (id, run) in &self.signals {
            let is_closed = database.runs().get(run).is_none_or(|status| !status.is_open());
            let rows = database.rows(*run, Seq(0), usize::MAX);
            let is_heard = rows.iter().any(|row| {
                matches!(row.event(), Ok(Event::SignalReceived { id: Some(heard), .. }) if *heard == **id)
            });
            if !is_closed && !is_heard && !database.has_signal(*run, id) {
                return Err(format!("signal {id} was taken for run {run} and is gone"));
            }
        }
        Ok(())
    }
}

/// A run hears of everything once that may be said twice.
fn said_once(id: RunId, events: &[Event]) -> Result<(), Broken> {
    let mut heard = BTreeSet::new();
    for event in events {
        match event {
            Event::SignalReceived { id: Some(signal), .. } if !heard.insert((true, signal)) => {
                return Err(format!("run {id} has heard signal {signal} twice"));
            }
            Event::SignalReceived { id: None, name, .. } => {
                return Err(format!("run {id} has heard a signal {name} without an id"));
            }
            Event::CancelRequested { id: Some(cancel), .. } if !heard.insert((false, cancel)) => {
                return Err(format!("run {id} was asked to cancel twice by {cancel}"));
            }
            Event::MessageClosed { op, outcome: Err(failure) }
                if failure.message.contains(RunStatus::Continued.as_str()) =>
            {
                return Err(format!("the message of op {op} of run {id} was refused: {}", failure.message));
            }
            _ => {}
        }
    }
    Ok(())
}

/// No call has more attempts than its policy allows, nor after its time.
fn attempts_allowed(id: RunId, events: &[Event]) -> Result<(), Broken> {
    let mut calls: BTreeMap<Op, &ActivityOptions> = BTreeMap::new();
    for event in events {
        match event {
            Event::Commanded { op, command: Command::ScheduleActivity { options, .. } } => {
                calls.insert(*op, options);
            }
            Event::AttemptFailed { op, attempt, .. } => {
                let policy = calls.get(op).and_then(|options| options.retry.clone()).unwrap_or_default();
                if policy.maximum_attempts > 0 && *attempt >= policy.maximum_attempts {
                    return Err(format!("attempt {attempt} of op {op} of run {id} was not the last"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a call has an outcome.
fn has_outcome(rows: &[Row], op: Op) -> bool {
    rows.iter().any(|row| matches!(row.event(), Ok(Event::ActivityClosed { op: closed, .. }) if closed == op))
}

/// What a host may have in memory.
pub(super) fn bounded(warm: u64, warm_max: u64, in_hand: usize) -> Result<(), Broken> {
    if warm > warm_max {
        return Err(format!("{warm} warm guests where {warm_max} are allowed"));
    }
    let most = limits::INBOX_ITEMS_MAX as usize * 8;
    if in_hand > most {
        return Err(format!("{in_hand} messages are in hand, more than {most}"));
    }
    Ok(())
}
