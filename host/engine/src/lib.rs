//! The engine of a host: leads the runs that it owns along their ledgers.
//!
//! What it promises: every run goes on from what its ledger says and nothing else; no effect leaves the host before the
//! rows that led to it are committed; a host without its lease begins nothing. What it refuses: to know of clients. It has
//! no HTTP, no service and no command line; those ask it through [`driver::Inputs`], [`matcher`] and the database.
//!
//! * [`driver`]: carries out what the scheduler decides. [`guests`]: the threads that run guests.
//! * [`matcher`]: polls of workers, and the calls that wait for them.
//! * [`pollers`]: what the database is asked again and again. [`loads`], [`registry`]: runs and components, read.
//! * [`term`], [`tenure`], [`clock`]: which registration of the host this is, whether it holds, what time it is.
//! * [`ambient`]: the only place that reads clock, randomness and environment.

pub mod ambient;
pub mod attempt;
pub mod caution;
pub mod clock;
pub mod closings;
pub mod counters;
pub mod deferral;
pub mod derived;
pub mod driver;
pub mod failpoint;
pub mod guests;
pub mod lacking;
pub mod loads;
pub mod matcher;
pub mod memory;
pub mod notifier;
pub mod pollers;
pub mod quota;
pub mod registry;
pub mod replay_check;
pub mod retry;
pub mod room;
pub mod tenure;
pub mod term;
pub mod timer_wakeup;
