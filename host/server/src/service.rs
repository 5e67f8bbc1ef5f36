//! Everything a client can ask of a host, without HTTP: the API translates requests into these calls
//! and errors into problem documents; nothing below knows of sockets.

mod deploy;
mod error;
mod export;
mod follow;
mod fork;
mod give_back;
mod health;
mod payloads;
mod query;
mod repairs;
mod runs;
mod schedules;
mod start;
mod state;
mod steer;
mod tasks;
mod update;
mod views;

pub use self::error::ServiceError;
pub use self::follow::{Follow, Step};
pub use self::state::Service;
