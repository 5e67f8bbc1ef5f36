//! The host of Backstitch: wires the pure core, the ledger and the sandbox together, and talks to people.
//!
//! The `backstitch` binary is a thin shell around this library.

mod absent;
pub mod ambient;
pub mod api;
mod attempt;
mod calendar;
mod caution;
pub mod cli;
mod clock;
mod closings;
pub mod componentize;
pub mod config;
mod counters;
pub mod crash;
mod crier;
mod deferral;
mod derived;
pub mod doctor;
pub mod embed;
mod guests;
pub mod host;
mod identity;
mod in_hand;
mod lacking;
mod loaded;
mod loads;
mod local;
mod matcher;
mod process;
mod programs;
pub mod push;
mod quota;
pub mod retrace;
mod retry;
mod room;
mod scheduler;
pub mod seal;
pub mod service;
pub mod telemetry;
mod tenure;
mod term;
mod time;
mod watch;
