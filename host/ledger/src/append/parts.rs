//! What one run's step changes, part by part, and what becomes of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstitch_core::inbox::MessageRow;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Attribute, AttributeChanges, Chain, Digest, Op, Row, RunId, RunStatus, Scope, Seq};
use uuid::Uuid;

use crate::payloads::Stored;

/// Where a ledger ends: its last row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The row's place.
    pub seq: Seq,
    /// The row's checksum.
    pub chain: Chain,
}

impl Head {
    /// The end of a ledger whose last row is this one.
    pub fn at(row: &Row) -> Self {
        Self { seq: row.seq, chain: row.chain }
    }
}

/// Everything that one step of one run changes, committed together or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where the run lives.
    pub scope: Scope,
    /// The run.
    pub run: RunId,
    /// Where the ledger of `run` ends, as far as the sender knows: nothing is written if that row is not there. None:
    /// the append starts the run, or has no rows and changes nothing that depends on them.
    pub after: Option<Head>,
    /// New ledger rows of the run, in order.
    pub rows: Vec<Row>,
    /// Runs that start: children, the next generation, or, for a start from outside, `run` itself.
    pub new_runs: Vec<NewRun>,
    /// What becomes of `run`.
    pub status: Option<StatusChange>,
    /// Timers to set; one that exists under the same run and op is replaced.
    pub timers: Vec<NewTimer>,
    /// Timers to remove, before those of `timers` are set. A close removes all of the run's.
    pub timers_done: Vec<(RunId, Op)>,
    /// Messages to other runs. An append that sends any must have rows: they are what tells whether
    /// it was committed, when the connection breaks, so that no message is sent twice.
    pub inbox: Vec<NewItem>,
    /// Messages that were consumed.
    pub inbox_done: Vec<(RunId, Uuid)>,
    /// What is known from now on about `run`, or about runs that start.
    pub projections: Vec<NewProjection>,
    /// Calls of `run` that workers outside may take. An older attempt of the same call is replaced.
    pub tasks: Vec<NewTask>,
    /// Calls of `run` whose attempt has ended: their tasks are removed.
    pub tasks_done: Vec<Op>,
    /// Calls that `run` waits for no more: their tasks are not handed out, and their workers are told.
    pub tasks_given_up: Vec<Op>,
    /// Payloads that leave their rows. Filled by the writer, which brings all the others into their stored form.
    pub stored: Vec<Stored>,
}

