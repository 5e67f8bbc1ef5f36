//! What a simulated cluster runs on. So far: [`model`], the database, and [`rng`], numbers drawn from a seed.
//!
//! It promises that each operation of the model does and answers what the statement of `backstitch-ledger` with the same
//! name does and answers, as long as statements come one after the other. `tests/against_postgres` holds it to that: the
//! same random operations go to the model and to a real cluster.
//!
//! It reads no clock, draws nothing, waits for nothing and does no I/O: time comes in as a parameter, and where Postgres is
//! free to choose, the caller says what it chooses.

pub mod model;
pub mod rng;
