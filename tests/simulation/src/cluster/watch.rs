//! What a scheduler may ask for, seen from outside in one term of a host: the order of things, and that each comes once.

use std::collections::{BTreeMap, BTreeSet};

use backstitch_core::{Event, Kind, Op, Row, RunId, Seq, TaskLease, TaskToken, limits};
use backstitch_ledger::{Append, Item, NewRun, NewTask, NewTimer, StatusChange};
use backstitch_scheduler::{Job, NewAttempt, PendingEvent, own_timers};

use super::checks::Broken;
use super::env::SimEnv;

/// What is known of one term.
pub(super) struct Watch {
    began_us: u64,
    /// Attempts that a host makes at a time.
    attempts_max: usize,
    /// Places of attempts that are taken.
    places: usize,
    /// Something was on trial.
    has_trials: bool,
    /// An attempt was on trial, which may have a place of its own.
    has_tried: bool,
    /// Attempts that have begun.
    attempted: BTreeSet<(RunId, Op, u32)>,
    /// Those that were aborted.
    aborted: BTreeSet<(RunId, Op, u32)>,
    /// Calls of which one has begun.
    begun: BTreeSet<(RunId, Op)>,
    /// Runs that it has paused and not resumed.
    paused: BTreeSet<RunId>,
    /// Messages that rows of this term have come from.
    consumed: BTreeSet<(RunId, uuid::Uuid)>,
    /// What is to happen when an append is committed.
    owed: BTreeMap<u64, Owed>,
    /// Runs of whose end it has told.
    told: BTreeSet<RunId>,
    /// Leases of tasks that are committed and that attempts leave to others.
    left: BTreeSet<TaskLease>,
    /// Leases of tasks that it has delivered.
    delivered: BTreeSet<TaskLease>,
    /// Calls whose commands are committed and whose first attempts are to be made here.
    queued: BTreeSet<(RunId, Op)>,
    /// Runs whose calls may wait no more since appends had an answer.
    given_up: BTreeSet<RunId>,
    /// Runs that were to begin anew from what was read of them.
    rewound: BTreeSet<RunId>,
    /// Runs whose guests were abandoned on their way: no other guest has had what they were given.
    behind: BTreeSet<RunId>,
}

/// What is to happen when an append is committed.
struct Owed {
    run: RunId,
    /// Its last row.
    last: Option<Seq>,
    closes: bool,
    /// Calls that are made here.
    calls: Vec<Op>,
    /// Tasks that it gives to workers who poll.
    reserved: Vec<TaskLease>,
    /// Tasks that attempts on this host leave to others.
    deferred: Vec<TaskLease>,
    /// Their calls.
    left: Vec<Op>,
}

impl Watch {
    pub(super) fn new(began_us: u64, attempts_max: usize) -> Self {
        Self {
            began_us,
            attempts_max,
            places: 0,
            has_trials: false,
            has_tried: false,
            attempted: BTreeSet::new(),
            aborted: BTreeSet::new(),
            begun: BTreeSet::new(),
            paused: BTreeSet::new(),
            consumed: BTreeSet::new(),
            owed: BTreeMap::new(),
            told: BTreeSet::new(),
            left: BTreeSet::new(),
            delivered: BTreeSet::new(),
            queued: BTreeSet::new(),
            given_up: BTreeSet::new(),
            rewound: BTreeSet::new(),
            behind: BTreeSet::new(),
        }
    }

    pub(super) fn frees(&mut self, places: usize) {
        self.places = self.places.saturating_sub(places);
    }

    /// An append goes to the writer.
    pub(super) fn sends(&mut self, Item { ticket, append }: &Item) -> Result<(), Broken> {
        let run = append.run;
        for row in &append.rows {
            if row.kind == Kind::RunPaused.tag() {
                self.paused.insert(run);
            } else if row.kind == Kind::RunResumed.tag() {
                self.paused.remove(&run);
            }
        }
        let is_led_no_more =
            matches!(append.status, Some(StatusChange::Close(_) | StatusChange::Park { .. }));
        if matches!(append.status, Some(StatusChange::Park { .. })) {
            // They are made once more when the run goes on.
            let aborted = self.aborted.extract_if(.., |(aborted, ..)| *aborted == run);
            aborted.for_each(|attempt| {
                self.attempted.remove(&attempt);
            });
        }
        if is_led_no_more || append.rows.iter().any(abandons) {
            // Which calls still wait is the run's affair.
            self.given_up.insert(run);
            self.queued.retain(|(queued, _)| *queued != run);
            self.owed.values_mut().filter(|owed| owed.run == run).for_each(|owed| owed.calls.clear());
        }
        self.owed.insert(*ticket, owed(append));
        append.new_runs.iter().try_for_each(|new| own_timers_are_set(new, append))?;
        let is_offered = append.tasks.iter().any(|task| task.taken.is_none());
        if is_offered && self.paused.contains(&run) {
            return Err(format!("a call of run {run} is offered, which is paused"));
        }
        if append.rows.is_empty() {
            return Ok(());
        }
        match append.inbox_done.iter().find(|item| !self.consumed.insert(**item)) {
            Some((run, item)) => Err(format!("message {item} has rows of run {run} come from it twice")),
            None => Ok(()),
        }
    }