impl Append {
    /// An append to `run` that changes nothing yet.
    pub fn new(scope: Scope, run: RunId) -> Self {
        Self {
            scope,
            run,
            after: None,
            rows: Vec::new(),
            new_runs: Vec::new(),
            status: None,
            timers: Vec::new(),
            timers_done: Vec::new(),
            inbox: Vec::new(),
            inbox_done: Vec::new(),
            projections: Vec::new(),
            tasks: Vec::new(),
            tasks_done: Vec::new(),
            tasks_given_up: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// The start of a run from outside.
    pub fn start(scope: Scope, new_run: NewRun) -> Self {
        Self { new_runs: vec![new_run.clone()], ..Self::new(scope, new_run.run) }
    }

    /// Whether it starts this run.
    pub fn starts(&self, run: RunId) -> bool {
        self.new_runs.iter().any(|new| new.run == run)
    }

    /// Where the ledger of `run` ends with this append; none if the append does not say.
    pub fn head(&self) -> Option<Head> {
        let start = self.new_runs.iter().find(|new| new.run == self.run).map(NewRun::last);
        self.rows.last().or(start).map(Head::at).or(self.after)
    }

    /// Whether its rows follow a row that it names, or the start that it brings. One that is not linked could leave a
    /// gap: the writer refuses it.
    pub fn is_linked(&self) -> bool {
        let Some(first) = self.rows.first() else { return true };
        match self.after {
            Some(head) => first.seq.0 == head.seq.0 + 1,
            None => self.starts(self.run) && first.seq == Seq(1),
        }
    }

    /// Whether [`join`](Self::join) may add `next`. What follows a start must be such that nothing of it is written if
    /// the start is refused: rows, timers to set, tasks to offer, and what is known of the run, if the start says
    /// nothing of that.
    pub fn may_join(&self, next: &Self) -> bool {
        let Self {
            new_runs,
            status,
            timers_done,
            inbox,
            inbox_done,
            projections,
            tasks_done,
            tasks_given_up,
            ..
        } = next;
        let is_plain = new_runs.is_empty()
            && status.is_none()
            && timers_done.is_empty()
            && inbox.is_empty()
            && inbox_done.is_empty()
            && (projections.is_empty() || self.projections.is_empty())
            && tasks_done.is_empty()
            && tasks_given_up.is_empty();
        is_plain || !self.starts(self.run)
    }

    /// Adds what follows in the same run, to be committed with it, if it [may](Self::may_join). Neither changes the
    /// run's status after the other, and neither speaks of a timer, a message or a task that the other speaks of.
    pub fn join(&mut self, next: Self) {
        debug_assert!(self.may_join(&next));
        let Self {
            scope: _,
            run: _,
            // What `self` ends with.
            after: _,
            rows,
            new_runs,
            status,
            timers,
            timers_done,
            inbox,
            inbox_done,
            projections,
            tasks,
            tasks_done,
            tasks_given_up,
            stored,
        } = next;
        self.rows.extend(rows);
        self.new_runs.extend(new_runs);
        self.status = self.status.take().or(status);
        self.timers.extend(timers);
        self.timers_done.extend(timers_done);
        self.inbox.extend(inbox);
        self.inbox_done.extend(inbox_done);
        self.projections.extend(projections);
        self.tasks.extend(tasks);
        self.tasks_done.extend(tasks_done);
        self.tasks_given_up.extend(tasks_given_up);
        self.stored.extend(stored);
    }

    /// Bytes that the append carries.
    pub fn text_bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(Row::text_bytes).sum();
        let starts: usize = self.new_runs.iter().flat_map(NewRun::rows).map(Row::text_bytes).sum();
        let items: usize = self.inbox.iter().map(|item| message_bytes(&item.message)).sum();
        let closing = match &self.status {
            Some(StatusChange::Close(close)) => text_len(&close.output) + text_len(&close.error),
            Some(StatusChange::Park { fault }) => fault.len(),
            Some(StatusChange::Pause | StatusChange::Run) | None => 0,
        };
        let projections: usize = self.projections.iter().map(NewProjection::text_bytes).sum();
        let tasks: usize = self.tasks.iter().map(NewTask::text_bytes).sum();
        let stored: usize = self.stored.iter().map(Stored::bytes).sum();
        rows + starts + items + closing + projections + tasks + stored
    }
}

fn text_len(text: &Option<Arc<str>>) -> usize {
    text.as_ref().map_or(0, |text| text.len())
}

fn message_bytes(message: &MessageRow) -> usize {
    text_len(&message.name) + text_len(&message.payload) + text_len(&message.detail)
}

/// A run to be started. It belongs to the writing host from its first moment.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its identity.
    pub run: RunId,
    /// What the user calls it. Taken at most once in each generation.
    pub workflow_id: Arc<str>,
    /// 0, or one more than the run that continues as this one.
    pub generation: u32,
    /// Which workflow of the component.
    pub workflow: Arc<str>,
    /// The component.
    pub digest: Digest,
    /// Who started it, with which command.
    pub parent: Option<(RunId, Op)>,
    /// Row 0 of its ledger.
    pub first: Row,
    /// What it begins with besides: the signals that the run before it had not used.
    pub further: Vec<Row>,
}

impl NewRun {
    /// All of its rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// The last of them.
    fn last(&self) -> &Row {
        self.further.last().unwrap_or(&self.first)
    }
}

/// What is known about a run besides its ledger.
#[derive(Clone, Debug)]
pub struct NewProjection {
    /// The run.
    pub run: RunId,
    /// All of its entity, as JSON text; none: as it was.
    pub entity: Option<Arc<str>>,
    /// Attributes that change.
    pub attributes: AttributeChanges,
}

impl NewProjection {
    /// Nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.entity.is_none() && self.attributes.is_empty()
    }

    fn text_bytes(&self) -> usize {
        let bytes = |(name, value): (&Arc<str>, &Option<Attribute>)| match value {
            Some(Attribute::Text(text)) => name.len() + text.len(),
            _ => name.len(),
        };
        text_len(&self.entity) + self.attributes.iter().map(bytes).sum::<usize>()
    }
}

/// What becomes of a run.
#[derive(Clone, Debug)]
pub enum StatusChange {
    /// It closes for good.
    Close(Close),
    /// It stops until an operator acts.
    Park {
        /// The fault, as JSON text.
        fault: Arc<str>,
    },
    /// An operator holds it.
    Pause,
    /// It goes on after either.
    Run,
}

