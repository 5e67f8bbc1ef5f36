//! Activities with heartbeats, and such as leave the answer to others: each is what an attempt can do with
//! either, or leave undone.

use backstitch_sdk::{Error, Result, activities, activity, export_activities};
use std::hint::black_box;

/// Work that takes longer than its callers like.
#[activities(task_queue = "long-tasks")]
pub trait Long {
    /// Its first attempt says how far it has come, and falls silent. The next one returns what it was told.
    async fn falls_silent() -> u32;
    /// Beats until it hears that nobody waits, and ends with the code `heard`.
    async fn until_told();
    /// Fails, and asks for two seconds of patience each time.
    async fn asks_for_patience();
    /// Leaves the answer to others. Its heartbeat says under which token.
    async fn leaves() -> String;
    /// Does so, stays until it hears that nobody waits for it, and fails with the code `late`.
    async fn lingers() -> String;
    /// Its first attempt says under which token it has left the answer to others, and fails with the code `unsent`.
    /// The next one returns what it was told.
    async fn leaves_and_fails() -> String;
    /// The same, but for a trap.
    async fn leaves_and_breaks() -> String;
}

/// Does them all.
#[derive(Debug)]
pub struct Worker;

impl Long for Worker {
    async fn falls_silent() -> Result<u32> {
        let context = activity::context();
        match context.heartbeat_details() {
            Some(done) => Ok(done),
            None if context.attempt == 1 => {
                activity::heartbeat(&17);
                loop {
                    black_box(0_u8);
                }
            }
            None => Err(Error::application("untold", "the heartbeat of the first attempt is lost")),
        }
    }

    async fn until_told() -> Result<()> {
        while !activity::heartbeat("beating") {}
        Err(Error::application("heard", "nobody waits any more").non_retryable())
    }

    async fn asks_for_patience() -> Result<()> {
        Err(Error::application("busy", "not now").retry_after("2 seconds"))
    }

    async fn leaves() -> Result<String> {
        let call = activity::defer()?;
        activity::heartbeat(call.token());
        call.later()
    }

    async fn lingers() -> Result<String> {
        let call = activity::defer()?;
        while !activity::heartbeat(call.token()) {}
        Err(Error::application("late", "nobody waits any more"))
    }

    async fn leaves_and_fails() -> Result<String> {
        if let Some(told) = activity::context().heartbeat_details() {
            return Ok(told);
        }
        activity::heartbeat(activity::defer()?.token());
        Err(Error::application("unsent", "the token was not sent"))
    }

    async fn leaves_and_breaks() -> Result<String> {
        if let Some(told) = activity::context().heartbeat_details() {
            return Ok(told);
        }
        activity::heartbeat(activity::defer()?.token());
        panic!("after the call was deferred");
    }
}

export_activities!(Worker as Long);
