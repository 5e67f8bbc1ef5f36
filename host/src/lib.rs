//! The program `backstitch`: its command line, and what it takes to be a host.
//!
//! The binary is a thin shell around this library. What embeds a host finds all of it here: [`embed`], [`host`],
//! [`service`].

pub mod cli;
pub mod componentize;
pub mod config;
pub mod doctor;
mod process;
pub mod telemetry;

pub use backstitch_engine::{ambient, failpoint, replay_check};
pub use backstitch_server::{api, embed, host, push, seal, service};
