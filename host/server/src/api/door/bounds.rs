//! How many connections there may be, and how long each may keep quiet.

use std::time::Duration;

use backstitch_core::limits;

/// How long a connection may keep quiet.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Without a request under way.
    pub idle: Duration,
    /// Without taking any of what it is sent.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_millis(limits::API_HEAD_MS_MAX),
            idle: Duration::from_millis(limits::API_IDLE_MS_MAX),
            write: Duration::from_millis(limits::API_WRITE_MS_MAX),
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// All together.
    pub all: usize,
    /// Of one peer.
    pub peer: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: limits::API_CONNECTIONS_MAX, peer: limits::API_CONNECTIONS_PER_PEER_MAX }
    }
}
