//! Updates, as `server::service::update` makes them: the run's validator is asked, by a guest of its own; then a signal
//! goes to the run, and its ledger is looked at until it has the answer, or the run has ended. A client whose host dies, or
//! that has waited for long enough, asks for the same update once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstitch_core::{Command, Event as Row, HeardId, Message, Replay, RunId, RunStatus, Seq, limits};
use backstitch_ledger::Posted;

use super::asking::{Seen, Stage, Update};
use super::checks::Broken;
use super::event::Event;
use super::sent::Answer;
use super::state::Cluster;
use crate::script::{Guest, WORKFLOWS, update_payload};

/// What the ids of the signals begin with.
const PREFIX: &str = "update:";
/// How long a client waits for an answer before it asks again, in microseconds.
const WAIT_US: u64 = 5_000_000;
/// Looks for the answer grow rarer from the one to the other, in microseconds.
const POLLS_US: (u64, u64) = (5_000, 1_000_000);

/// What a validator says.
enum Validated {
    Takes,
    Refuses,
    /// It cannot be asked on this host.
    Unloadable,
}

impl Cluster {
    /// A client makes an update.
    pub(super) fn begin_update(&mut self, workflow_id: String, name: &'static str, number: u64) {
        let id: Arc<str> = format!("up-{number:016x}").into();
        self.sent.begins(&id, &workflow_id);
        let (asked, until_us, stage) = ((0, 0), 0, Stage::New);
        self.go_on_with_update(Update { id, workflow_id, name, number, asked, until_us, stage });
    }

    /// The next step of an update.
    pub(super) fn go_on_with_update(&mut self, mut update: Update) {
        let (host, epoch) = update.asked;
        let is_asked = !matches!(update.stage, Stage::New);
        if is_asked && (self.hosts[host].epoch != epoch || self.hosts[host].term.is_none()) {
            // The client hears nothing more.
            return self.ask_again(update, 300_000);
        }
        match std::mem::replace(&mut update.stage, Stage::New) {
            Stage::New => {
                let Some(host) = self.some_host() else { return self.ask_again(update, 200_000) };
                update.asked = (host, self.hosts[host].epoch);
                update.until_us = self.now_us + WAIT_US;
                self.receive(update);
            }
            Stage::Validated(run) => self.send_update(update, run),
            Stage::Sent(run, seen, pause_us) => self.look_for_answer(update, run, seen, pause_us),
        }
    }

    /// A host gets an update that it may know already.
    fn receive(&mut self, mut update: Update) {
        let Some(run) = self.database.latest_run(self.scope(), &update.workflow_id) else {
            return self.sent.ends();
        };
        match self.find_update(run, &update.id) {
            Some((_, Some(answer))) => self.answered(&update, answer),
            Some((run, None)) => {
                update.stage = Stage::Sent(run, Seen::default(), POLLS_US.0);
                self.after(POLLS_US.0, Event::Update(update));
            }
            None => self.validate(update, run),
        }
    }

    /// Which run has received an update, this one or one that it continues, and its answer.
    fn find_update(&self, run: RunId, id: &str) -> Option<(RunId, Option<Answer>)> {
        let heard = HeardId::signal(&format!("{PREFIX}{id}"));
        let mut at = Some(run);
        for _ in 0..limits::GENERATIONS_FOLLOWED_MAX {
            let run = at?;
            let mut seen = Seen::default();
            let answer = self.answer_in(run, id, &mut seen);
            if answer.is_some() || seen.received {
                return Some((run, answer));
            }
            if !seen.heard_before.contains(&heard) {
                return None;
            }
            at = self.database.generation_beside(run, -1);
        }
        None
    }

    /// Looks for an update and its answer in the rows that have come since the last look.
    fn answer_in(&self, run: RunId, id: &str, seen: &mut Seen) -> Option<Answer> {
        let signal = format!("{PREFIX}{id}");
        for row in self.database.rows(run, seen.from, usize::MAX) {
            seen.from = Seq(row.seq.0 + 1);
            match row.event() {
                Ok(Row::RunStarted { options, .. }) => seen.heard_before.clone_from(&options.heard),
                Ok(Row::SignalReceived { id: Some(known), .. }) => seen.received |= *known == *signal,
                Ok(Row::Commanded { command: Command::AnswerUpdate { update, outcome }, .. })
                    if *update == *id =>
                {
                    return Some(outcome);
                }
                _ => {}
            }
        }
        None
    }

    /// Asks a run whether it would take an update.
    fn validate(&mut self, mut update: Update, run: RunId) {
        match self.ask_validator(update.asked.0, run, update.number) {
            Ok(Validated::Takes) => {
                update.stage = Stage::Validated(run);
                let us = self.delay(3_000);
                self.after(us, Event::Update(update));
            }
            Ok(Validated::Refuses) => {
                self.note(|| format!("update {} is refused", update.id));
                self.met("update-refused");
                self.sent.ends();
            }
            Ok(Validated::Unloadable) => self.ask_again(update, 1_000_000),
            Err(broken) => self.check(Err(broken)),
        }
    }

