//! Heartbeats of remote workers, as `server::service::tasks` takes them: they keep the lease, and what they say is told to
//! the next attempt; the answer says when nobody waits for the call any more.

use backstitch_core::{Json, Run, RunStatus, Seq};
use backstitch_ledger::TaskHeartbeat;

use super::checks::Broken;
use super::env::Task;
use super::event::Event;
use super::said::heartbeat_details;
use super::state::Cluster;

impl Cluster {
    /// When a worker says next that it is at work, in microseconds from now.
    pub(super) fn heartbeat_us(&mut self) -> u64 {
        100_000 + self.delay(600_000)
    }

    /// A worker says that it is at work, and so many times more; then it answers. It may die in between.
    pub(super) fn send_heartbeat(&mut self, task: Task, output: Option<Json>, left: u32) {
        if self.some_host().is_none() {
            return self.after(200_000, Event::Heartbeat { task, output, left });
        }
        let details = self.rng.chance(700).then(|| heartbeat_details(&mut self.rng));
        let now_ms = self.database_now_ms();
        let heard = self.database.heartbeat_task(task.scope, task.token, details.as_ref(), now_ms);
        self.note(|| format!("heartbeat of {}: {details:?}, {heard:?}", task.token));
        let Some(TaskHeartbeat { given_up, .. }) = heard else { return self.met("heartbeat-too-late") };
        if given_up {
            self.met("heartbeat-to-stop");
            let holds = self.is_given_up(&task);
            self.check_unless_lost(holds);
            // It puts away what it has in hand, and says so or not.
            if self.rng.chance(500) {
                self.after(20_000, Event::Answer { task, output: None, tries: 0 });
            }
            return;
        }
        if let Some(details) = &details {
            self.said.heartbeat(&task, details);
            self.met("heartbeat-kept");
        }
        match left {
            _ if self.rng.chance(80) => {}
            // It has no time for it any more.
            _ if self.rng.chance(100) => self.give_back(&task),
            0 => self.after(10_000, Event::Answer { task, output, tries: 0 }),
            _ => {
                let us = self.heartbeat_us();
                self.after(us, Event::Heartbeat { task, output, left: left - 1 });
            }
        }
    }

    /// A worker is told that nobody waits for its answer: that is so.
    fn is_given_up(&self, task: &Task) -> Result<(), Broken> {
        let (run, op) = (task.token.run, task.token.op);
        let is_open = self.database.status_of(run).is_some_and(RunStatus::is_open);
        let rows = self.database.rows(run, Seq(0), usize::MAX);
        let folded = Run::load_all(run, &rows);
        let waits = folded.is_ok_and(|(folded, _)| is_open && folded.open_op(op).is_some());
        match waits {
            true => Err(format!("the worker of {} is told to stop, and its run waits for it", task.token)),
            false => Ok(()),
        }
    }
}
