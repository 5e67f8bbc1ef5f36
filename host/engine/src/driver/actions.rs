//! One action after the other: none of them waits.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{Op, RunId, Scope};
use backstitch_ledger::{Head, Loss, NewItem, RunRef};
use backstitch_sandbox::Stop;
use backstitch_scheduler::{Action, Job, NewAttempt, StopAttempt, Trial, Wake};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::inputs::Input;
use super::live::Live;
use super::places::Place;
use super::state::{Driver, Running};
use crate::deferral::Deferral;
use crate::guests::Work;
use crate::retry::until_answered;
use crate::{attempt, failpoint};

/// Ends of ledgers in one question.
const HEADS_AT_ONCE: usize = 1_000;

impl Driver {
    pub(super) fn carry_out(&mut self, action: Action<Live>) {
        match action {
            Action::Append(item) => self.outbox.push_back(item),
            Action::Activate(job) => self.activate(job),
            Action::AbandonActivation(run, activation) => {
                if let Some((_, stop)) = self.guests.get(&run).filter(|(known, _)| *known == activation) {
                    stop.now();
                }
            }
            Action::StartAttempt(attempt) => self.start_attempt(attempt),
            Action::StopAttempt(run, op, how) => self.stop_attempt(run, op, how),
            Action::Deliver(reservation, attempt) => {
                let task = attempt::remote(*attempt);
                attempt::log_remote(&task);
                reservation.deliver(task);
            }
            Action::Offered(queue, name) => {
                self.deps.matcher.offered(&queue, &name);
                self.deps.notifier.offered(&queue);
            }
            Action::Served => self.deps.notifier.deployed(),
            // Whoever has gone needs no answer.
            Action::Started(reply, started) => drop(reply.send(started)),
            Action::Settled(reply, settlement) => drop(reply.send(settlement)),
            Action::Deferred(reply, token) => drop(reply.send(token)),
            Action::Drained(reply) => drop(reply.send(())),
            Action::Read { run, number, program } => self.deps.loads.one(run, number, program),
            Action::ReadClaimed(runs, batch) => {
                failpoint::point("takeover-middle");
                self.deps.loads.claimed(runs, &batch);
            }
            Action::ReadToClose { run, number } => self.deps.loads.to_close(run, number),
            Action::FindRun { from, scope, workflow_id } => self.find_run(from, scope, workflow_id),
            Action::FindSuccessor { from, of } => self.find_successor(from, of),
            Action::Post { from, scope, item } => self.post(from, scope, item),
            Action::CompareHeads(heads) => self.compare_heads(heads),
            Action::CompareConsumed(items) => self.compare_consumed(items),
            Action::NoteLoss(scope, loss) => self.note_loss(scope, loss),
            Action::BeginTrial(trial) => self.begin_trial(trial),
            Action::EndTrial(trial, went_on) => self.end_trial(trial, went_on),
            Action::NoteProgress(replayed, went_on) => self.note_progress(replayed, went_on),
            Action::Wake(after, wake) => self.wake(after, wake),
            Action::ReadInbox => self.deps.inbox_wakeup.notify_one(),
            Action::TimerDue(due_ms) => self.deps.timer_wakeup.sooner(due_ms),
            Action::Closed(run) => self.deps.closings.tell(run),
        }
    }