/// How a run closed.
#[derive(Clone, Debug)]
pub struct Close {
    /// A closed status.
    pub status: RunStatus,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Its result, as JSON text.
    pub output: Option<Arc<str>>,
    /// Its failure, as JSON text.
    pub error: Option<Arc<str>>,
    /// How many rows its ledger has.
    pub rows: Seq,
    /// The checksum of the last one.
    pub chain: Chain,
}

/// A timer to be set.
#[derive(Clone, Copy, Debug)]
pub struct NewTimer {
    /// The run that it belongs to.
    pub run: RunId,
    /// The op that it belongs to; with the run, its key.
    pub op: Op,
    /// When it fires, in milliseconds since the epoch.
    pub due_ms: u64,
    /// What for. The host's own numbers.
    pub purpose: i16,
}

/// A call that workers outside may take. Its input is in the ledger already.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The call.
    pub op: Op,
    /// The row of the call.
    pub seq: Seq,
    /// Which attempt, 1 for the first.
    pub attempt: u32,
    /// Which workers may take it.
    pub task_queue: Arc<str>,
    /// The activity.
    pub name: Arc<str>,
    /// 1 is handed out first, 5 last.
    pub priority: u8,
    /// When the call fails if nobody has taken it, in milliseconds since the epoch.
    pub start_by_ms: Option<u64>,
    /// When the call fails whatever its worker does, in milliseconds since the epoch.
    pub close_by_ms: Option<u64>,
    /// Bound on one attempt, in milliseconds; of one that somebody has already, on what is left of it.
    pub attempt_ms: Option<u64>,
    /// Longest time between two heartbeats of its worker, in milliseconds.
    pub heartbeat_timeout_ms: Option<u64>,
    /// What the last heartbeat of the attempts before said, as JSON text.
    pub heartbeat: Option<Arc<str>>,
    /// Who has it already: a worker that waits for it, or whoever gets its token from the attempt that holds
    /// it. None: it waits for a worker.
    pub taken: Option<LeaseGrant>,
}

impl NewTask {
    fn text_bytes(&self) -> usize {
        self.task_queue.len() + self.name.len() + text_len(&self.heartbeat)
    }
}

/// A message to another run.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// The reader.
    pub run: RunId,
    /// UUID v7. A message under an id that exists is the same message.
    pub item_id: Uuid,
    /// When it was sent, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The message.
    pub message: MessageRow,
}

/// An append on its way to the writer.
#[derive(Clone, Debug)]
pub struct Item {
    /// The sender's own number; it comes back in [`Acks`].
    pub ticket: u64,
    /// What to commit.
    pub append: Append,
}

/// What became of some items.
#[derive(Clone, Debug)]
pub struct Acks {
    /// Which.
    pub tickets: Vec<u64>,
    /// What.
    pub outcome: Outcome,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Committed {
        /// New runs that were not started because their workflow id (or run id) is taken. Everything
        /// else of their appends is durable.
        refused: Vec<RunId>,
    },
    /// The lease is gone: nothing more will be written. Drop every run; their next owners read what is there.
    Fenced,
    /// This append can never be committed, and was not. The run must be read again before more is
    /// appended to it.
    Poisoned {
        /// Why.
        kind: PoisonKind,
        /// What the database said, for the operator.
        message: String,
    },
}

/// Why an append can never be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoisonKind {
    /// Another row has one of its places: someone else wrote this run, or the sender's state is old.
    SeqTaken,
    /// The database refuses its data.
    BadData,
    /// An earlier append of the run was poisoned, or its start refused: this one would leave a gap.
    Gap,
    /// The row that it follows is not in the ledger: the database has lost commits, or someone else writes this run.
    Behind,
}

/// The keys that a batch has spoken about: which appends go into one statement.
#[derive(Debug, Default)]
pub struct Batch {
    /// Those that it appends to.
    runs: HashSet<RunId>,
    new_runs: HashSet<RunId>,
    statuses: HashSet<RunId>,
    timers: HashSet<(RunId, Op)>,
    timer_runs: HashSet<RunId>,
    items: HashSet<Uuid>,
    projections: HashSet<RunId>,
    tasks: HashSet<(RunId, Op)>,
    /// Where the ledgers end that the batch goes on from, or adds to.
    heads: HashMap<RunId, Head>,
    bytes: usize,
}

