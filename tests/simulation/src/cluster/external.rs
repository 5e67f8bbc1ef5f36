//! What clients, operators and misfortune do.

use std::sync::Arc;

use backstitch_core::{Digest, Message, RunId, RunStatus, StartOptions};
use backstitch_ledger::Posted;
use backstitch_scheduler::{Input, RunIdentity, Start};

use super::env::Reply as Waits;
use super::event::{Event, HostEvent};
use super::host::Source;
use super::plan::{External, FAULTS_END_US};
use super::state::Cluster;
use super::worker::Answering;
use crate::model::Reply;
use crate::script::{WORKFLOWS, start_input};

impl Cluster {
    pub(super) fn external(&mut self, external: External) {
        match external {
            External::Start { workflow, id, number, delay_ms, timeout_ms } => {
                self.start(workflow, &id, number, (delay_ms, timeout_ms));
            }
            External::Signal { id, name, number } => {
                let (payload, signal) = (start_input(number), format!("signal-{number:016x}"));
                let known = Some(signal.as_str().into());
                let message = Message::Signal { name: name.into(), payload, id: known };
                if let Some(run) = self.post(&id, &message) {
                    self.checks.signalled(signal, run);
                }
            }
            External::Update { id, name, number } => self.begin_update(id, name, number),
            External::Reset { id, number, drops_signals } => {
                self.begin_fork(&id, None, number, drops_signals);
            }
            External::Fork { id, to, number } => self.begin_fork(&id, Some(to), number, false),
            External::Retry { id } => drop(self.post(&id, &Message::Retry)),
            External::Cancel { id } => {
                let reason = "a client asked for it".to_owned();
                self.post(&id, &Message::Cancel { reason, id: None });
            }
            External::Terminate { id } => {
                let reason = "a client asked for it".to_owned();
                self.post(&id, &Message::Terminate { reason, only_this: false });
            }
            External::Pause { id } => drop(self.post(&id, &Message::Pause { reason: "wait".to_owned() })),
            External::Resume { id } => drop(self.post(&id, &Message::Resume { reason: "go on".to_owned() })),
            External::Repair { id } => drop(self.post(&id, &Message::Repair)),
            External::Serve { activity } => {
                self.directory.borrow_mut().activities.insert(activity.to_owned());
            }
            External::At { host, action, then } => self.hosts[host].armed.push((action, *then)),
            External::Failover { commits } => self.fail_over(commits),
            External::ClockStep { ms } => self.database_ms += ms,
            fault => self.fault(&fault),
        }
    }

    fn fault(&mut self, fault: &External) {
        match *fault {
            External::Crash { host, after_actions: 0 } => self.crash(host),
            External::Crash { host, after_actions } => {
                self.hosts[host].crash_in = Some(after_actions);
            }
            External::Stop { host } => {
                if self.hosts[host].term.is_some() {
                    let reply = self.new_reply(Answering::Stop { asked: (host, self.hosts[host].epoch) });
                    self.tell_later(host, 0, HostEvent::Tell(Input::Drain(Waits::new(reply))));
                }
            }
            External::Freeze { host, us } => self.hosts[host].frozen_until_us = self.now_us + us,
            External::Misread { host } => self.hosts[host].misreads = true,
            External::Unloadable { host, workflow, us, is_final } => {
                let Some(digest) = self.directory.borrow().workflows.get(WORKFLOWS[workflow]).copied() else {
                    return;
                };
                let until_us = (self.now_us + us).min(FAULTS_END_US);
                self.hosts[host].unloadable.borrow_mut().insert(digest, (until_us, is_final));
            }
            External::LoseReply { host } => self.hosts[host].next_reply = Some(Reply::Lost),
            External::LoseStatement { host } => self.hosts[host].next_reply = Some(Reply::Never),
            External::DeclareDead { host } => {
                if let Some(term) = &self.hosts[host].term {
                    self.database.declare_dead(term.id);
                }
            }
            External::ShortOfMemory { host } => {
                if let Some(term) = &self.hosts[host].term {
                    term.shared.is_short.set(true);
                    self.tell_later(host, 0, HostEvent::Tell(Input::ShortOfMemory));
                }
            }
            _ => unreachable!("the caller has seen to all others"),
        }
    }

