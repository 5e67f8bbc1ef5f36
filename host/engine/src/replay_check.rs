//! Leads a component along a recorded ledger and says whether it goes the same way. Writes nothing,
//! so it may be asked of any run, open or closed, with any component.

use std::sync::Arc;

use backstitch_core::{Chain, Digest, Event, Fault, FaultKind, Replay, Row, Run, RunId, Seq};
use backstitch_sandbox::{RunInfo, Stop, Stopped, Unstarted, WorkflowInstance, WorkflowProgram};
use backstitch_wire::views::{ReplayVerdict, ReplayView};

/// A run to be gone over.
pub struct Recorded {
    /// Which.
    pub run: RunId,
    /// What its starter called it.
    pub workflow_id: Arc<str>,
    /// Its whole ledger.
    pub rows: Vec<Row>,
    /// Where that ended when the run closed.
    pub head: Option<(Seq, Chain)>,
}

/// Goes over a ledger with `program`. Computes for as long as that takes: call it on a thread that may.
pub fn replay_check(recorded: &Recorded, digest: Digest, program: &WorkflowProgram) -> ReplayView {
    let Recorded { run, rows, head, .. } = recorded;
    let mut view = ReplayView {
        run_id: *run,
        digest,
        rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
        commands: 0,
        fuel: 0,
        verdict: ReplayVerdict::Identical,
    };
    let events = match Run::load_closed(*run, rows, *head) {
        Ok((_, events)) => events,
        Err(corrupt) => {
            let fault = Fault::new(FaultKind::Corrupt, format!("the ledger is damaged: {corrupt}"));
            view.verdict = ReplayVerdict::Faulted { fault };
            return view;
        }
    };
    let commands = events.iter().filter(|event| matches!(event, Event::Commanded { .. })).count();
    view.commands = u32::try_from(commands).unwrap_or(u32::MAX);
    match replay(recorded, program, events, Stop::default()) {
        Ok((_, fuel)) => view.fuel = fuel,
        Err(ReplayError::Stopped(Stopped::Divergence(divergence))) => {
            view.verdict = ReplayVerdict::Diverged { divergence: *divergence }
        }
        Err(ReplayError::Stopped(Stopped::Fault(fault))) => view.verdict = ReplayVerdict::Faulted { fault },
        Err(ReplayError::Stopped(Stopped::Unwanted)) => unreachable!("nobody else has the means to stop it"),
        Err(ReplayError::NoRoom) => {
            let fault = Fault::new(FaultKind::Limit, NO_ROOM);
            view.verdict = ReplayVerdict::Faulted { fault };
        }
    }
    view
}

/// What is said when every slot for guests is taken.
pub const NO_ROOM: &str = "this host has no room for one more guest now; try again";

/// Why a guest does not stand where its ledger ends.
pub enum ReplayError {
    /// It broke down or went another way.
    Stopped(Stopped),
    /// Every slot for guests is taken.
    NoRoom,
}

/// A guest of `program`, led along the `events` that the rows are; and the fuel it used. Says
/// nothing in the host's log: what was to be said was said by the run's own guest. `stop`: by which it is given up.
pub fn replay(
    recorded: &Recorded,
    program: &WorkflowProgram,
    events: Vec<Event>,
    stop: Stop,
) -> Result<(WorkflowInstance, u64), ReplayError> {
    let Recorded { run, workflow_id, rows, .. } = recorded;
    let (workflow, input, options) = match events.first() {
        Some(Event::RunStarted { workflow, input, options }) => {
            (Arc::clone(workflow), input.clone(), Arc::clone(options))
        }
        _ => unreachable!("a ledger that was folded begins with its start"),
    };
    let info = RunInfo::new(*run, Arc::clone(workflow_id), workflow, &options);
    let mut replay = Replay::new(*run, rows[0].at_ms, &options);
    for (row, event) in rows.iter().zip(events) {
        replay.enqueue(row.seq, row.at_ms, event);
    }
    let guest = WorkflowInstance::new(program, replay, info, input);
    let mut guest = guest.map_err(|unstarted| match unstarted {
        Unstarted::Fault(fault) => ReplayError::Stopped(Stopped::Fault(fault)),
        Unstarted::Unwanted => ReplayError::Stopped(Stopped::Unwanted),
        Unstarted::NoRoom => ReplayError::NoRoom,
    })?;
    guest.mute();
    guest.heed(stop);
    let activation = guest.activate().map_err(ReplayError::Stopped)?;
    Ok((guest, activation.fuel))
}