    /// A guest is given outcomes. At most one is not committed, and then nothing before it is on its way.
    pub(super) fn activates(
        &mut self,
        job: &Job<SimEnv>,
        is_committed: impl Fn(RunId, Seq) -> bool,
    ) -> Result<(), Broken> {
        let (run, _) = job.key();
        let (Job::Begin { events, .. } | Job::Resume { events, .. }) = job;
        self.behind.remove(&run);
        if self.paused.contains(&run) {
            return Err(format!("the guest of run {run} goes on, which is paused"));
        }
        let is_ahead = |event: &&PendingEvent| !is_committed(run, event.seq);
        let ahead: Vec<Seq> = events.iter().filter(is_ahead).map(|event| event.seq).collect();
        let is_alone = match ahead[..] {
            [] => true,
            // All before it is committed; what came behind it since is nothing that the guest has.
            [seq] => seq.0.checked_sub(1).is_none_or(|before| is_committed(run, Seq(before))),
            _ => false,
        };
        match is_alone {
            true => Ok(()),
            false => {
                Err(format!("a guest of run {run} is given {ahead:?}, or has more that is not committed"))
            }
        }
    }

    /// An attempt begins.
    pub(super) fn attempts(&mut self, new: &NewAttempt, is_tried: bool) -> Result<(), Broken> {
        let (run, op) = (new.identity.run, new.op);
        self.places += 1;
        self.has_tried |= is_tried;
        if self.places > self.attempts_max + usize::from(self.has_tried) {
            return Err(format!("{} attempts have places, of {}", self.places, self.attempts_max));
        }
        if self.paused.contains(&run) {
            return Err(format!("an attempt of op {op} of run {run} begins, which is paused"));
        }
        self.queued.remove(&(run, op));
        self.begun.insert((run, op));
        let attempt = (run, op, new.attempt);
        let is_again = self.is_rewound(run) && self.aborted.remove(&attempt);
        match self.attempted.insert(attempt) || is_again {
            true => Ok(()),
            false => Err(format!("attempt {} of op {op} of run {run} begins twice", new.attempt)),
        }
    }

    /// Calls whose first attempts wait for their turn. None in a term with trials: calls may wait for those as well.
    pub(super) fn queued(&self) -> impl Iterator<Item = (RunId, Op)> {
        self.queued.iter().filter(|_| !self.has_trials).copied()
    }

    /// A run is about to be rewound: attempts that are aborted by that are made once more.
    pub(super) fn begins_anew(&mut self, run: RunId) {
        self.rewound.insert(run);
    }

    /// Whether that may have happened to a run.
    pub(super) fn is_rewound(&self, run: RunId) -> bool {
        self.rewound.contains(&run)
    }

    /// A guest was abandoned on its way.
    pub(super) fn falls_behind(&mut self, run: RunId) {
        self.behind.insert(run);
    }

    /// Runs that no other guest leads since, although nothing of them is on its way.
    pub(super) fn behind(&self) -> impl Iterator<Item = RunId> {
        self.behind.iter().copied().filter(|run| self.is_settled(*run))
    }

    /// Whether a run is paused, as far as its host knows.
    pub(super) fn is_paused(&self, run: RunId) -> bool {
        self.paused.contains(&run)
    }

    /// Whether nothing of a run is on its way to its ledger.
    pub(super) fn is_settled(&self, run: RunId) -> bool {
        self.owed.values().all(|owed| owed.run != run)
    }

    /// Whether the append is on its way that leaves a call to others.
    pub(super) fn is_left(&self, run: RunId, op: Op) -> bool {
        self.owed.values().any(|owed| owed.run == run && owed.left.contains(&op))
    }

    /// An attempt leaves its call to others: the same may be made again.
    pub(super) fn defers(&mut self, token: TaskToken) -> Result<(), Broken> {
        self.attempted.remove(&(token.run, token.op, token.attempt));
        match self.left.remove(&token.lease) {
            true => Ok(()),
            false => Err(format!("the token {token} is given away before its task is committed")),
        }
    }

