//! The client of a Backstitch host: starts runs, steers them and waits for their results.
//!
//! What it promises:
//!
//! * Payloads keep their bytes on the way there and back: digits, key order, doubled keys.
//! * A call gives what was asked for, or a [`ClientError`] that says whether the host refused, could not
//!   be reached, or is no host at all. Nothing is retried here. Every call may be repeated after a
//!   [`ClientError::Unreachable`] except a signal without an id and a start without a workflow id and
//!   key: each of their repeats counts.
//! * Every request has a time-out, so that none waits for ever.
//!
//! What it refuses: TLS, proxies and redirects. It is made for a host on this machine or behind a
//! tunnel. It knows neither a database nor a sandbox, and decides nothing about a run.
//!
//! What a request says and what the host answers are the types of `backstitch-wire`, which are here under their own
//! names ([`StartRun`] and its like, [`views`], [`problem`], [`tasks`], [`schedules`], [`history`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use backstitch_client::{Client, StartRun};
//! use backstitch_core::{Json, RunStatus};
//!
//! let client = Client::new("http://127.0.0.1:7467")?;
//! let input = Json::new(r#"{"order_id":"o-1","quantity":2}"#)?;
//! // Under an id of its own, a start may be repeated: it finds the run that is there.
//! let started = client.start(StartRun::new("order_workflow", Some("order-1".into()), input)).await?;
//!
//! let run = client.handle(started.run.run_id).result(Duration::from_secs(300)).await?;
//! match (run.status, run.output, run.failure) {
//!     (RunStatus::Completed, Some(output), _) => println!("{output}"),
//!     (status, _, Some(failure)) => println!("{}: {failure}", status.as_str()),
//!     (status, ..) => println!("{}: look at it again later", status.as_str()),
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect"))]

mod client;
mod handle;
mod schedule_calls;
mod task_calls;

pub use backstitch_wire::{
    AttributeValue, CountRuns, ForkRun, IdReuse, LimitTenant, ListRuns, ResetRun, SendSignal, SendUpdate,
    StartOptions, StartRun,
};
pub use backstitch_wire::{history, params, problem, schedules, tasks, views};
pub use client::{Client, ClientError};
pub use handle::RunHandle;