    /// A guest of its own is led along the ledger, asked, and dropped.
    fn ask_validator(&self, host: usize, id: RunId, number: u64) -> Result<Validated, Broken> {
        let rows = self.database.rows(id, Seq(0), usize::MAX);
        let Some(Ok(Row::RunStarted { workflow, input, options })) =
            rows.first().map(backstitch_core::Row::event)
        else {
            return Err(format!("run {id} has no start"));
        };
        let digest = self.directory.borrow().workflows.get(&*workflow).copied();
        if digest.is_some_and(|digest| self.lacks(host, digest).is_some()) {
            return Ok(Validated::Unloadable);
        }
        let Some(place) = WORKFLOWS.iter().position(|name| **name == *workflow) else {
            return Err(format!("run {id} is of no workflow"));
        };
        let mut replay = Replay::new(id, rows[0].at_ms, &options);
        for row in &rows[1..] {
            let event = row.event().map_err(|error| format!("row {} of run {id}: {error}", row.seq))?;
            replay.enqueue(row.seq, row.at_ms, event);
        }
        let mut guest = Guest::new(Arc::new(self.plan.scripts[place].clone()), replay, input);
        match guest.activate() {
            Ok(_) if guest.validates(number) => Ok(Validated::Takes),
            Ok(_) => Ok(Validated::Refuses),
            Err(stopped) => Err(format!("run {id} cannot be asked about an update: {stopped}")),
        }
    }

    /// Sends an update to the run that would take it.
    fn send_update(&mut self, mut update: Update, run: RunId) {
        let payload = update_payload(&update.id, update.number);
        let id = Some(format!("{PREFIX}{}", update.id).into());
        let message = Message::Signal { name: update.name.into(), payload, id }.to_row();
        let (item, now_ms) = (self.new_id(), self.database_now_ms());
        match self.database.post(self.scope(), run, item, now_ms, &message) {
            Posted::Accepted { owner } => {
                self.note(|| format!("update {} is sent to {run}", update.id));
                self.sent.takes(&update.id);
                self.hint(owner);
                update.stage = Stage::Sent(run, Seen::default(), POLLS_US.0);
                self.after(POLLS_US.0, Event::Update(update));
            }
            Posted::Closed(RunStatus::Continued) => match self.database.successor(run) {
                // Another run, which may think otherwise.
                Some(next) => self.validate(update, next),
                None => self.sent.ends(),
            },
            Posted::Closed(_) | Posted::Full | Posted::Unknown => self.sent.ends(),
        }
    }

    /// The status first: an answer is never later than the end of its run.
    fn look_for_answer(&mut self, mut update: Update, run: RunId, mut seen: Seen, pause_us: u64) {
        let status = self.database.status_of(run);
        if let Some(answer) = self.answer_in(run, &update.id, &mut seen) {
            return self.answered(&update, answer);
        }
        let next = match status {
            Some(RunStatus::Continued) => self.database.generation_beside(run, 1),
            Some(status) if status.is_open() => Some(run),
            // It has ended without an answer, or is gone.
            _ => {
                self.met("update-unanswered");
                return self.sent.ends();
            }
        };
        if self.now_us >= update.until_us {
            return self.ask_again(update, 1_000_000);
        }
        update.stage = match next {
            // What the run had not had has been handed on.
            Some(next) if next != run => Stage::Sent(next, Seen::default(), pause_us),
            _ => Stage::Sent(run, seen, (pause_us * 2).min(POLLS_US.1)),
        };
        self.after(pause_us, Event::Update(update));
    }

    /// A client hears the answer.
    fn answered(&mut self, update: &Update, answer: Answer) {
        self.note(|| format!("update {} is answered: {answer:?}", update.id));
        self.met(if answer.is_ok() { "update-answered" } else { "update-failed" });
        let holds = self.sent.answers(&update.id, answer);
        self.check_unless_lost(holds);
        self.sent.ends();
    }

    /// A client asks for the same once more.
    fn ask_again(&mut self, update: Update, us: u64) {
        self.after(us, Event::Update(Update { stage: Stage::New, ..update }));
    }

    /// What was taken was answered once, by a run that had it; and what was told is there.
    pub(super) fn updates_are_answered(&self) -> Result<(), Broken> {
        let (mut received, mut answered) = (BTreeSet::new(), BTreeMap::<Arc<str>, Vec<Answer>>::new());
        let mut answers: BTreeSet<(String, Arc<str>)> = BTreeSet::new();
        for (run, workflow_id, ..) in self.database.named_runs() {
            let mut here: BTreeMap<Arc<str>, bool> = BTreeMap::new();
            for row in self.database.rows(run, Seq(0), usize::MAX) {
                match row.event() {
                    Ok(Row::SignalReceived { id: Some(id), .. }) if id.starts_with(PREFIX) => {
                        let id: Arc<str> = id[PREFIX.len()..].into();
                        here.insert(Arc::clone(&id), false);
                        received.insert(id);
                    }
                    Ok(Row::Commanded { command: Command::AnswerUpdate { update, outcome }, .. }) => {
                        match here.insert(Arc::clone(&update), true) {
                            Some(false) => {}
                            Some(true) => {
                                return Err(format!("run {run} has answered update {update} twice"));
                            }
                            None => return Err(format!("run {run} has answered update {update} unasked")),
                        }
                        let is_first = answers.insert((workflow_id.clone(), Arc::clone(&update)));
                        if !is_first && !self.sent.is_reset(&workflow_id) {
                            return Err(format!("{workflow_id} has answered update {update} twice"));
                        }
                        answered.entry(update).or_default().push(outcome);
                    }
                    _ => {}
                }
            }
        }
        self.sent.is_true(&received, &answered, self.checks.has_lost_commits)
    }
}