    /// Nobody will read what an attempt gives.
    pub(super) fn aborts(&mut self, run: RunId, op: Op, attempt: u32) {
        self.aborted.insert((run, op, attempt));
    }

    pub(super) fn tells(&mut self, run: RunId) {
        self.told.insert(run);
    }

    pub(super) fn delivers(&mut self, lease: TaskLease) {
        self.delivered.insert(lease);
    }

    /// A trial is to begin.
    pub(super) fn tries(&mut self, now_us: u64) -> Result<(), Broken> {
        self.has_trials = true;
        match now_us >= self.began_us + limits::TRIALS_AFTER_MS * 1_000 {
            true => Ok(()),
            false => Err("a trial begins in a young term".to_owned()),
        }
    }

    /// These appends are about to have an answer.
    pub(super) fn answers(&mut self, tickets: &[u64]) -> Vec<Owes> {
        let owed: Vec<Owed> = tickets.iter().filter_map(|ticket| self.owed.remove(ticket)).collect();
        self.given_up.clear();
        self.left.extend(owed.iter().flat_map(|owed| &owed.deferred));
        owed.into_iter().map(Owes).collect()
    }

    /// They were committed, and the scheduler knows it. What it was to do is done.
    pub(super) fn committed(&mut self, Owes(owed): &Owes, refused: &[RunId]) -> Result<(), Broken> {
        let run = owed.run;
        if refused.contains(&run) {
            return Ok(());
        }
        if !self.paused.contains(&run) && !self.given_up.contains(&run) {
            let calls = owed.calls.iter().map(|op| (run, *op));
            self.queued.extend(calls.filter(|call| !self.begun.contains(call)));
        }
        if owed.closes && !self.told.contains(&run) {
            return Err(format!("run {run} has closed or was parked, and nobody hears of it"));
        }
        match owed.reserved.iter().find(|lease| !self.delivered.contains(lease)) {
            Some(lease) => Err(format!("a task of run {run} is not delivered under its lease {lease}")),
            None => Ok(()),
        }
    }
}

/// What an append was to bring that has an answer.
pub(super) struct Owes(Owed);

impl Owes {
    /// The run, and the last row that is committed.
    pub(super) fn upto(&self) -> (RunId, Option<Seq>) {
        (self.0.run, self.0.last)
    }
}

/// A run has the timers of its own from its start on.
fn own_timers_are_set(new: &NewRun, append: &Append) -> Result<(), Broken> {
    let Ok(Event::RunStarted { options, .. }) = new.first.event() else { return Ok(()) };
    let has = |timer: &NewTimer| {
        append.timers.iter().any(|set| (set.run, set.op, set.due_ms) == (timer.run, timer.op, timer.due_ms))
    };
    let own = own_timers(new.run, &options, new.first.at_ms, new.first.at_ms);
    match own.iter().find(|timer| !has(timer)) {
        Some(timer) => Err(format!("run {} starts without its timer of op {}", new.run, timer.op)),
        None => Ok(()),
    }
}

/// Whether a row may have calls wait no more that waited for their turn.
fn abandons(row: &Row) -> bool {
    let kinds = [Kind::OpCancelled, Kind::CancelRequested, Kind::RunPaused];
    row.kind >= Kind::RunCompleted.tag() || kinds.iter().any(|kind| kind.tag() == row.kind)
}

/// Whether a task is nobody's to take, and has no end of its own.
fn is_left(task: &NewTask) -> bool {
    task.taken.as_ref().is_some_and(|grant| grant.lease_ms.is_none())
}

fn owed(append: &Append) -> Owed {
    let scheduled = append.rows.iter().filter(|row| row.kind == Kind::ActivityScheduled.tag());
    let calls = scheduled.filter_map(|row| row.op);
    let is_over = append.rows.iter().any(abandons);
    let taken = append.tasks.iter().filter_map(|task| task.taken.as_ref());
    let (reserved, deferred): (Vec<_>, Vec<_>) = taken.partition(|grant| grant.lease_ms.is_some());
    let lease = |grants: Vec<&backstitch_core::task::LeaseGrant>| {
        grants.into_iter().map(|grant| grant.lease).collect()
    };
    Owed {
        run: append.run,
        last: append.rows.last().map(|row| row.seq),
        calls: calls.filter(|op| append.tasks.iter().all(|task| task.op != *op) && !is_over).collect(),
        closes: matches!(append.status, Some(StatusChange::Close(_) | StatusChange::Park { .. })),
        reserved: lease(reserved),
        deferred: lease(deferred),
        left: append.tasks.iter().filter(|task| is_left(task)).map(|task| task.op).collect(),
    }
}