    /// Asks somebody, and tells the scheduler the answer.
    fn ask(&mut self, asking: impl Future<Output = Option<Input>> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            if let Some(answer) = asking.await {
                let _ = inputs.send(answer).await;
            }
        });
    }

    fn wake(&mut self, after: Duration, wake: Wake) {
        self.ask(async move {
            tokio::time::sleep(after).await;
            Some(Input::Woken(wake))
        });
    }

    fn find_run(&mut self, from: (RunId, Op), scope: Scope, workflow_id: Arc<str>) {
        let ledger = self.deps.ledger.clone();
        self.ask(async move {
            let find = || ledger.run_id(scope, RunRef::WorkflowId(&workflow_id));
            Some(Input::Found { from, to: until_answered("looking for a run", find).await })
        });
    }

    fn find_successor(&mut self, from: (RunId, Op), of: RunId) {
        let ledger = self.deps.ledger.clone();
        self.ask(async move {
            let find = || ledger.successor(of);
            Some(Input::Found { from, to: until_answered("looking for a run's successor", find).await })
        });
    }

    fn post(&mut self, from: (RunId, Op), scope: Scope, item: NewItem) {
        let ledger = self.deps.ledger.clone();
        self.ask(async move {
            let NewItem { run: to, item_id, message, at_ms } = item;
            let post = || ledger.post(scope, to, item_id, at_ms, &message);
            Some(Input::Posted { from, to, posted: until_answered("sending a message", post).await })
        });
    }

    fn compare_heads(&mut self, heads: Vec<(RunId, Head)>) {
        let (ledger, host) = (self.deps.ledger.clone(), self.deps.lease.host);
        self.ask(async move {
            let mut all = Vec::new();
            for heads in heads.chunks(HEADS_AT_ONCE) {
                let lost = || ledger.lost_heads(host, heads);
                all.extend(until_answered("comparing runs in memory with their ledgers", lost).await);
            }
            (!all.is_empty()).then_some(Input::Lost(all))
        });
    }

    fn compare_consumed(&mut self, items: Vec<(RunId, Uuid)>) {
        let ledger = self.deps.ledger.clone();
        self.ask(async move {
            let look = || ledger.items_there(&items);
            let there = until_answered("looking for consumed messages", look).await;
            (!there.is_empty()).then_some(Input::Reappeared(there))
        });
    }

    /// Like all that the database is to know of, this goes on if the term ends meanwhile.
    fn note_loss(&self, scope: Scope, loss: Loss) {
        let ledger = self.deps.ledger.clone();
        tokio::spawn(async move {
            if let Err(error) = ledger.note_loss(scope, &loss).await {
                tracing::warn!(run = %loss.run, %error, "a loss could not be noted down; it is in this log only");
            }
        });
    }

    fn begin_trial(&self, trial: Trial) {
        let (ledger, lease, inputs) = (self.deps.ledger.clone(), self.deps.lease, self.inputs.clone());
        tokio::spawn(async move {
            let begin = || ledger.begin_trial(lease, trial.run, trial.op);
            let has_begun = until_answered("putting a run on trial", begin).await;
            let _ = inputs.send(Input::TrialBegun(trial, has_begun)).await;
        });
    }

    fn end_trial(&self, trial: Trial, went_on: bool) {
        let (ledger, host, inputs) = (self.deps.ledger.clone(), self.deps.lease.host, self.inputs.clone());
        tokio::spawn(async move {
            let end = || ledger.end_trial(host, trial.run, went_on);
            until_answered("ending a trial", end).await;
            let _ = inputs.send(Input::TrialEnded(trial, went_on)).await;
        });
    }

    fn note_progress(&self, replayed: Vec<RunId>, went_on: Vec<RunId>) {
        let (ledger, host) = (self.deps.ledger.clone(), self.deps.lease.host);
        tokio::spawn(async move {
            let note = || ledger.note_progress(host, &replayed, &went_on);
            until_answered("noting what runs did", note).await;
        });
    }

    fn activate(&mut self, job: Job<Live>) {
        let (run, activation) = job.key();
        let stop = Stop::default();
        self.guests.insert(run, (activation, stop.clone()));
        // The channel is unbounded in name only: one job for each run in memory.
        if self.deps.jobs.send(Work { job, stop }).is_err() {
            tracing::error!("the guest threads are gone");
        }
    }

    fn start_attempt(&mut self, new: NewAttempt) {
        let mut call = attempt::call(&new);
        let NewAttempt { identity, op, attempt, digest, until_ms, .. } = new;
        let (run, scope) = (identity.run, identity.scope);
        attempt::log(&call);
        let heartbeat = Arc::clone(&call.heartbeat);
        let deferral = Arc::new(Deferral {
            run,
            op,
            attempt,
            until_ms,
            heartbeat: Arc::clone(&heartbeat),
            inputs: self.inputs.clone(),
            clock: self.deps.clock.clone(),
            handed: OnceCell::new(),
        });
        call.defer = Some(Arc::clone(&deferral) as _);
        let (programs, ledger) = (self.deps.programs.clone(), self.deps.ledger.clone());
        let (notifier, inputs) = (self.deps.notifier.clone(), self.inputs.clone());
        let (place, said) = (Place(Arc::clone(&self.places)), Arc::clone(&heartbeat));
        let task = tokio::spawn(async move {
            let outcome = programs.invoke(scope, digest, call).await;
            failpoint::point("activity-done");
            let end = deferral.end(outcome, scope, &ledger, &notifier).await;
            drop(place);
            let heartbeat = said.details();
            // The scheduler is gone only when nobody needs the outcome any more.
            let _ = inputs.send(Input::AttemptEnded { run, op, attempt, heartbeat, end }).await;
        });
        self.attempts.insert((run, op), Running { attempt, task: task.abort_handle(), heartbeat });
    }

    fn stop_attempt(&mut self, run: RunId, op: Op, how: StopAttempt) {
        let Some(Running { task, heartbeat, .. }) = self.attempts.remove(&(run, op)) else { return };
        match how {
            StopAttempt::Abort => task.abort(),
            StopAttempt::RequestCancel => {
                if !heartbeat.request_cancel() {
                    task.abort();
                }
            }
            StopAttempt::Superseded => heartbeat.superseded(),
        }
    }
}
