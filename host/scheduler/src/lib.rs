//! Decides what happens next to every run that a host owns, and does none of it.
//!
//! [`Scheduler::on`] is told of one [`Input`] at a time and of the time, and answers with [`Action`]s: jobs for the guest
//! threads, attempts of activities, appends for the writer, answers to clients. Nothing here reads a clock, draws a
//! number, waits, or speaks to anybody: the driver (`engine::driver` on a host, `tests/simulation` in simulated time)
//! carries the actions out in their order and comes back with what became of them. What cannot wait is asked of the
//! [`Env`], which answers from memory. Maps without an order are looked up and never walked, so the same inputs have the
//! same actions.
//!
//! What holds at every moment:
//! * nothing that a guest decided can be seen outside, or has an effect there, before every outcome that it had is
//!   committed;
//! * a guest has at most one outcome that is not: the end of a speculative append (`speculation`), which goes to the writer
//!   together with what the guest makes of it, or after a millisecond without that;
//! * of one run, at most one job is out;
//! * rows of one run are sent in order, and the writer keeps that order.
//!
//! | file | decides |
//! |---|---|
//! | `slot` | where a run in memory stands: the table of its states |
//! | `activation` | when a guest is activated, and what becomes of its commands |
//! | `speculation` | which appends go to a guest before they are committed |
//! | `appends` | what follows when an append is committed, or refused |
//! | `attempts` | whose turn an activity is, where it runs, what follows a failure |
//! | `children`, `closing` | what runs start and end |
//! | `messages` | what one run says to another |
//! | `arrivals` | what comes from the database: runs, timers, messages |
//! | `repair` | what follows from a ledger and is not there |
//! | `rewind` | what follows when the database has lost what it had committed |
//! | `trials` | runs over which hosts may have been lost |
//! | `plan` | what follows from a ledger alone |

mod action;
mod activation;
mod appends;
mod arrivals;
mod attempts;
mod children;
mod closing;
mod derived;
mod env;
mod figures;
mod identity;
mod in_flight;
mod in_hand;
mod input;
mod job;
mod loaded;
mod messages;
mod on_commit;
mod plan;
mod remote;
mod repair;
mod rewind;
mod slot;
mod speculation;
mod speculative;
mod state;
mod step;
mod trial_queue;
mod trials;
mod waiting;

pub use action::{Action, AttemptBounds, NewAttempt, RemoteAttempt, StopAttempt};
pub use derived::{Derived, awaited, has_timers, waits_for_calls};
pub use env::{Env, Now};
pub use figures::Figures;
pub use identity::RunIdentity;
pub use in_hand::InHand;
pub use input::{AttemptEnd, Deferring, Input, Settle, Settlement, Start, Started, Trial, Wake};
pub use job::{
    Activated, ActivationError, ActivationId, ActivationResult, Check, Job, Next, Origin, PendingEvent,
};
pub use loaded::{Damaged, Ledgered, Loaded, LoadedRun, Wanted, fold};
pub use plan::{
    DEADLINE, START_OP, begin_run, child_options, child_workflow_id, new_inbox_item, own_timers,
    projection_of, timers_of,
};
pub use slot::Standing;
pub use state::{Config, Scheduler};
