//! What follows from a run's ledger, decided without doing any of it: its row 0, its timers, its calls, and what others
//! are told when it closes.

use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::start::Parent;
use backstitch_core::{
    Event, Failure, FailureKind, Fault, FaultKind, Json, Message, Op, Projection, Run, RunId, RunStatus,
    Scope, Seq, StartOptions, limits,
};
use backstitch_ledger::{Head, InboxItem, NewItem, NewProjection, NewRun, NewTimer, StatusChange};

use uuid::Uuid;

use crate::identity::RunIdentity;

/// What a row of the timers table is for. Persisted: append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A sleep of the guest.
    Sleep = 1,
    /// The next attempt of an activity.
    Retry = 2,
    /// The start of a run that waits for it.
    Start = 3,
    /// The end of the time that a run may take.
    Deadline = 4,
}

/// Timers of the run itself stand under numbers that no command can have.
pub const START_OP: Op = Op(u32::MAX);

/// See [`START_OP`].
pub(crate) const DEADLINE_OP: Op = Op(u32::MAX - 1);

impl Purpose {
    pub(crate) fn tag(self) -> i16 {
        self as i16
    }

    pub(crate) fn from_tag(tag: i16) -> Option<Self> {
        [Self::Sleep, Self::Retry, Self::Start, Self::Deadline]
            .into_iter()
            .find(|purpose| purpose.tag() == tag)
    }
}

/// The purpose of timers that fire for parked and paused runs too.
pub const DEADLINE: i16 = Purpose::Deadline as i16;

/// Why a run whose ledger has no room left is parked.
pub(crate) fn full() -> Fault {
    let message = "the run's ledger is full; have the workflow continue as new before it is";
    Fault::new(FaultKind::Limit, message)
}

/// Where the ledger of a run ends.
pub(crate) fn head(run: &Run) -> Option<Head> {
    let last = run.next_seq().0.checked_sub(1)?;
    Some(Head { seq: Seq(last), chain: run.chain() })
}

/// A message that this host has sent, as its inbox will show it.
pub(crate) fn received(scope: Scope, sent: &NewItem) -> InboxItem {
    InboxItem {
        scope,
        run: sent.run,
        item_id: sent.item_id,
        message: sent.message.clone(),
        at_ms: sent.at_ms,
    }
}

/// Timers of the run itself that are still to come.
pub(crate) fn timers_of_start(run: &Run, now_ms: u64) -> Vec<NewTimer> {
    own_timers(run.id(), run.start(), run.started_at_ms(), now_ms)
}

/// The same, of a run that was started then, on these terms.
pub fn own_timers(run: RunId, options: &StartOptions, started_at_ms: u64, now_ms: u64) -> Vec<NewTimer> {
    let start = options.start_at_ms.filter(|at_ms| *at_ms > now_ms);
    let deadline = options.deadline(started_at_ms).map(|(at_ms, _)| at_ms);
    let timers = [(start, START_OP, Purpose::Start), (deadline, DEADLINE_OP, Purpose::Deadline)];
    let timer = |(due, op, purpose): (Option<u64>, Op, Purpose)| {
        due.map(|due_ms| NewTimer { run, op, due_ms, purpose: purpose.tag() })
    };
    timers.into_iter().filter_map(timer).collect()
}

/// Every timer that an open run has to have in the database.
pub fn timers_of(run: &Run, now_ms: u64) -> Vec<NewTimer> {
    let sleeps = run.open_ops().filter_map(|(op, open)| match open {
        OpenOp::Timer { due_at_ms } => {
            Some(NewTimer { run: run.id(), op, due_ms: *due_at_ms, purpose: Purpose::Sleep.tag() })
        }
        _ => None,
    });
    let others = retries_to_come(run, now_ms).into_iter().chain(timers_of_start(run, now_ms));
    sleeps.chain(others).collect()
}

/// What is known about a run from its start.
pub(crate) fn projection_at_start(run: &Run) -> Option<NewProjection> {
    let start = run.start();
    let attributes =
        start.attributes.iter().map(|(name, value)| (Arc::clone(name), Some(value.clone()))).collect();
    let entity = start.entity.as_ref().map(Json::text);
    let memory = NewProjection { run: run.id(), entity, attributes };
    (!memory.is_empty()).then_some(memory)
}

/// What the tables have to say about a run.
pub fn projection_of(run: RunId, projection: &Projection) -> NewProjection {
    let (entity, attributes) = projection.to_be_stored();
    NewProjection { run, entity: entity.map(|entity| entity.text()), attributes }
}

/// Row 0 of a run.
pub fn begin_run(
    identity: &RunIdentity,
    input: &Json,
    options: Arc<StartOptions>,
    now_ms: u64,
) -> Result<(NewRun, Run), String> {
    let mut run = Run::new(identity.run);
    let started =
        Event::RunStarted { workflow: Arc::clone(&identity.workflow), input: input.clone(), options };
    let first = run.append(now_ms, &started).map_err(|illegal| illegal.to_string())?;
    let new_run = NewRun {
        run: identity.run,
        workflow_id: Arc::clone(&identity.workflow_id),
        generation: identity.generation,
        workflow: Arc::clone(&identity.workflow),
        digest: identity.digest,
        parent: identity.parent,
        first,
        further: Vec::new(),
    };
    Ok((new_run, run))
}

/// What a child is called.
pub fn child_workflow_id(parent: RunId, op: Op, asked: Option<Arc<str>>) -> Arc<str> {
    asked.unwrap_or_else(|| format!("{parent}:{op}").into())
}

