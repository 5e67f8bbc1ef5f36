//! One shard of the database, in memory.
//!
//! | of the ledger crate | here |
//! |---|---|
//! | the statement of an append, and the writer that sends it | [`Writer::step`] |
//! | `LeaseHeartbeat`, leases | [`Database::register`] … |
//! | claims and trials | [`Database::claim_runs`] … |
//! | timers, and those that are missing | [`Database::due_timers`], [`Database::timers_lacking`] … |
//! | the inbox, and messages of closed runs | [`Database::post`], [`Database::unread`], [`Database::pass_on`] … |
//! | tasks and their ends | [`Database::take_tasks`], [`Database::settle_task`], [`Database::sweep_tasks`] … |
//! | forks and resets | [`Database::insert_fork`] |
//! | runs and their rows | [`Database::run_status`], [`Database::rows`] … |
//!
//! Faults are operations too: [`Reply::Lost`] (committed, and nobody was told), [`Reply::Never`] (the connection broke
//! before), [`Database::lose`] (a failover to a server that lacks the last commits). [`Mutant`] is a fault of the model
//! itself: what is held against the model has to notice it.
//!
//! **Left out**: locks, and so whatever two statements at once do to each other (`skip locked`, waits, appends that are set
//! aside); the numbers of heartbeats that tell two servers apart; payloads outside their rows, and seals; the bounds on the
//! bytes of a check and of a statement's text in Postgres; schedules, components, deployments, searches, listings and the notes
//! of losses. Texts that are JSON are taken as they are. Which appends go into one statement is asked of the ledger's own
//! [`Batch`](backstitch_ledger::Batch): that decides, and does nothing.
//!
//! Two parts of one statement that change the same row have no order in Postgres, and none is promised here: an append that
//! closes its run sets no timer of it, and none sends a message that its batch consumes.
//!
//! What surprises is modelled too. A start that is refused because its run is there takes with it what an earlier append of
//! the same statement writes of that run, and so no batch holds both.

mod check;
mod claims;
mod database;
mod endings;
mod fence;
mod forks;
mod inbox;
mod inspect;
mod lacking;
mod leases;
mod repairs;
mod rows;
mod runs;
mod shown;
mod statement;
mod tasks;
mod timers;
mod writer;

pub use check::{Unread, Walk};
pub use database::{Database, Mutant};
pub use writer::{Reply, Writer};
