//! What a simulated cluster runs on: [`model`], its database; [`script`], what its workflows do, and their guests; [`rng`],
//! which decides whatever nobody else does.
//!
//! The model promises that each operation does and answers what the statement of `backstitch-ledger` with the same name
//! does and answers, as long as statements come one after the other. `tests/against_postgres` holds it to that: the same
//! random operations go to the model and to a real cluster. A script promises what its module says; `tests/scripts.rs` holds
//! it to that.
//!
//! Nothing here reads a clock, has numbers that no seed gave it, waits or does I/O: time comes in as a parameter, and where
//! Postgres is free to choose, the caller says what it chooses.

/// Seeds that CI plays, in about a minute on two cores.
pub const SEEDS: u64 = 10_000;

pub mod cluster;
pub mod minimise;
pub mod model;
pub mod mutants;
pub mod rng;
pub mod script;
