//! What comes from the database: runs to take over, ledgers that were read, timers, messages.
//!
//! A message or timer for a run that is not in memory has its ledger read first. Nothing here is
//! lost when it is dropped: the row it came from is still there and comes again. No batch waits for a run that is being
//! read: that may take long, and is nobody else's affair.

use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Fault, HeardId, Message, Op, Projection, Run, RunId, limits};
use backstitch_ledger::{Append, ClaimedRun, DueTimer, InboxItem, StatusChange};
use uuid::Uuid;

use crate::action::Action;
use crate::env::Env;
use crate::identity::RunIdentity;
use crate::in_flight::{Arrival, Left, Loading, Reading};
use crate::input::Ended;
use crate::job::PendingEvent;
use crate::loaded::{Damaged, Loaded, LoadedRun, Wanted};
use crate::plan::{Purpose, head, host_lost, parking, taken};
use crate::slot::{Attempt, Guest, Overdue, Request, Slot};
use crate::state::{Scheduler, TRIES};
use crate::waiting::Waiting;

impl<E: Env> Scheduler<E> {
    /// Runs that this host owns from now on.
    pub(crate) fn on_claimed(&mut self, runs: Vec<ClaimedRun>, batch: E::Batch) {
        self.figures.runs_taken_over += runs.len() as u64;
        let wanted = runs.into_iter().map(|run| {
            self.loading.entry(run.run).or_default();
            let number = self.begin_reading(run.run);
            self.reading.entry(run.run).or_default().is_claim = true;
            Wanted { number, run }
        });
        let wanted = wanted.collect();
        self.act(Action::ReadClaimed(wanted, batch));
    }

    /// Reads a run; the answer comes as [`Input::Loaded`](crate::Input::Loaded).
    pub(crate) fn load(&mut self, id: RunId) {
        let number = self.begin_reading(id);
        let program = self.slots.get(&id).map(|slot| slot.program.clone());
        self.act(Action::Read { run: id, number, program });
    }

    /// A read that begins now: earlier ones of the same run do not count any more.
    fn begin_reading(&mut self, id: RunId) -> u64 {
        self.reads += 1;
        // What is on its way may be committed after the rows were read, and the run may have gone by then. One that could not
        // be loaded has gone already, and is about to be parked or closed.
        let writes = self.slots.get(&id).map_or_else(|| self.unloading.contains(&id), Slot::is_writing);
        let reading = self.reading.entry(id).or_default();
        (reading.number, reading.has_written) = (self.reads, writes);
        self.reads
    }

