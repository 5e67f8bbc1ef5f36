//! A run as it was read from the database.

use backstitch_core::{Fault, FaultKind, Op, Row, Run, RunId, RunStatus};
use backstitch_ledger::ClaimedRun;

use crate::derived::Derived;
use crate::env::Env;
use crate::identity::RunIdentity;
use crate::job::PendingEvent;

/// A run that is to be read.
#[derive(Clone)]
pub struct Wanted {
    /// As it was claimed.
    pub run: ClaimedRun,
    /// Which read of it this is: comes back in [`Loaded`].
    pub number: u64,
}

/// What reading a run gave.
pub struct Loaded<E: Env> {
    /// The run.
    pub run: RunId,
    /// Which read of it this was.
    pub number: u64,
    /// None: it does not exist, is closed, or belongs to another host.
    pub result: Option<LoadedRun<E>>,
}

/// A run as the database has it.
pub struct LoadedRun<E: Env> {
    /// What does not change about it.
    pub identity: RunIdentity,
    /// The code it is pinned to, or why that cannot be loaded.
    pub program: Result<E::Program, Fault>,
    /// Whether it is parked.
    pub parked: bool,
    /// Its ledger, or what is wrong with that.
    pub ledger: Ledgered,
    /// What stands beside it.
    pub derived: Derived,
    /// The room that its rows take.
    pub room: E::Room,
    /// Whether that is a large part of the room there is.
    pub is_large: bool,
    /// Hosts that were lost with it since it last went on.
    pub losses: u16,
    /// No host has replayed it since it was claimed from one that died.
    pub is_unreplayed: bool,
    /// The attempt of this call was on trial when its host died.
    pub lost_attempt: Option<Op>,
}

/// A ledger that was folded, with its events; or what is wrong with it.
pub type Ledgered = Result<(Run, Vec<PendingEvent>), Damaged>;

/// A ledger that is not what was written.
#[derive(Debug)]
pub struct Damaged {
    /// What is wrong.
    pub fault: Fault,
    /// How many rows there are.
    pub rows: usize,
}

impl<E: Env> LoadedRun<E> {
    /// A run that was claimed, with all that was read of it.
    pub fn new(
        claimed: ClaimedRun,
        program: Result<E::Program, Fault>,
        ledger: Ledgered,
        derived: Derived,
        (room, is_large): (E::Room, bool),
    ) -> Self {
        Self {
            identity: RunIdentity {
                scope: claimed.scope,
                run: claimed.run,
                workflow_id: claimed.workflow_id.into(),
                generation: claimed.generation,
                workflow: claimed.workflow.into(),
                digest: claimed.digest,
                parent: claimed.parent,
            },
            program,
            parked: claimed.status == RunStatus::Parked,
            ledger,
            derived,
            room,
            is_large,
            losses: claimed.losses,
            is_unreplayed: claimed.unreplayed,
            lost_attempt: claimed.lost_attempt,
        }
    }
}

/// Folds the rows of a run, and reads what they say.
pub fn fold(run: RunId, rows: &[Row]) -> Ledgered {
    let (folded, events) = Run::load_all(run, rows).map_err(|corrupt| Damaged {
        fault: Fault::new(FaultKind::Corrupt, format!("the ledger is damaged: {corrupt}")),
        rows: rows.len(),
    })?;
    let events = rows.iter().zip(events);
    let events = events.map(|(row, event)| PendingEvent { seq: row.seq, at_ms: row.at_ms, event });
    Ok((folded, events.collect()))
}
