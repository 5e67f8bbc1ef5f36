//! Hosts that die, stop and come back: nothing is lost, nothing done is done again.
//!
//! Everything here happens to real processes on a real Postgres. `points` has a host die at every named
//! place, `hosts` has several of them share, lose and hand over runs, `outages` takes the database away, `losses` what it
//! had committed, `standby` the replica that commits wait for, `sessions` is about what waits for it, `clocks` about machines with another time,
//! `dev` does the same to the private one. `messages` is about what runs hear, `generations` about what meets a run
//! that continues as new, `answers` about those that meet each other, `heartbeats` about what
//! activities say and hear, `interleavings` about what meets a request to stop, `memory` about what runs keep,
//! `terms` about the bounds of their lives, `operators` about those who hold and rewind them, `schedules` about
//! runs that the calendar starts, `authors` about what is built on top of commands; `waiting` kills hosts whose
//! runs only wait; `strays` is about runs whose trouble is their own; `tasks` is about workers outside, who die as hosts do, `workers` about those that are shipped,
//! `push` about endpoints that are workers, `embedding` about a host in another program, `deferrals` about activities that leave the
//! answer to others.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "crash/answers.rs"]
mod answers;
#[path = "crash/authors.rs"]
mod authors;
#[path = "crash/clocks.rs"]
mod clocks;
#[path = "crash/deferrals.rs"]
mod deferrals;
#[path = "crash/dev.rs"]
mod dev;
#[path = "crash/embedding.rs"]
mod embedding;
#[path = "crash/generations.rs"]
mod generations;
#[path = "crash/heartbeats.rs"]
mod heartbeats;
#[path = "crash/hosts.rs"]
mod hosts;
#[path = "crash/interleavings.rs"]
mod interleavings;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/losses.rs"]
mod losses;
#[path = "crash/memory.rs"]
mod memory;
#[path = "crash/messages.rs"]
mod messages;
#[path = "crash/operators.rs"]
mod operators;
#[path = "crash/outages.rs"]
mod outages;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/proxy.rs"]
mod proxy;
#[path = "crash/push.rs"]
mod push;
#[path = "crash/schedules.rs"]
mod schedules;
#[path = "crash/sessions.rs"]
mod sessions;
#[path = "crash/split.rs"]
mod split;
#[path = "crash/standby.rs"]
mod standby;
#[path = "crash/strays.rs"]
mod strays;
mod support;
#[path = "crash/tasks.rs"]
mod tasks;
#[path = "crash/terms.rs"]
mod terms;
#[path = "crash/waiting.rs"]
mod waiting;
#[path = "crash/workers.rs"]
mod workers;
