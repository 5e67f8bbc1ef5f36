//! Random appends, one or several at once. Left out is what has no order within a statement: see `simulation::model`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use backstitch_core::{
    Attribute, AttributeChanges, Chain, Digest, Kind, Op, Row, RunId, RunStatus, Scope, Seq, TenantId,
};
use backstitch_ledger::{
    Append, Close, ForkedRun, Head, NewItem, NewProjection, NewRun, NewTask, NewTimer, StatusChange,
};
use simulation::model::Reply;
use uuid::Uuid;

use crate::known::*;
use crate::modelled::{Modelled, TENANTS};
use crate::random::Random;
use crate::step::*;

/// Appends that are made for one batch.
struct Batch<'a> {
    known: &'a mut Known,
    random: &'a mut Random,
    model: &'a Modelled,
    /// Where ledgers end when those before are written.
    heads: HashMap<RunId, Head>,
    closed: HashSet<RunId>,
    sent: HashSet<Uuid>,
    consumed: HashSet<Uuid>,
    /// No two tasks of a batch are equally old and urgent: Postgres would be free to choose.
    priority: u8,
}

/// The start of a run from outside, and nothing else.
pub(crate) fn bare_start(scope: Scope, run: RunId) -> Append {
    let first = Row {
        seq: Seq(0),
        kind: Kind::RunStarted.tag(),
        op: None,
        name: Some("n".into()),
        payload: Some("1".into()),
        detail: None,
        attempt: None,
        at_ms: 2_000,
        chain: Chain(1),
    };
    let new = NewRun {
        run,
        workflow_id: "a".into(),
        generation: 0,
        workflow: "w".into(),
        digest: Digest([7; 32]),
        parent: None,
        first,
        further: Vec::new(),
    };
    Append::start(scope, new)
}

pub(crate) fn step(known: &mut Known, random: &mut Random, model: &Modelled) -> Step {
    let first = run(random);
    let owner = model.database.owner_of(first);
    let lease = known.lease(random, model, owner).expect("there is one");
    let count = [1, 1, 1, 2, 2, 3, 4][random.below(7) as usize];
    let fault = random.one_in(if count > 1 { 9 } else { 25 }).then(|| {
        let reply = if random.one_in(2) { Reply::Lost } else { Reply::Never };
        (if count > 2 { random.below(2) } else { 0 }, reply)
    });
    let heads = runs().filter_map(|run| Some((run, model.database.head(run)?))).collect();
    let (closed, sent, consumed) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut batch = Batch { known, random, model, heads, closed, sent, consumed, priority: 0 };
    let mut appends = Vec::new();
    for number in 0..count {
        let own = runs().filter(|run| model.database.owner_of(*run) == Some(lease.host)).collect::<Vec<_>>();
        let any = run(batch.random);
        let of = match number {
            0 => first,
            _ if batch.random.one_in(4) => any,
            _ => batch.random.pick(&own).copied().unwrap_or(any),
        };
        appends.push(batch.append(of));
    }
    Step::Append { lease, appends, fault }
}

/// A run that begins with more than one row, and what belongs to it.
pub(crate) fn fork(known: &mut Known, random: &mut Random, model: &Modelled) -> Step {
    let (heads, closed) = (HashMap::new(), HashSet::new());
    let (sent, consumed) = (HashSet::new(), HashSet::new());
    let mut batch = Batch { known, random, model, heads, closed, sent, consumed, priority: 0 };
    Step::Fork { fork: Box::new(batch.fork()) }
}

