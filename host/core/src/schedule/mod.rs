//! Schedules: a workflow that is started again and again by the calendar.
//!
//! A [`Spec`] is what a client asked for, a [`State`] what has become of it; both are persisted, so names
//! are append-only. [`decide`](decide::decide) makes the next state and what has to be done for it. Calendar times
//! come in as values: what a cron expression means needs the rules of time zones, which the host has.
//!
//! A *nominal* time is what the calendar says. It names its run, so however often a start is repeated,
//! each nominal time has one run. An older program refuses a spec with terms that it does not know.

pub mod decide;
mod spec;
mod state;

pub use self::decide::{Action, Closing, Decision, Snapshot, Times, decide};
pub use self::spec::{Every, Overlap, Policy, Spec, SpecError, Terms, What, When};
pub use self::state::{Backfill, Paused, Recent, Running, State, Stop, Waiting};
