//! Activities with heartbeats: each is what an attempt can do with them, or leave undone.

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
}

export_activities!(Worker as Long);