impl Batch {
    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.new_runs.clear();
        self.statuses.clear();
        self.timers.clear();
        self.timer_runs.clear();
        self.items.clear();
        self.projections.clear();
        self.tasks.clear();
        self.heads.clear();
        self.bytes = 0;
    }

    /// Whether `append` may go into the same statement as those before it; if so, it is counted in.
    ///
    /// It may not if the statement would grow beyond `bytes_max`, or if it touches a run, status,
    /// timer, task or message that one before it has made or changed.
    pub fn fits(&mut self, append: &Append, bytes_max: usize) -> bool {
        let bytes = self.bytes + append.text_bytes();
        let full = self.bytes > 0 && bytes > bytes_max;
        if full || self.collides(append) || !self.is_followed_by(append) {
            return false;
        }
        self.bytes = bytes;
        self.runs.insert(append.run);
        self.heads.extend(append.new_runs.iter().map(|new| (new.run, Head::at(new.last()))));
        self.heads.extend(append.head().map(|head| (append.run, head)));
        self.new_runs.extend(append.new_runs.iter().map(|new| new.run));
        if append.status.is_some() {
            self.statuses.insert(append.run);
        }
        self.timers.extend(append.timers.iter().map(|timer| (timer.run, timer.op)));
        self.timer_runs.extend(append.timers.iter().map(|timer| timer.run));
        self.timers.extend(&append.timers_done);
        self.items.extend(append.inbox.iter().map(|item| item.item_id));
        self.projections.extend(append.projections.iter().map(|projection| projection.run));
        self.tasks.extend(tasks_of(append));
        true
    }

    /// Whether `append` goes on where the batch ends, if the batch has something of its run. Only the database knows
    /// whether one that goes on from elsewhere can be written.
    fn is_followed_by(&self, append: &Append) -> bool {
        match (self.heads.get(&append.run), append.after) {
            (Some(end), Some(after)) => *end == after,
            (None, _) | (_, None) => true,
        }
    }

    fn collides(&self, append: &Append) -> bool {
        let closes = matches!(append.status, Some(StatusChange::Close(_)));
        self.new_runs.contains(&append.run)
            // A start that is refused, for the run is there: what the run itself appends must not go with it.
            || append.new_runs.iter().any(|new| self.new_runs.contains(&new.run) || self.runs.contains(&new.run))
            || (append.status.is_some() && self.statuses.contains(&append.run))
            || append.timers.iter().any(|timer| self.timers.contains(&(timer.run, timer.op)))
            || append.timers_done.iter().any(|key| self.timers.contains(key))
            || (closes && self.timer_runs.contains(&append.run))
            || append.inbox_done.iter().any(|(_, item)| self.items.contains(item))
            || append.projections.iter().any(|projection| self.projections.contains(&projection.run))
            || tasks_of(append).any(|key| self.tasks.contains(&key))
    }
}

/// Every task that an append says something about.
fn tasks_of(append: &Append) -> impl Iterator<Item = (RunId, Op)> + '_ {
    let ops =
        append.tasks.iter().map(|task| &task.op).chain(&append.tasks_done).chain(&append.tasks_given_up);
    ops.map(|op| (append.run, *op))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(run: u128) -> Append {
        Append::new(Scope::DEFAULT, RunId(Uuid::from_u128(run)))
    }

    fn setting(run: u128, op: u32) -> Append {
        let timer = NewTimer { run: RunId(Uuid::from_u128(run)), op: Op(op), due_ms: 0, purpose: 0 };
        Append { timers: vec![timer], ..append(run) }
    }

    #[test]
    fn a_batch_has_one_word_about_each_timer() {
        let mut batch = Batch::default();
        assert!(batch.fits(&setting(1, 1), 100));
        assert!(batch.fits(&setting(1, 2), 100) && batch.fits(&setting(2, 1), 100));
        assert!(!batch.fits(&setting(1, 1), 100), "set twice");
        let removing = Append { timers_done: vec![(RunId(Uuid::from_u128(1)), Op(2))], ..append(1) };
        assert!(!batch.fits(&removing, 100), "set, then removed");
        batch.clear();
        assert!(batch.fits(&removing, 100) && !batch.fits(&setting(1, 2), 100), "removed, then set");
    }

    #[test]
    fn a_batch_is_bounded_but_one_append_always_fits() {
        let park = Append { status: Some(StatusChange::Park { fault: "x".repeat(60).into() }), ..append(1) };
        let other = Append { run: RunId(Uuid::from_u128(2)), ..park.clone() };
        let mut batch = Batch::default();
        assert!(batch.fits(&park, 50), "alone");
        assert!(!batch.fits(&other, 100), "together");
        assert!(!batch.fits(&park, 1_000), "its status twice");
        assert!(batch.fits(&other, 1_000));
    }
}
