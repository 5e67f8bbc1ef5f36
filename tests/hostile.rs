//! Those who mean harm, those who err, and those who are away: hostile guests and activities, bad
//! input, a database that is gone, full or takes no writes. Nobody but themselves has the damage, and
//! whoever can do something about it is told what.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

#[path = "hostile/activities.rs"]
mod activities;
#[path = "hostile/api.rs"]
mod api;
#[path = "hostile/cli.rs"]
mod cli;
#[path = "hostile/door.rs"]
mod door;
#[path = "hostile/group.rs"]
mod group;
#[path = "hostile/guests.rs"]
mod guests;
#[path = "hostile/input.rs"]
mod input;
#[path = "hostile/large.rs"]
mod large;
#[path = "hostile/outage.rs"]
mod outage;
#[path = "hostile/payloads.rs"]
mod payloads;
#[path = "hostile/program.rs"]
mod program;
#[path = "hostile/query.rs"]
mod query;
#[path = "hostile/quiet.rs"]
mod quiet;
#[path = "hostile/reach.rs"]
mod reach;
#[path = "hostile/schedules.rs"]
mod schedules;
