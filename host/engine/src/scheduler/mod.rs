//! Decides what happens next to every run that this host owns, and does none of it itself.
//!
//! One task owns all runs in memory ([`slot::Slot`]) and takes one input at a time: an activation or
//! an attempt that ended, a batch that was committed, a timer, a message, a run that was claimed. It
//! answers with jobs for the guest threads, attempts of activities, and appends for the writer. It
//! never waits for any of them, so that no channel can close a circle of waiting.
//!
//! What holds at every moment:
//! * nothing that a guest decided can be seen outside, or has an effect there, before every outcome that it had is
//!   committed;
//! * a guest has at most one outcome that is not: the [`Draft`](slot::Draft), which goes to the writer together with
//!   what the guest makes of it, or after [`DRAFT_MAX`](drafts::DRAFT_MAX) without that;
//! * of one run, at most one job is out;
//! * rows of one run are sent in order, and the writer keeps that order.
//!
//! `activation`: guests and what they ask for. `children`, `closing`: what that starts and ends. `drafts`: what they have before it is committed. `attempts`: activities,
//! here and outside. `messages`: what one run says to another. `arrivals`: what comes from the database. `trials`: runs
//! over which hosts may have been lost. `repair`: what follows from a ledger and is not there. `rewind`: what follows when
//! the database has lost what it had committed.

mod activation;
mod appends;
mod arrivals;
mod attempts;
mod children;
mod closing;
mod docket;
mod drafts;
mod effects;
mod input;
mod messages;
mod pending;
mod plan;
mod repair;
mod rewind;
mod slot;
mod state;
mod trials;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstitch_core::{Json, Run, Seq};
use backstitch_ledger::{Append, Outcome};
use backstitch_sandbox::WorkflowProgram;
use tokio::sync::mpsc;

use crate::identity::Facts;

pub use input::{AttemptEnd, Deferring, Guard, Input, Inputs, Settle, Settlement, Start, channel};
pub use plan::{
    DEADLINE, START_OP, begin_run, child_options, child_workflow_id, memory_of, note, own_timers, timers_of,
};
use plan::{memory_at_start, timers_of_start};
pub use state::{Scheduler, Tools};
use waiting::Waiting;

/// Inputs taken in one go, before acknowledgements are looked at again.
const INPUTS_PER_TURN: usize = 256;

