//! What attempts have said of how far they have come: the next one of the same call is told.

use std::collections::BTreeMap;

use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Json, Op, Run, RunId};
use backstitch_ledger::Append;
use backstitch_scheduler::NewAttempt;

use super::checks::Broken;
use super::env::Task;
use crate::rng::Rng;

/// What was said last.
#[derive(Default)]
pub(super) struct Said {
    /// By a worker, of each call, and that the database has.
    far: BTreeMap<(RunId, Op), Json>,
    /// By an attempt on a host that is just ending.
    here: Option<((RunId, Op, u32), Option<Json>)>,
}

impl Said {
    /// The database has a worker's heartbeat.
    pub(super) fn heartbeat(&mut self, task: &Task, details: &Json) {
        self.far.insert((task.token.run, task.token.op), details.clone());
    }

    /// A worker gets a task.
    pub(super) fn told(&self, task: &Task) -> Result<(), Broken> {
        let known = self.far.get(&(task.token.run, task.token.op));
        match known.is_none_or(|known| task.said.as_ref() == Some(known)) {
            true => Ok(()),
            false => Err(format!("{} is told {:?}, and {known:?} was said before", task.token, task.said)),
        }
    }

    /// An attempt on a host is ending, or has ended.
    pub(super) fn ends_here(&mut self, ending: Option<((RunId, Op, u32), Option<Json>)>) {
        self.here = ending;
    }

    /// An append goes to the writer: an attempt that has failed is recorded with what it has said, or those before it.
    /// `run`: what is committed.
    pub(super) fn sent(&self, append: &Append, run: Option<&Run>) -> Result<(), Broken> {
        for row in &append.rows {
            let Ok(Event::AttemptFailed { op, attempt, heartbeat, .. }) = row.event() else { continue };
            let here = self.here.as_ref().filter(|(key, _)| *key == (append.run, op, attempt));
            let before = match run.and_then(|run| run.open_op(op)) {
                Some(OpenOp::Activity { attempts, heartbeat, .. }) if attempts + 1 == attempt => {
                    heartbeat.as_ref()
                }
                _ => None,
            };
            let is_kept = match here {
                Some((_, said)) => *said == heartbeat,
                None => before.is_none() || heartbeat.is_some(),
            };
            if !is_kept {
                return Err(format!(
                    "attempt {attempt} of op {op} of run {} is recorded with {heartbeat:?}, after {before:?} and {here:?}",
                    append.run
                ));
            }
        }
        Ok(())
    }

    /// An attempt begins on a host: it is told what the ledger says, as far as that is committed.
    pub(super) fn begins_here(new: &NewAttempt, run: Option<&Run>) -> Result<(), Broken> {
        let open = run.and_then(|run| run.open_op(new.op));
        let Some(OpenOp::Activity { attempts, heartbeat, .. }) = open else { return Ok(()) };
        match attempts + 1 != new.attempt || *heartbeat == new.heartbeat {
            true => Ok(()),
            false => Err(format!(
                "attempt {} of op {} of run {} is told {:?}, and its ledger says {heartbeat:?}",
                new.attempt, new.op, new.identity.run, new.heartbeat
            )),
        }
    }
}

/// What an attempt says.
pub(super) fn heartbeat_details(rng: &mut Rng) -> Json {
    Json::of(&rng.below(1_000_000)).expect("a number is JSON")
}
