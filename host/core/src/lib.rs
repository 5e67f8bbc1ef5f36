//! The pure heart of Backstitch: what a run is, which ledger rows it may grow by, and how a guest
//! replays them.
//!
//! Nothing here reads a clock, draws a random number, touches a file, a socket or a database, or
//! knows of wasm. Time and identities come in as parameters, so the same calls give the same answers
//! in production, in a test and in a replay of last year's ledger.
//!
//! * [`event`], [`row`]: the ledger's vocabulary and its persisted form.
//! * [`run`]: a fold over the ledger. It says what may come next, and chains it to the rows before by a checksum.
//! * [`replay`]: the guest's side of the same ledger. It checks every command against what is
//!   recorded, hands out outcomes in order, and names the first [`replay::Divergence`].
//! * [`fork`]: a new run from the first rows of another.
//! * [`heard`]: which messages were heard before.
//! * [`projection`]: what a run's commands say about it, for searches.
//! * [`filter`]: the conditions by which runs are searched.
//! * [`random`]: the numbers that a guest draws.
//! * [`rules`]: what a guest can notice of its host, by number.
//! * [`failure`]: the ordinary errors of activities and workflows; [`fault`]: what parks a run.
//! * [`names`]: names and ids that people choose.
//! * [`retry`]: whether and when a failed activity is tried again.
//! * [`schedule`]: which runs a schedule starts, and when it is looked at again.
//! * [`task`]: calls that workers outside carry out; [`matcher`]: which poll of a worker gets which of them.
//! * [`date`]: the date of a time, for names that are made of one.
//! * [`printable`]: what may be shown of a text that somebody else chose.
//! * [`limits`]: every bound, each with its reason.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect"))]

pub mod attribute;
pub mod command;
pub mod date;
pub mod entity;
pub mod event;
pub mod failure;
pub mod fault;
pub mod filter;
pub mod fork;
pub mod heard;
pub mod ids;
pub mod inbox;
pub mod json;
pub mod limits;
pub mod matcher;
pub mod names;
pub mod printable;
pub mod projection;
pub mod random;
pub mod replay;
pub mod retry;
pub mod row;
pub mod rules;
pub mod run;
pub mod schedule;
pub mod start;
pub mod task;
mod waits;

pub use attribute::{Attribute, AttributeChanges, Attributes};
pub use command::{ActivityOptions, ChildOptions, Command, ParentClose, Status, Target};
pub use entity::{Edit, Entity};
pub use event::{Event, Kind};
pub use failure::{Failure, FailureKind};
pub use fault::{Fault, FaultKind};
pub use filter::{Filter, FilterError};
pub use heard::{Heard, HeardId};
pub use ids::{Chain, Digest, Epoch, HostId, Op, RunId, Scope, Seq, Shard, TaskLease, TenantId};
pub use inbox::Message;
pub use json::Json;
pub use projection::Projection;
pub use random::{Seed, Source};
pub use replay::{Delivery, Divergence, HistorySize, ProjectionChanges, Replay, UnusedSignal};
pub use retry::RetryPolicy;
pub use row::Row;
pub use rules::Rules;
pub use run::{Run, RunStatus};
pub use start::StartOptions;
pub use task::TaskToken;