impl Scheduler {
    /// Works until the writer is fenced or gone, or the drain is complete. Dropping it drops every
    /// run from memory; their ledgers are all that matters.
    pub async fn run(mut self) {
        let mut inputs = Vec::with_capacity(INPUTS_PER_TURN);
        let (items, room) = (self.tools.items.clone(), self.tools.room.clone());
        let mut restored = self.tools.tenure.restored();
        let mut connections = self.tools.connections.clone();
        loop {
            tokio::select! {
                biased;
                acks = self.acks.recv() => match acks {
                    Some(acks) if matches!(acks.outcome, Outcome::Fenced) => return,
                    Some(acks) => self.acknowledged(acks),
                    None => return,
                },
                permit = items.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(item) = self.outbox.pop_front() {
                            permit.send(item);
                        }
                    }
                    Err(_) => return,
                },
                Ok(()) = connections.changed() => self.prove_all(),
                () = room.short() => self.make_room(),
                () = self.attempt_ended.notified() => {}
                // Its sender is among our tools.
                _ = restored.changed() => {}
                () = drafts::until(self.drafts.front()) => self.send_old_drafts(),
                taken = self.inputs.recv_many(&mut inputs, INPUTS_PER_TURN) => {
                    if taken == 0 {
                        return;
                    }
                    for input in inputs.drain(..) {
                        self.take(input);
                    }
                }
            }
            self.flush();
            if self.is_drained() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Start(start) => self.start(start),
            Input::Activated(activated) => self.activated(activated),
            Input::Attempted { run, op, attempt, end } => self.attempted(run, op, attempt, end),
            Input::Defer(deferring) => self.defer(deferring),
            Input::Settle(settle) => self.settle(settle),
            Input::Leased(tokens) => self.leased(&tokens),
            Input::Delivered { run, op, outcome } => self.delivered(run, op, outcome),
            Input::Loaded(loaded) => self.loaded(*loaded),
            Input::Timers(due, guard) => self.timers_due(due, &guard),
            Input::Inbox(items, guard) => self.messages(items, &guard),
            Input::Claimed(runs, guard) => self.claimed(runs, &guard),
            Input::Lacking(runs) => self.lacking(runs),
            Input::Lost(runs) => self.lost(&runs),
            Input::Reappeared(items) => self.reappeared(&items),
            Input::Trial(trial, step) => self.trial(trial, &step),
            Input::NoteProgress => self.note_progress(),
            Input::Drain(done) => self.draining = Some(done),
        }
    }

    /// Hands as much to the writer as it takes now, and starts what may be started.
    fn flush(&mut self) {
        self.forget_drafts();
        while let Some(item) = self.outbox.pop_front() {
            if let Err(error) = self.tools.items.try_send(item) {
                match error {
                    mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item) => {
                        self.outbox.push_front(item);
                    }
                }
                break;
            }
        }
        self.start_attempts();
        // Those that have ended.
        while self.sending.try_join_next().is_some() {}
        let counters = &self.tools.counters;
        counters.runs_loaded.store(self.slots.len() as u64, Ordering::Relaxed);
        counters.runs_warm.store(self.warm.len() as u64, Ordering::Relaxed);
        counters.activities_running.store(self.running() as u64, Ordering::Relaxed);
    }

    /// Attempts that are running.
    fn running(&self) -> usize {
        self.tools.attempts_max - self.attempts_running.available_permits()
    }

    /// Whether a drain was asked for and nothing is on its way.
    fn is_drained(&mut self) -> bool {
        // First, for it is asked every turn: the rest looks at every run in memory.
        let idle = self.draining.is_some()
            && self.pending.is_empty()
            && self.outbox.is_empty()
            && self.drafts.is_empty()
            && self.running() == 0
            && !self.slots.values().any(slot::Slot::is_at_work);
        if idle && let Some(done) = self.draining.take() {
            let _ = done.send(());
            return true;
        }
        false
    }

    fn start(&mut self, start: Start) {
        let Start { facts, options, program, input, reply } = start;
        if self.draining.is_some() {
            let _ = reply.send(Err("the host is stopping".into()));
            return;
        }
        let now_ms = self.tools.clock.now_ms();
        let (new_run, run) = match begin_run(&facts, &input, options, now_ms) {
            Ok(begun) => begun,
            Err(problem) => {
                let _ = reply.send(Err(problem));
                return;
            }
        };
        let (id, digest) = (facts.run, facts.digest);
        let mut append = Append { new_runs: vec![new_run], ..Append::new(facts.scope, id) };
        append.timers = timers_of_start(&run, now_ms);
        append.projections.extend(memory_at_start(&run));
        self.insert(facts, program, run, input);
        let waiting = Waiting { started: Some(reply), ..Waiting::default() };
        if self.may_begin_ahead(digest) {
            self.send_or_draft(id, append, waiting);
        } else {
            self.send(id, append, |pending| pending.waiting = waiting);
        }
    }

    /// Takes a run into memory whose row 0 is on its way.
    fn insert(&mut self, facts: Facts, program: WorkflowProgram, run: Run, input: Json) {
        let id = facts.run;
        let history = self.tools.check_activations.then(Vec::new);
        let slot = slot::Slot {
            facts: Arc::new(facts),
            program,
            started_at_ms: run.started_at_ms(),
            time_has_come: false,
            run,
            input,
            guest: slot::Guest::Cold(Vec::new()),
            ahead: VecDeque::new(),
            draft: None,
            durable: Seq(0),
            seen: Seq(0),
            unacked: 0,
            attempts: HashMap::new(),
            behind: false,
            outgoing: VecDeque::new(),
            cancel: None,
            terminate: None,
            overdue: None,
            sent: None,
            held: None,
            losses: 0,
            unled: false,
            stale: false,
            reload: false,
            turn: 0,
            history,
        };
        self.slots.insert(id, slot);
    }
}
