//! One step: an input, and the actions that follow from it.

use std::collections::{BTreeMap, VecDeque};

use backstitch_core::{Json, Run, Seq};
use backstitch_ledger::Append;

use crate::action::Action;
use crate::env::{Env, Now};
use crate::identity::RunIdentity;
use crate::input::{Input, Start, Wake};
use crate::plan::{begin_run, projection_at_start, timers_of_start};
use crate::slot::{Guest, Slot};
use crate::state::Scheduler;
use crate::waiting::Waiting;

impl<E: Env> Scheduler<E> {
    /// Takes one input. The actions are to be carried out in their order, before the next input.
    pub fn on(&mut self, now: Now, input: Input<E>) -> Vec<Action<E>> {
        self.now = now;
        self.take(input);
        self.forget_joined();
        self.start_attempts();
        self.look_at_drain();
        std::mem::take(&mut self.actions)
    }

    fn take(&mut self, input: Input<E>) {
        match input {
            Input::Start(start) => self.on_start(start),
            Input::Acknowledged(acks) => self.on_acknowledged(acks),
            Input::Activated(activated) => self.on_activated(activated),
            Input::AttemptEnded { run, op, attempt, heartbeat, end } => {
                self.on_attempt_ended(run, op, attempt, heartbeat, end);
            }
            Input::PlacesFree(count) => self.attempts_running = self.attempts_running.saturating_sub(count),
            Input::Defer(deferring) => self.on_defer(deferring),
            Input::Settle(settle) => self.on_settle(settle),
            Input::Leased(tokens) => self.on_leased(&tokens),
            Input::Found { from: (run, op), to } => self.on_found(run, op, to),
            Input::Posted { from: (run, op), to, posted } => self.on_posted(run, op, to, posted),
            Input::Loaded(loaded) => self.on_loaded(*loaded),
            Input::Timers(due, batch) => self.on_timers(due, &batch),
            Input::Inbox(items, batch) => self.on_inbox(items, &batch),
            Input::Unreadable(items) => items.into_iter().for_each(|item| self.in_hand.set_unreadable(item)),
            Input::Claimed(runs, batch) => self.on_claimed(runs, batch),
            Input::Lacking(runs) => self.on_lacking(runs),
            Input::Reconnected => self.prove_all(),
            Input::Lost(runs) => self.on_lost(&runs),
            Input::Reappeared(items) => self.on_reappeared(&items),
            Input::TrialBegun(trial, has_begun) => self.on_trial_begun(trial, has_begun),
            Input::TrialEnded(trial, went_on) => self.on_trial_ended(trial, went_on),
            Input::Woken(wake) => self.on_woken(wake),
            Input::ShortOfMemory => self.make_room(),
            Input::Tick => self.send_expired(),
            Input::Drain(reply) => self.draining = Some(reply),
        }
    }

    fn on_woken(&mut self, wake: Wake) {
        match wake {
            Wake::TrialMayBegin(trial) => self.trial_may_begin(trial),
            Wake::TrialIsGone(trial) => self.trial_is_gone(trial),
            Wake::TrialOutlived(number) => self.trial_outlived(number),
            Wake::NoteProgress => self.note_progress(),
            Wake::PostAgain((run, op), to) => self.post_again(run, op, to),
        }
    }

    /// Whether a drain was asked for and nothing is on its way.
    fn look_at_drain(&mut self) {
        // First, for it is asked every time: the rest looks at every run in memory.
        let is_idle = self.draining.is_some()
            && self.in_flight.is_empty()
            && self.deadlines.is_empty()
            && self.attempts_running == 0
            && !self.slots.values().any(Slot::is_at_work);
        if is_idle && let Some(reply) = self.draining.take() {
            self.is_drained = true;
            self.act(Action::Drained(reply));
        }
    }

    fn on_start(&mut self, start: Start<E>) {
        let Start { identity, options, program, input, reply } = start;
        if self.draining.is_some() {
            return self.act(Action::Started(reply, Err("the host is stopping".into())));
        }
        let (new_run, run) = match begin_run(&identity, &input, options, self.now.ms) {
            Ok(begun) => begun,
            Err(problem) => return self.act(Action::Started(reply, Err(problem))),
        };
        let (id, digest) = (identity.run, identity.digest);
        let mut append = Append { new_runs: vec![new_run], ..Append::new(identity.scope, id) };
        append.timers = timers_of_start(&run, self.now.ms);
        append.projections.extend(projection_at_start(&run));
        self.insert(identity, program, run, input);
        let waiting = Waiting { started: Some(reply), ..Waiting::default() };
        if self.may_begin_ahead(digest) {
            self.send_or_speculate(id, append, waiting);
        } else {
            self.send(id, append, |sent| sent.waiting = waiting);
        }
    }

    /// Takes a run into memory whose row 0 is on its way.
    pub(crate) fn insert(&mut self, identity: RunIdentity, program: E::Program, run: Run, input: Json) {
        let id = identity.run;
        let history = self.config.check_activations.then(Vec::new);
        let slot = Slot {
            identity: identity.into(),
            program,
            started_at_ms: run.started_at_ms(),
            start_timer_fired: false,
            run,
            input,
            guest: Guest::Cold(Vec::new()),
            undelivered: VecDeque::new(),
            speculative: None,
            durable: Seq(0),
            seen: Seq(0),
            unacked: 0,
            attempts: BTreeMap::new(),
            is_behind: false,
            outgoing: VecDeque::new(),
            sending: None,
            cancel: None,
            terminate: None,
            overdue: None,
            sent: None,
            room: None,
            losses: 0,
            is_unreplayed: false,
            is_stale: false,
            is_reloaded: false,
            offers_alone: false,
            activation: Default::default(),
            history,
        };
        self.left.pop(&id);
        self.slots.insert(id, slot);
    }
}
