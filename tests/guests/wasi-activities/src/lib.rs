//! Activities for `wasm32-wasip2` that use what WASI offers an activity, and what it does not: clocks,
//! randomness and output should work; files, sockets and the environment should not be there.

use backstitch_sdk::{Result, activities, export_activities};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// Each reaches for one thing.
#[activities(task_queue = "wasi-tasks")]
pub trait Wasi {
    /// Milliseconds since the Unix epoch.
    async fn clock() -> u64;
    /// The milliseconds that a sleep of so many milliseconds took.
    async fn sleep(ms: u64) -> u64;
    /// A number from the seed of a `HashMap`.
    async fn random() -> u64;
    /// Writes a line to stdout and one to stderr.
    async fn print(text: String);
    /// How many environment variables and arguments it sees.
    async fn environment() -> usize;
}

/// The standard library, as far as the host lets it reach.
#[derive(Debug)]
pub struct Std;

#[expect(clippy::disallowed_methods, reason = "to find out what the sandbox answers is what it is for")]
impl Wasi for Std {
    async fn clock() -> Result<u64> {
        Ok(millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?))
    }

    async fn sleep(ms: u64) -> Result<u64> {
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(ms));
        Ok(millis(before.elapsed()))
    }

    async fn random() -> Result<u64> {
        use std::hash::BuildHasher;
        Ok(HashMap::<u8, u8>::new().hasher().hash_one(0))
    }

    async fn print(text: String) -> Result<()> {
        println!("{text}");
        eprintln!("{text}");
        Ok(())
    }

    async fn environment() -> Result<usize> {
        Ok(std::env::vars().count() + std::env::args().count())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

export_activities!(Std as Wasi);
