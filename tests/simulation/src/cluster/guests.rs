//! The threads that run guests, as `engine::guests` does.

use std::sync::Arc;

use backstitch_core::{Command, Entity, Failure, Json, Op, Replay, Status};
use backstitch_scheduler::{Activated, ActivationError, ActivationResult, Input, Job, Next, PendingEvent};

use super::env::SimEnv;
use super::state::Cluster;
use crate::script::{ACTIVITY_INLINE, Guest, activity_output};

impl Cluster {
    /// A guest computes, and comes back.
    pub(super) fn compute(&mut self, host: usize, job: Job<SimEnv>) {
        let (run, activation) = job.key();
        let Some(term) = &mut self.hosts[host].term else { return };
        let is_abandoned = term.abandoned.remove(&(run, activation));
        let result = if is_abandoned && self.rng.chance(500) {
            Err(ActivationError::Abandoned)
        } else if self.rng.chance(10) {
            Err(ActivationError::NoRoom(Box::new(job)))
        } else {
            self.activate(job)
        };
        self.step(host, Input::Activated(Activated { run, activation, result }));
    }

    fn activate(
        &mut self,
        job: Job<SimEnv>,
    ) -> Result<ActivationResult<Box<Guest>>, ActivationError<SimEnv>> {
        let (mut guest, replayed) = match job {
            Job::Begin { origin, events, .. } => {
                let mut replay = Replay::new(origin.identity.run, origin.started_at_ms, &origin.options);
                for PendingEvent { seq, at_ms, event } in events {
                    replay.enqueue(seq, at_ms, event);
                }
                (Box::new(Guest::new(Arc::clone(&origin.program.script), replay, origin.input)), true)
            }
            Job::Resume { mut guest, events, .. } => {
                for PendingEvent { seq, at_ms, event } in events {
                    guest.replay().enqueue(seq, at_ms, event);
                }
                (guest, false)
            }
        };
        let done = match guest.activate() {
            Ok(done) => done,
            Err(stopped) => {
                // No script breaks a rule, so whatever led it did.
                self.check(Err(format!("a guest was stopped: {stopped}")));
                return Err(ActivationError::Fault(stopped.fault()));
            }
        };
        let inline = match done.status {
            Status::Blocked => self.carry_out_inline(&done.commands),
            _ => Vec::new(),
        };
        let next = matches!(done.status, Status::ContinueAsNew(_)).then(|| Next {
            unused: guest.replay().unused_signals(),
            attributes: guest.replay().attributes().clone(),
            entity: (*guest.replay().entity() != Entity::default())
                .then(|| guest.replay().entity().to_json()),
        });
        let (commands, status, projection) = (done.commands, done.status, done.memory);
        Ok(ActivationResult { guest, commands, status, projection, replayed, inline, next })
    }

    /// First attempts of the component without imports, on the thread of the guest.
    fn carry_out_inline(&mut self, commands: &[(Op, Command, bool)]) -> Vec<(Op, Result<Json, Failure>)> {
        let mut outcomes = Vec::new();
        for (op, command, is_open) in commands {
            if let Command::ScheduleActivity { name, input, .. } = command
                && *is_open
                && **name == *ACTIVITY_INLINE
                && self.rng.chance(700)
            {
                outcomes.push((*op, Ok(activity_output(name, input))));
            }
        }
        outcomes
    }
}
