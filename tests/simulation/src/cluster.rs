//! A cluster in simulated time: hosts made of the real scheduler and the real task matcher, on the model of the database.
//!
//! One thread plays everything: what takes time is an event, and one event happens after the other. So a seed says all
//! that happens, and the same seed does the same again. From outside come what clients ask for and faults ([`Plan`]);
//! how long each step takes is drawn from the seed as well, so that completions overtake each other.
//!
//! | played | by |
//! |---|---|
//! | scheduler, task matcher, guests' replay | the code that a host runs |
//! | database, writer | [`crate::model`], which is held to Postgres |
//! | driver, pollers, reads, guest threads, attempts | this module, as `engine::driver`, `pollers`, `loads`, `guests` do |
//! | updates, forks and resets, heartbeats of workers | this module, as `server::service::update`, `fork`, `tasks` do |
//! | workflows | [`crate::script`] |
//! | remote workers, clients, operators | this module |
//!
//! What has to hold is in `checks`, at every action and of all ledgers; in `watch`, of the order in which a host asks for
//! things; in `beside`, of what is committed together; in `said`, of what heartbeats say; in `sent`, of updates; and in
//! `ends`, when everything has come to its end. `./x mutants` sees that these notice what they are there for. Faults cease
//! after 40 seconds of simulated time; what is open an hour later is stuck.

mod asking;
mod attempts;
mod beside;
mod checks;
mod driver;
mod ends;
mod env;
mod event;
mod expected;
mod external;
mod forks;
mod guests;
mod heartbeats;
mod host;
mod names;
mod plan;
mod play;
mod pollers;
mod reads;
mod report;
mod said;
mod sent;
mod state;
mod terms;
mod updates;
mod watch;
mod watching;
mod worker;
mod workers;

pub use plan::{External, FAULTS_END_US, Plan};
pub use report::{Coverage, Failure, Outcome};
pub use state::Cluster;