/// Whether the run may have one more child.
pub(crate) fn may_have_child(run: &Run) -> Result<(), Failure> {
    let refused = |code, message| Err(Failure::fatal(FailureKind::Application, code, message));
    if run.start().depth >= limits::RUN_DEPTH_MAX {
        return refused(
            "too-deep",
            format!("{} parents are above this run, which may have no children", run.start().depth),
        );
    }
    // The one that is to be started counts as open already.
    if run.children_open() > limits::CHILDREN_OPEN_MAX {
        return refused("too-many-children", format!("{} children are open", limits::CHILDREN_OPEN_MAX));
    }
    Ok(())
}

/// On which terms a child of `run` starts.
pub fn child_options(run: RunId, workflow_id: &Arc<str>, start: &StartOptions) -> StartOptions {
    StartOptions {
        priority: start.priority,
        depth: start.depth + 1,
        parent: Some(Parent { run, workflow_id: Arc::clone(workflow_id) }),
        ..StartOptions::default()
    }
}

/// What the `runs` table says about a run that is parked.
pub(crate) fn parking(fault: &Fault) -> StatusChange {
    let json = serde_json::to_string(fault).expect("a fault is plain text");
    StatusChange::Park { fault: json.into() }
}

/// What a parent hears when its child's name is another run's.
pub(crate) fn taken(workflow_id: &str) -> Failure {
    let message = format!("a run with the workflow id {workflow_id:?} exists");
    Failure::fatal(FailureKind::Application, "workflow-id-taken", message)
}

/// A new message, as the inbox of its receiver will have it.
pub fn new_inbox_item(item_id: Uuid, now_ms: u64, to: RunId, message: &Message) -> NewItem {
    NewItem { run: to, item_id, message: message.to_row(), at_ms: now_ms }
}

/// What the `runs` table says about a run that closed with `event`.
pub(crate) fn ending(event: &Event) -> (RunStatus, Option<Json>, Option<Failure>) {
    match event {
        Event::RunCompleted { output } => (RunStatus::Completed, Some(output.clone()), None),
        Event::RunFailed { failure } => (RunStatus::Failed, None, Some(failure.clone())),
        Event::RunCancelled { failure } => (RunStatus::Cancelled, None, Some(failure.clone())),
        Event::RunContinued { .. } => (RunStatus::Continued, None, None),
        Event::RunTimedOut { failure } => (RunStatus::TimedOut, None, Some(failure.clone())),
        Event::RunTerminated { reason } => {
            let failure = Failure::fatal(FailureKind::Terminated, "terminated", reason.clone());
            (RunStatus::Terminated, None, Some(failure))
        }
        _ => unreachable!("only closing events close a run"),
    }
}

/// Open calls of a run that was read from the ledger and that want an attempt now; those that wait
/// for a later retry have a row in the timers table.
pub(crate) fn due_calls(run: &Run, now_ms: u64) -> Vec<Op> {
    let due = run.open_ops().filter(|(_, open)| match open {
        OpenOp::Activity { retry_at_ms, .. } => retry_at_ms.is_none_or(|at| at <= now_ms),
        _ => false,
    });
    due.map(|(op, _)| op).collect()
}

/// Timers of the calls that wait for a later retry.
pub(crate) fn retries_to_come(run: &Run, now_ms: u64) -> Vec<NewTimer> {
    let later = run.open_ops().filter_map(|(op, open)| match open {
        OpenOp::Activity { retry_at_ms: Some(due_ms), .. } if *due_ms > now_ms => {
            Some(NewTimer { run: run.id(), op, due_ms: *due_ms, purpose: Purpose::Retry.tag() })
        }
        _ => None,
    });
    later.collect()
}

/// Why a run is parked.
pub(crate) fn host_lost(losses: u16) -> Fault {
    let message = format!(
        "{losses} hosts in a row died while they had this run, the last one while it was led alone; look at what its \
         component does to a host before you retry it"
    );
    Fault::new(FaultKind::HostLost, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{ChildOptions, Command};
    use uuid::Uuid;

    #[test]
    fn a_run_has_so_many_open_children_and_no_more() {
        let mut run = Run::new(RunId(Uuid::from_u128(1)));
        let started = |depth| Event::RunStarted {
            workflow: "w".into(),
            input: Json::null(),
            options: Arc::new(StartOptions { depth, ..StartOptions::default() }),
        };
        run.append(0, &started(limits::RUN_DEPTH_MAX - 1)).unwrap();
        for op in 0..limits::CHILDREN_OPEN_MAX as u32 {
            let command = Command::StartChild {
                workflow: "c".into(),
                input: Json::null(),
                options: ChildOptions::default(),
            };
            run.append(0, &Event::Commanded { op: Op(op), command }).unwrap();
            assert_eq!(may_have_child(&run), Ok(()), "the child of op {op}");
        }
        let op = Op(limits::CHILDREN_OPEN_MAX as u32);
        let command = Command::StartChild {
            workflow: "c".into(),
            input: Json::null(),
            options: ChildOptions::default(),
        };
        run.append(0, &Event::Commanded { op, command }).unwrap();
        assert_eq!(may_have_child(&run).unwrap_err().code, "too-many-children");
        let mut deep = Run::new(RunId(Uuid::from_u128(2)));
        deep.append(0, &started(limits::RUN_DEPTH_MAX)).unwrap();
        assert_eq!(may_have_child(&deep).unwrap_err().code, "too-deep");
    }
}