    /// Another server takes over, and every host connects anew.
    pub(super) fn fail_over(&mut self, commits: u64) {
        if self.database.lose(commits) > 0 {
            self.checks.has_lost_commits = true;
            self.beside.has_lost_commits = true;
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].term.is_some() {
                let us = self.delay(600_000);
                self.tell_later(host, us, HostEvent::Tell(Input::Reconnected));
            }
        }
    }

    fn start(
        &mut self,
        workflow: usize,
        id: &str,
        number: u64,
        (delay_ms, timeout_ms): (Option<u64>, Option<u64>),
    ) {
        let Some(host) = self.some_host() else { return };
        let name: Arc<str> = WORKFLOWS[workflow].into();
        let run = RunId(self.new_id());
        let Some(digest) = self.directory.borrow().workflows.get(&*name).copied() else { return };
        let Some(program) = self.directory.borrow().programs.get(&digest).cloned() else { return };
        if self.lacks(host, digest).is_some() {
            // The client is told so, and tries once more.
            let again = External::Start { workflow, id: id.to_owned(), number, delay_ms, timeout_ms };
            return self.after(1_000_000, Event::Again(again));
        }
        let options = StartOptions {
            start_at_ms: delay_ms.map(|ms| self.database_now_ms() + ms),
            run_timeout_ms: timeout_ms,
            priority: Some(1 + (number % u64::from(StartOptions::PRIORITY_LAST)) as u8),
            ..StartOptions::default()
        };
        let mut seed = [0; 32];
        seed.fill_with(|| self.rng.next_u64() as u8);
        let options = Arc::new(options.beginning(backstitch_core::Seed(seed)));
        let reply = self.new_reply(Answering::Start { run, asked: (host, self.hosts[host].epoch) });
        let identity = RunIdentity {
            scope: self.scope(),
            run,
            workflow_id: id.into(),
            generation: 0,
            workflow: name,
            digest,
            parent: None,
        };
        let start =
            Start { identity, options, program, input: start_input(number), reply: Waits::new(reply) };
        let us = self.delay(1_000);
        self.tell_later(host, us, HostEvent::Tell(Input::Start(start)));
    }

    /// Whether a host cannot make a component ready.
    pub(super) fn lacks(&self, host: usize, digest: Digest) -> Option<bool> {
        let shared = &self.hosts[host].term.as_ref()?.shared;
        shared.now_us.set(self.now_us);
        shared.lacks(digest)
    }

    /// Sends a message to the latest run of a workflow id. None: it was not taken.
    fn post(&mut self, id: &str, message: &Message) -> Option<RunId> {
        let run = self.database.latest_run(self.scope(), id)?;
        self.post_to(run, message).then_some(run)
    }

    pub(super) fn post_to(&mut self, run: RunId, message: &Message) -> bool {
        let (item, now_ms) = (self.new_id(), self.database_now_ms());
        let posted = self.database.post(self.scope(), run, item, now_ms, &message.to_row());
        let Posted::Accepted { owner } = posted else { return false };
        self.hint(owner);
        true
    }

    /// Whoever owns a run is told that there is a message for it; now and then nobody is.
    pub(super) fn hint(&mut self, owner: Option<backstitch_core::HostId>) {
        if self.rng.chance(200) {
            return;
        }
        let host = (0..self.hosts.len())
            .find(|host| self.hosts[*host].term.as_ref().is_some_and(|term| Some(term.id) == owner));
        if let Some(host) = host {
            self.look_soon(host, Source::Inbox, 500);
        }
    }

    /// Once faults have ceased, an operator has everything go on.
    pub(super) fn operate(&mut self) {
        for (run, _, _, status) in self.database.named_runs() {
            match status {
                RunStatus::Parked => drop(self.post_to(run, &Message::Retry)),
                RunStatus::Paused => {
                    self.post_to(run, &Message::Resume { reason: "go on".to_owned() });
                }
                _ => {}
            }
        }
    }

    pub(super) fn new_reply(&mut self, answering: Answering) -> u64 {
        self.replies += 1;
        self.answering.insert(self.replies, answering);
        self.replies
    }
}