impl Batch<'_> {
    fn fork(&mut self) -> ForkedRun {
        let is_there = |run: &RunId| self.model.database.owner_of(*run).is_some();
        let free: Vec<RunId> = runs().filter(|run| !is_there(run)).collect();
        let any = run(self.random);
        // Most often one that is not there.
        let id = if self.random.one_in(4) { any } else { self.random.pick(&free).copied().unwrap_or(any) };
        let scope = scope(self.known.shard, tenant(self.random));
        let new = self.new_run(id, None);
        let count = self.random.below(4);
        let rows = self.rows(id, Head::at(new.further.last().unwrap_or(&new.first)), count);
        let mut timers = Vec::new();
        for op in OPS {
            if self.random.one_in(3) {
                let purpose = if self.random.one_in(3) { ALWAYS } else { 1 };
                timers.push(NewTimer { run: id, op, due_ms: 100 * (1 + self.random.below(6)), purpose });
            }
        }
        let mut projection = self.projection(id);
        if self.random.one_in(3) {
            projection = NewProjection { run: id, entity: None, attributes: AttributeChanges::new() };
        }
        let mut children = Vec::new();
        let child = run(self.random);
        if child != id && self.random.one_in(2) {
            let call = op(self.random);
            children.push(self.new_run(child, Some((id, call))));
        }
        let inbox = (0..self.random.below(3)).map(|_| {
            let (item_id, message) = (self.known.new_id(), message(self.random).to_row());
            NewItem { run: id, item_id, at_ms: AT_MS, message }
        });
        let inbox = inbox.collect();
        ForkedRun { scope, run: new, rows, timers, projection, children, inbox }
    }

    fn append(&mut self, run: RunId) -> Append {
        let scope = scope(self.known.shard, tenant(self.random));
        let known = |tenant: TenantId| self.model.database.run_status(Scope { tenant, ..scope }, run);
        let is_there =
            TENANTS.into_iter().any(|tenant| known(tenant).is_some()) || self.heads.contains_key(&run);
        if !is_there || self.random.one_in(9) {
            return self.start(scope, run);
        }
        let end = self.heads.get(&run).copied();
        let after = match self.random.below(12) {
            0 => Some(Head { seq: Seq(self.random.below(3) as u32), chain: Chain(5) }),
            1..=2 => {
                let known: Vec<_> = self.known.heads.iter().filter(|(of, _)| *of == run).collect();
                self.random.pick(&known).map(|(_, head)| *head)
            }
            _ => end,
        };
        let mut append = Append { after, ..Append::new(scope, run) };
        if self.random.one_in(12) {
            self.send_again(&mut append);
        } else {
            let rows = if append.after.is_some() { self.random.below(3) } else { 0 };
            self.grow(&mut append, rows);
        }
        if append.rows.is_empty() && self.random.one_in(2) {
            append.after = None;
        }
        self.change_status(&mut append);
        self.set_timers(&mut append);
        if self.random.one_in(6) {
            self.start_child(&mut append);
        }
        self.send(&mut append);
        if self.random.one_in(5) {
            append.projections.push(self.projection(run));
        }
        self.offer(&mut append);
        append
    }

    /// The start of a run from outside, with what may follow it.
    fn start(&mut self, scope: Scope, run: RunId) -> Append {
        let new = self.new_run(run, None);
        let head = Head::at(new.further.last().unwrap_or(&new.first));
        self.heads.insert(run, head);
        let mut append = Append::start(scope, new);
        if self.random.one_in(2) {
            append.rows.extend(self.rows(run, head, 1));
        }
        if let Some(last) = append.rows.last() {
            self.heads.insert(run, Head::at(last));
        }
        if append.rows.first().is_some_and(|row| row.seq != Seq(1)) {
            append.rows.clear();
        }
        if self.random.one_in(2) {
            append.timers.push(NewTimer { run, op: op(self.random), due_ms: 300, purpose: 1 });
        }
        if self.random.one_in(3) {
            append.projections.push(self.projection(run));
        }
        if self.random.one_in(2) {
            let op = op(self.random);
            append.tasks.push(self.task(run, op));
        }
        append
    }

    fn new_run(&mut self, run: RunId, parent: Option<(RunId, Op)>) -> NewRun {
        let first = self.row(run, None, Kind::RunStarted);
        let further = if self.random.one_in(5) { self.rows(run, Head::at(&first), 1) } else { Vec::new() };
        NewRun {
            run,
            workflow_id: WORKFLOW_IDS[self.random.below(3) as usize].into(),
            generation: self.random.below(3) as u32,
            workflow: "w".into(),
            digest: Digest([7; 32]),
            parent,
            first,
            further,
        }
    }

    fn start_child(&mut self, append: &mut Append) {
        let child = run(self.random);
        if child == append.run {
            return;
        }
        let call = op(self.random);
        let new = self.new_run(child, Some((append.run, call)));
        if let std::collections::hash_map::Entry::Vacant(e) = self.heads.entry(child) {
            e.insert(Head::at(new.further.last().unwrap_or(&new.first)));
        }
        append.new_runs.push(new);
        if self.random.one_in(2) && !self.closed.contains(&child) {
            append.timers.push(NewTimer { run: child, op: Op(u32::MAX), due_ms: 200, purpose: ALWAYS });
        }
        if self.random.one_in(3) {
            append.projections.push(self.projection(child));
        }
        if self.random.one_in(2) {
            let item_id = self.known.new_id();
            self.sent.insert(item_id);
            let message = message(self.random).to_row();
            append.inbox.push(NewItem { run: child, item_id, at_ms: AT_MS, message });
        }
    }

    fn grow(&mut self, append: &mut Append, count: u64) {
        let Some(after) = append.after else { return };
        append.rows = self.rows(append.run, after, count);
        if let Some(last) = append.rows.last() {
            self.heads.insert(append.run, Head::at(last));
        }
    }

    /// Rows that are there already.
    fn send_again(&mut self, append: &mut Append) {
        let there = self.model.database.rows(append.run, Seq(0), ALL);
        if let Some([after, rows @ ..]) = there.get(self.random.below(there.len().max(1) as u64) as usize..) {
            append.after = Some(Head::at(after));
            append.rows = rows.iter().take(2).cloned().collect();
        }
    }

    fn rows(&mut self, run: RunId, after: Head, count: u64) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..count {
            let kinds = [
                Kind::ActivityScheduled,
                Kind::ActivityScheduled,
                Kind::TimerStarted,
                Kind::OpCancelled,
                Kind::ActivityCompleted,
                Kind::ActivityAttemptFailed,
                Kind::TimerFired,
                Kind::SignalReceived,
            ];
            let kind = kinds[self.random.below(8) as usize];
            let after = rows.last().map_or(after, Head::at);
            let row = self.row(run, Some(after), kind);
            rows.push(row);
        }
        rows
    }

    /// A row that is often the same when it is made again.
    fn row(&mut self, run: RunId, after: Option<Head>, kind: Kind) -> Row {
        let digit: Arc<str> = self.random.below(2).to_string().into();
        let op = op(self.random);
        let has_op = !matches!(kind, Kind::RunStarted | Kind::SignalReceived);
        let has_payload = !matches!(kind, Kind::TimerStarted | Kind::OpCancelled | Kind::TimerFired);
        let has_attempt = matches!(kind, Kind::ActivityCompleted | Kind::ActivityAttemptFailed);
        let mut row = Row {
            seq: Seq(after.map_or(0, |after| after.seq.0 + 1)),
            kind: kind.tag(),
            op: has_op.then_some(op),
            name: matches!(kind, Kind::RunStarted | Kind::SignalReceived).then(|| "n".into()),
            payload: has_payload.then_some(digit),
            detail: match kind {
                Kind::OpCancelled => Some(format!("{{\"target\":{}}}", op.0 % 3 + 1).into()),
                Kind::RunStarted if op.0 > 2 => Some("{\"priority\":1}".into()),
                _ => None,
            },
            attempt: has_attempt.then_some(1),
            at_ms: 2_000,
            chain: Chain(0),
        };
        row.chain = row.link(run, after.map_or(Chain(0), |after| after.chain));
        row
    }

    fn change_status(&mut self, append: &mut Append) {
        let fault: Arc<str> = "{\"fault\":1}".into();
        let tenant = TenantId::DEFAULT;
        let is_parked = self.model.database.run_status(Scope { tenant, ..append.scope }, append.run)
            == Some(RunStatus::Parked);
        append.status = match self.random.below(18) {
            _ if is_parked && self.random.one_in(3) => Some(StatusChange::Run),
            0..=1 => {
                self.closed.insert(append.run);
                let statuses =
                    [RunStatus::Completed, RunStatus::Failed, RunStatus::Continued, RunStatus::Terminated];
                let end = append.head().unwrap_or(Head { seq: Seq(0), chain: Chain(1) });
                Some(StatusChange::Close(Close {
                    status: statuses[self.random.below(4) as usize],
                    at_ms: 3_000,
                    output: self.random.one_in(2).then(|| "{\"out\": 1}".into()),
                    error: self.random.one_in(3).then(|| "\"e\"".into()),
                    rows: Seq(end.seq.0 + 1),
                    chain: end.chain,
                }))
            }
            2..=3 => Some(StatusChange::Park { fault }),
            4 => Some(StatusChange::Pause),
            5 => Some(StatusChange::Run),
            _ => None,
        };
    }

    fn set_timers(&mut self, append: &mut Append) {
        let run = append.run;
        if self.random.one_in(3) {
            append.timers_done.extend(OPS.into_iter().filter(|_| self.random.one_in(3)).map(|op| (run, op)));
        }
        if self.closed.contains(&run) || self.random.one_in(2) {
            return;
        }
        // The check of the column is what refuses data here; it is met alone, so that there is one error.
        let is_bad = append.rows.is_empty() && self.random.one_in(10);
        for op in OPS {
            if self.random.one_in(3) {
                let purpose = if self.random.one_in(3) { ALWAYS } else { 1 };
                let due_ms = 100 * (1 + self.random.below(6));
                append.timers.push(NewTimer { run, op, due_ms, purpose: if is_bad { -1 } else { purpose } });
            }
        }
    }

    fn send(&mut self, append: &mut Append) {
        if self.random.one_in(3) {
            let to = run(self.random);
            let known: Vec<_> =
                self.known.items.iter().filter(|(of, _)| *of == to).map(|(_, item)| *item).collect();
            let again = if self.random.one_in(4) { self.random.pick(&known).copied() } else { None };
            let item_id = match again.filter(|item| !self.consumed.contains(item)) {
                Some(item) => item,
                None => self.known.new_id(),
            };
            self.sent.insert(item_id);
            let message = message(self.random).to_row();
            append.inbox.push(NewItem { run: to, item_id, at_ms: AT_MS, message });
        }
        if self.random.one_in(3) {
            let of_run = self.known.items.iter().filter(|(of, _)| *of == append.run).copied();
            let read: Vec<_> =
                of_run.filter(|(_, item)| self.random.one_in(2) && !self.sent.contains(item)).collect();
            self.consumed.extend(read.iter().map(|(_, item)| *item));
            append.inbox_done = read;
        }
    }

    fn projection(&mut self, run: RunId) -> NewProjection {
        let digit = self.random.below(3);
        let value = match self.random.below(5) {
            0 => None,
            1 => Some(Attribute::Text("t".into())),
            2 => Some(Attribute::Number(digit as f64 + 0.5)),
            3 => Some(Attribute::Flag(digit == 0)),
            _ => Some(Attribute::TimeMs(1_000 * digit)),
        };
        let attributes: AttributeChanges = BTreeMap::from([("k".into(), value)]);
        let entity = self.random.one_in(2).then(|| format!("{{\"e\": {digit}}}").into());
        NewProjection { run, entity, attributes }
    }

    fn offer(&mut self, append: &mut Append) {
        let mut spoken = HashSet::new();
        let calls = &OPS[..3];
        if self.random.one_in(3) {
            append.tasks_done = fresh_ops(self.random, &mut spoken, calls);
        }
        if self.random.one_in(3) {
            append.tasks_given_up = fresh_ops(self.random, &mut spoken, calls);
        }
        if self.random.one_in(2) {
            for op in fresh_ops(self.random, &mut spoken, calls) {
                let task = self.task(append.run, op);
                append.tasks.push(task);
            }
        }
    }

    fn task(&mut self, run: RunId, op: Op) -> NewTask {
        self.priority += 1;
        let last = self.heads.get(&run).map_or(0, |head| head.seq.0);
        let bound = |random: &mut Random| match random.below(8) {
            0 => Some(PAST_MS),
            1 => Some(FUTURE_MS),
            _ => None,
        };
        let taken = self.random.one_in(4).then(|| {
            let lease_ms = self.random.one_in(2).then_some(LONG_MS);
            self.known.grant(lease_ms)
        });
        NewTask {
            op,
            seq: Seq(self.random.below(u64::from(last) + 1) as u32),
            attempt: 1 + self.random.below(3) as u32,
            task_queue: QUEUES[self.random.below(2) as usize].into(),
            name: ACTIVITIES[self.random.below(2) as usize].into(),
            priority: self.priority,
            start_by_ms: bound(self.random),
            close_by_ms: bound(self.random),
            attempt_ms: self.random.one_in(3).then_some(LONG_MS),
            heartbeat_timeout_ms: self.random.one_in(3).then_some(LONG_MS - 1),
            heartbeat: self.random.one_in(4).then(|| "{\"done\": 1}".into()),
            taken,
        }
    }
}
