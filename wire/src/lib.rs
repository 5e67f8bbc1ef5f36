//! What host and clients say to each other: bodies and parameters of requests, views, problem documents, and the document
//! that a run is exported as.
//!
//! It promises that both ends mean the same: the host answers with these types and has no others. Names of fields and codes
//! are a contract with programs in other languages: add to them, never rename. It refuses to speak: it knows no HTTP client
//! and no server.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect"))]

pub mod history;
pub mod params;
pub mod problem;
mod requests;
pub mod schedules;
#[cfg(feature = "openapi")]
pub mod schema;
pub mod tasks;
pub mod views;

pub use requests::{
    AttributeValue, CountRuns, ForkRun, IdReuse, LimitTenant, ListRuns, ResetRun, SendSignal, SendUpdate,
    StartOptions, StartRun,
};