    /// A run was read.
    pub(crate) fn on_loaded(&mut self, loaded: Loaded<E>) {
        let Loaded { run: id, number, result } = loaded;
        // An earlier read does not count: the run may have gone on since.
        let reading = self.reading.get(&id).copied().filter(|reading| reading.number == number);
        let Some(Reading { has_written, is_claim, .. }) = reading else { return };
        if has_written && !self.slots.contains_key(&id) {
            // The run was in memory meanwhile, wrote more, and has gone again.
            return self.load(id);
        }
        let arrivals = self.arrived(id);
        self.report_rewound(id, result.as_ref());
        let Some(loaded) = result else {
            // Closed, or another host's by now: its messages are that host's.
            return self.forget(id, arrivals);
        };
        let LoadedRun {
            identity,
            program,
            parked,
            ledger,
            derived,
            room,
            is_large,
            losses,
            is_unreplayed,
            lost_attempt,
        } = loaded;
        let program = match losses >= limits::HOSTS_LOST_MAX && !parked {
            true => Err(host_lost(losses)),
            false => program,
        };
        match (ledger, program) {
            (Ok((run, rows)), Ok(program)) => {
                let anew = is_claim || self.anew.contains_key(&id);
                let projection = anew.then(|| Projection::of(rows.iter().map(|row| &row.event)));
                match self.slots.get(&id).map(|slot| &slot.guest) {
                    None => {
                        self.load_slot(identity, program, parked, run, rows, &derived.offered);
                        if let Some(slot) = self.slots.get_mut(&id) {
                            (slot.losses, slot.is_unreplayed) = (losses, is_unreplayed);
                        }
                        if let Some(op) = lost_attempt.filter(|_| !parked) {
                            self.attempt_lost(id, op);
                        }
                        self.amend(id, derived, projection.as_ref());
                    }
                    Some(Guest::Loading(rows_min)) if run.next_seq() < *rows_min => self.rewind(id),
                    Some(Guest::Loading(_)) => self.rehydrate(id, run, rows),
                    Some(_) if has_written => self.compare_later(id),
                    Some(_) => self.compare_derived(id, &run, derived, projection.as_ref()),
                }
                self.stop_rewinding(id);
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.room = Some((room, is_large));
                }
                self.deliver(id, arrivals);
                self.advance(id);
            }
            (Err(Damaged { fault, rows }), _) => self.park_unloadable(&identity, &fault, arrivals, Err(rows)),
            (Ok((run, _)), Err(fault)) => self.park_unloadable(&identity, &fault, arrivals, Ok(run)),
        }
    }

    /// A run is in memory that somebody may be reading: what waits for that goes to it.
    pub(crate) fn has_come(&mut self, id: RunId) {
        let arrivals = self.arrived(id);
        self.deliver(id, arrivals);
    }

    /// What has come for a run that is not read any more.
    fn arrived(&mut self, id: RunId) -> Vec<Arrival> {
        self.reading.remove(&id);
        let Loading { arrivals, left_out } = self.loading.remove(&id).unwrap_or_default();
        if left_out {
            self.act(Action::ReadInbox);
        }
        if self.absent.remove(&id) {
            self.act(Action::TimerDue(0));
        }
        arrivals
    }

    fn deliver(&mut self, id: RunId, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            self.arrive(id, arrival, None);
        }
    }

    /// A run that was not in memory.
    fn load_slot(
        &mut self,
        identity: RunIdentity,
        program: E::Program,
        parked: bool,
        run: Run,
        rows: Vec<PendingEvent>,
        offered: &[Op],
    ) {
        let id = identity.run;
        let Some(Event::RunStarted { input, .. }) = rows.first().map(|row| row.event.clone()) else {
            tracing::error!(run = %id, "a ledger that was folded has no start");
            return;
        };
        let started_at_ms = rows[0].at_ms;
        let messages: Vec<Op> = run
            .open_ops()
            .filter_map(|(op, open)| matches!(open, OpenOp::Message { .. }).then_some(op))
            .collect();
        self.insert(identity, program, run, input);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.started_at_ms = started_at_ms;
        slot.durable = slot.run.next_seq();
        slot.sent = head(&slot.run);
        if parked {
            slot.guest = Guest::Parked;
            return;
        }
        slot.guest = Guest::Cold(rows);
        let waiting =
            offered.iter().filter(|op| matches!(slot.run.open_op(**op), Some(OpenOp::Activity { .. })));
        slot.attempts.extend(waiting.map(|op| (*op, Attempt::Offered { lease: None })));
        self.send_messages(id, messages);
    }

    /// Tells a run of children that were rejected when nobody could tell it.
    pub(crate) fn tell_of_rejected(&mut self, id: RunId, rejected: Vec<Op>) {
        for op in rejected {
            let Some(slot) = self.slots.get(&id) else { return };
            let Some(OpenOp::Child { workflow, options, .. }) = slot.run.open_op(op) else { continue };
            if matches!(slot.guest, Guest::Parked) {
                return;
            }
            let (workflow, workflow_id) = (workflow.clone(), options.workflow_id.clone());
            let child = self.child_identity(id, op, self.now.ms, &workflow, workflow_id);
            let failure = child.map_or_else(|failure| failure, |child| taken(&child.workflow_id));
            self.outcome(id, Event::ChildClosed { op, outcome: Err(failure) }, None, |_| {});
        }
    }

    /// A run whose guest had been dropped; rows may have been sent since its ledger was asked for.
    fn rehydrate(&mut self, id: RunId, run: Run, rows: Vec<PendingEvent>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.durable = slot.durable.max(run.next_seq());
        slot.undelivered.retain(|row| row.seq >= run.next_seq());
        slot.guest = Guest::Cold(rows);
        slot.is_behind = false;
    }

    /// A run that cannot be led along, because of its ledger (then only how many rows there are is
    /// known of it) or its component: it is parked, and only an operator's word is taken.
    fn park_unloadable(
        &mut self,
        identity: &RunIdentity,
        fault: &Fault,
        arrivals: Vec<Arrival>,
        ledger: Result<Run, usize>,
    ) {
        let id = identity.run;
        self.send_speculative(id);
        if let Some(slot) = self.remove_slot(id) {
            self.release(&slot);
        }
        tracing::error!(run = %id, kind = %fault.kind, message = fault.message, "a run cannot be loaded; it is parked");
        let mut append = Append::new(identity.scope, id);
        append.status = Some(parking(fault));
        append.after = ledger.as_ref().ok().and_then(head);
        let (mut terminated, mut unheard) = (None, Vec::new());
        for arrival in &arrivals {
            if let Arrival::Timer(timer) = arrival
                && timer.purpose == Purpose::Deadline.tag()
            {
                terminated = Some("it has taken as long as it may".to_owned());
            }
            let Arrival::Message(item) = arrival else { continue };
            match item.message.message() {
                Ok(Message::Terminate { reason, .. }) => {
                    append.inbox_done.push((id, item.item_id));
                    terminated = Some(reason);
                }
                Ok(Message::Retry | Message::Repair) => append.inbox_done.push((id, item.item_id)),
                // It stays in the inbox, and a run that is parked does not hear it.
                _ => unheard.push(item.item_id),
            }
        }
        if let Some(reason) = terminated {
            self.close_unreplayed(identity, reason, ledger, &mut append);
        }
        // No row tells whether the database still knows that it is parked.
        let (identity, head) = (Arc::new(identity.clone()), append.head());
        self.left.put(id, Left { identity, head, is_doubtful: true });
        self.unloading.insert(id);
        self.submit(id, append, |sent| {
            (sent.closes, sent.unloads) = (true, true);
            sent.put_back = unheard;
        });
    }

    fn forget(&mut self, id: RunId, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            if let Arrival::Message(item) = arrival {
                self.in_hand.put_back(id, item.item_id);
            }
        }
    }

    /// Timers of runs of this host are due.
    pub(crate) fn on_timers(&mut self, due: Vec<DueTimer>, batch: &E::Batch) {
        for timer in due {
            let id = timer.run;
            self.arrive_or_load(id, Arrival::Timer(timer), Some(batch));
        }
    }

    /// Messages for runs of this host.
    pub(crate) fn on_inbox(&mut self, items: Vec<InboxItem>, batch: &E::Batch) {
        for item in items {
            if !self.in_hand.take(item.run, item.item_id) {
                continue;
            }
            let key = (item.run, item.item_id);
            if let Some(was_seen) = self.consumed.get_mut(&key)
                && !std::mem::replace(was_seen, true)
            {
                // Read before it was consumed, or sent again: then it is there the next time as well.
                self.in_hand.put_back(item.run, item.item_id);
                continue;
            }
            self.consumed.pop(&key);
            self.arrive_or_load(item.run, Arrival::Message(item), Some(batch));
        }
    }

    /// A message that this host has just sent: taken at once if the run is here, else left to the
    /// inbox of whoever owns it.
    pub(crate) fn posted(&mut self, item: InboxItem) {
        if self.slots.contains_key(&item.run) {
            if self.in_hand.take(item.run, item.item_id) {
                self.arrive_or_load(item.run, Arrival::Message(item), None);
            }
        } else {
            self.act(Action::ReadInbox);
        }
    }

    /// `batch`: of the batch that it came with, which waits for runs in memory only.
    fn arrive_or_load(&mut self, id: RunId, arrival: Arrival, batch: Option<&E::Batch>) {
        if self.loading.contains_key(&id) {
            self.wait_for_run(id, arrival);
        } else if self.slots.contains_key(&id) {
            self.arrive(id, arrival, batch);
            self.advance(id);
        } else {
            self.load(id);
            self.wait_for_run(id, arrival);
        }
    }

    /// Keeps what has come for a run that is being read, as far as that is little: all of it is in the database.
    fn wait_for_run(&mut self, id: RunId, arrival: Arrival) {
        let loading = self.loading.entry(id).or_default();
        let has_room = loading.arrivals.len() < limits::ARRIVALS_WAITING_MAX;
        match &arrival {
            Arrival::Timer(timer) => {
                self.absent.insert(id);
                let same = |known: &Arrival| matches!(known, Arrival::Timer(known) if known.op == timer.op);
                if has_room && !loading.arrivals.iter().any(same) {
                    loading.arrivals.push(arrival);
                }
            }
            Arrival::Message(item) => {
                let terminates = matches!(item.message.message(), Ok(Message::Terminate { .. }));
                let payload = item.message.payload.as_ref().map_or(0, |payload| payload.len());
                if !terminates && (!has_room || payload > limits::ARRIVAL_BYTES_MAX) {
                    loading.left_out = true;
                    self.in_hand.put_back(id, item.item_id);
                    return;
                }
                loading.arrivals.push(arrival);
                if let (true, Some(reading)) = (terminates, self.reading.get(&id)) {
                    let number = reading.number;
                    self.act(Action::ReadToClose { run: id, number });
                }
            }
        }
    }

    fn arrive(&mut self, id: RunId, arrival: Arrival, batch: Option<&E::Batch>) {
        let takes = self.slots.get(&id).is_some_and(|slot| slot.run.is_open() && !slot.is_stale);
        match arrival {
            Arrival::Message(item) if !takes => self.in_hand.put_back(id, item.item_id),
            Arrival::Message(item) => self.message(id, &item, batch.cloned()),
            Arrival::Timer(timer) if takes => self.timer(id, &timer, batch.cloned()),
            Arrival::Timer(_) => {}
        }
    }

    fn timer(&mut self, id: RunId, timer: &DueTimer, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let op = timer.op;
        match (Purpose::from_tag(timer.purpose), slot.run.open_op(op)) {
            // Its row goes with the run.
            (Some(Purpose::Deadline), _) => slot.overdue = Some(Overdue(batch)),
            // It was read before the run was held. Its row stays, and is looked for when the run goes on.
            _ if matches!(slot.guest, Guest::Parked) || slot.run.is_paused() => {}
            (Some(Purpose::Sleep), Some(OpenOp::Timer { .. })) => {
                self.outcome(id, Event::TimerFired { op }, batch, |append| {
                    append.timers_done.push((id, op));
                });
            }
            // The attempt it was for has failed since, and a later timer has taken its row.
            (_, Some(OpenOp::Activity { retry_at_ms: Some(at_ms), .. })) if timer.due_ms < *at_ms => {}
            (purpose, open) => {
                let is_start = purpose == Some(Purpose::Start);
                // A host that took the run over may be at it already: the time had come.
                let retries = purpose == Some(Purpose::Retry)
                    && matches!(open, Some(OpenOp::Activity { .. }))
                    && !slot.attempts.contains_key(&op);
                slot.start_timer_fired |= is_start;
                let mut append = Append::new(slot.identity.scope, id);
                append.timers_done.push((id, op));
                let call = retries.then_some(op);
                self.send_with_calls(id, append, call, None, |sent| sent.waiting = Waiting::of(batch));
                // There may be what it could not hear before its time.
                self.act(Action::ReadInbox);
            }
        }
    }

    fn message(&mut self, id: RunId, item: &InboxItem, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let message = match item.message.message() {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(run = %id, item = %item.item_id, %error, "a message is left in the inbox");
                self.in_hand.set_unreadable(item.item_id);
                return self.in_hand.put_back(id, item.item_id);
            }
        };
        let request = |reason, id| Request { reason, id, item: item.item_id };
        match message {
            Message::Signal { id: Some(known), .. } if slot.run.heard().contains(HeardId::signal(&known)) => {
                self.consume(id, item.item_id);
            }
            // It stays in the inbox until the guest has awaited some.
            Message::Signal { .. } if slot.run.signals_kept() as usize >= limits::SIGNALS_BUFFERED_MAX => {
                self.in_hand.set_full(id, true);
                self.in_hand.put_back(id, item.item_id);
            }
            Message::Signal { name, payload, id: signal_id } => {
                let event = Event::SignalReceived { name, payload, id: signal_id };
                self.outcome(id, event, batch, |append| append.inbox_done.push((id, item.item_id)));
            }
            Message::ChildClosed { op, outcome } => {
                if matches!(slot.run.open_op(op), Some(OpenOp::Child { .. })) {
                    let event = Event::ChildClosed { op, outcome };
                    self.outcome(id, event, batch, |append| append.inbox_done.push((id, item.item_id)));
                } else {
                    self.consume(id, item.item_id);
                }
            }
            Message::Cancel { id: Some(known), .. } if slot.run.heard().contains(HeardId::cancel(&known)) => {
                self.consume(id, item.item_id);
            }
            Message::Cancel { reason, id } if slot.cancel.is_none() => {
                slot.cancel = Some(request(reason, id));
            }
            Message::Terminate { reason, .. } if slot.terminate.is_none() => {
                slot.terminate = Some(request(reason, None));
            }
            Message::Cancel { .. } | Message::Terminate { .. } => self.consume(id, item.item_id),
            Message::AttemptEnded { op, attempt, outcome, heartbeat } => {
                let ended = Ended { op, attempt, outcome, heartbeat };
                self.remote_attempt_ended(id, ended, item.item_id, batch);
            }
            Message::AttemptFreed { op, attempt, heartbeat } => {
                self.attempt_freed(id, (op, attempt), heartbeat.as_ref(), item.item_id, batch);
            }
            Message::AttemptWanted { op } => self.attempt_wanted(id, op, item.item_id, batch),
            Message::Retry => self.retry(id, item.item_id),
            Message::Repair => {
                self.consume(id, item.item_id);
                self.make_anew(id);
            }
            Message::Pause { reason } => self.pause(id, reason, item.item_id, batch),
            Message::Resume { reason } => self.resume(id, reason, item.item_id, batch),
        }
    }

    /// An operator lets a parked run go on: it starts from its ledger again.
    fn retry(&mut self, id: RunId, item: Uuid) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !matches!(slot.guest, Guest::Parked) {
            return self.consume(id, item);
        }
        let mut append = Append { after: slot.sent, ..Append::new(slot.identity.scope, id) };
        // A run that is full is retried all the same: what remains of it is for its end.
        if slot.run.has_room(1, 0)
            && let Ok(row) = slot.run.append(self.now.ms, &Event::RunRetried)
        {
            append.rows.push(row);
        }
        append.status = Some(if slot.run.is_paused() { StatusChange::Pause } else { StatusChange::Run });
        append.inbox_done.push((id, item));
        if let Some(slot) = self.remove_slot(id) {
            self.release(&slot);
        }
        // Whatever arrives meanwhile waits for the ledger.
        self.loading.entry(id).or_default();
        self.anew.insert(id, TRIES);
        self.submit(id, append, |sent| (sent.closes, sent.then_load) = (true, true));
    }

    /// Consumes a message that has nothing to say any more.
    pub(crate) fn consume(&mut self, id: RunId, item: Uuid) {
        let Some(slot) = self.slots.get(&id) else { return };
        let mut append = Append::new(slot.identity.scope, id);
        append.inbox_done.push((id, item));
        self.send(id, append, |_| {});
    }

    /// A slot goes without having answered its requests: they are read from the inbox again.
    pub(crate) fn release(&mut self, slot: &Slot<E>) {
        for request in [&slot.cancel, &slot.terminate].into_iter().flatten() {
            self.in_hand.put_back(slot.identity.run, request.item);
        }
        self.in_hand.set_full(slot.identity.run, false);
        self.act(Action::ReadInbox);
    }
}
