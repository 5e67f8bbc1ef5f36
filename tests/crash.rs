//! Hosts that die, stop and come back: nothing is lost, nothing done is done again.
//!
//! Everything here happens to real processes on a real Postgres. `points` has a host die at every named
//! place, `hosts` has several of them share, lose and hand over runs, `outages` takes the database away,
//! `dev` does the same to the private one, `messages` is about what runs hear, `waiting` kills hosts whose runs only wait.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "crash/dev.rs"]
mod dev;
#[path = "crash/hosts.rs"]
mod hosts;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/messages.rs"]
mod messages;
#[path = "crash/outages.rs"]
mod outages;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/proxy.rs"]
mod proxy;
mod support;
#[path = "crash/waiting.rs"]
mod waiting;
