//! Leads a component along a recorded ledger and says whether it goes the same way. Writes nothing,
//! so it may be asked of any run, open or closed, with any component.

use std::sync::Arc;

use backstitch_core::{Chain, Digest, Event, Fault, FaultKind, Replay, Row, Run, RunId, Seq};
use backstitch_sandbox::{Stopped, Unstarted, WorkflowInstance, WorkflowProgram};

use crate::views::{ReplayVerdict, ReplayView};

/// Goes over `rows`, the whole ledger of `run`, with `program`; `head` is where it ended when the run
/// closed. Computes for as long as that takes: call it on a thread that may.
pub fn retrace(
    run: RunId,
    digest: Digest,
    program: &WorkflowProgram,
    rows: &[Row],
    head: Option<(Seq, Chain)>,
) -> ReplayView {
    let mut view = ReplayView {
        run_id: run,
        digest,
        rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
        commands: 0,
        fuel: 0,
        verdict: ReplayVerdict::Identical,
    };
    let events = match Run::load_closed(run, rows, head) {
        Ok((_, events)) => events,
        Err(corrupt) => {
            let fault = Fault::new(FaultKind::Corrupt, format!("the ledger is damaged: {corrupt}"));
            view.verdict = ReplayVerdict::Faulted { fault };
            return view;
        }
    };
    let commands = events.iter().filter(|event| matches!(event, Event::Commanded { .. })).count();
    view.commands = u32::try_from(commands).unwrap_or(u32::MAX);
    match lead(run, program, rows, events) {
        Ok((_, fuel)) => view.fuel = fuel,
        Err(Unled::Stopped(Stopped::Divergence(divergence))) => {
            view.verdict = ReplayVerdict::Diverged { divergence: *divergence }
        }
        Err(Unled::Stopped(Stopped::Fault(fault))) => view.verdict = ReplayVerdict::Faulted { fault },
        Err(Unled::NoRoom) => {
            let fault = Fault::new(FaultKind::Limit, NO_ROOM);
            view.verdict = ReplayVerdict::Faulted { fault };
        }
    }
    view
}

/// What is said when every slot for guests is taken.
pub(crate) const NO_ROOM: &str = "this host has no room for one more guest now; try again";

/// Why a guest does not stand where its ledger ends.
pub(crate) enum Unled {
    /// It broke down or went another way.
    Stopped(Stopped),
    /// Every slot for guests is taken.
    NoRoom,
}

/// A guest of `program`, led along `rows` and the `events` that they are; and the fuel it used. Says
/// nothing in the host's log: what was to be said was said by the run's own guest.
pub(crate) fn lead(
    run: RunId,
    program: &WorkflowProgram,
    rows: &[Row],
    events: Vec<Event>,
) -> Result<(WorkflowInstance, u64), Unled> {
    let (workflow, input) = match events.first() {
        Some(Event::RunStarted { workflow, input }) => (Arc::clone(workflow), input.clone()),
        _ => unreachable!("a ledger that was folded begins with its start"),
    };
    let mut replay = Replay::new(run, rows[0].at_ms);
    for (row, event) in rows.iter().zip(events) {
        replay.lay(row.seq, row.at_ms, event);
    }
    let guest = WorkflowInstance::new(program, replay, run, workflow, input);
    let mut guest = guest.map_err(|unstarted| match unstarted {
        Unstarted::Fault(fault) => Unled::Stopped(Stopped::Fault(fault)),
        Unstarted::NoRoom => Unled::NoRoom,
    })?;
    guest.mute();
    let activation = guest.activate().map_err(Unled::Stopped)?;
    Ok((guest, activation.fuel))
}
