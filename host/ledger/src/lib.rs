//! Everything Backstitch says to Postgres. SQL lives here and nowhere else.
//!
//! * [`Writer`] is the one hot path: it commits what thousands of activations produced in one statement,
//!   fenced by the host's lease, and tells each what became of it. Its terms are in [`append`].
//! * [`LeaseHeartbeat`] keeps the host's lease, over a connection of its own.
//! * [`Ledger`] is everything else, over two small pools: claims, timers, schedules, the inbox, tasks,
//!   reading runs and their rows, components and deployments, migrations and partitions.
//! * [`Wakeups`] and [`Notifier`] carry wake-ups between hosts. Polling is the truth; they only make it soon.
//! * [`Cluster`] is a private Postgres for those who have no `DATABASE_URL`.
//!
//! What this crate refuses: it decides nothing about runs (that is `backstitch-core`), knows nothing of
//! wasm, reads neither the environment nor the wall clock (times come in as milliseconds since the
//! epoch; whether a lease has run out is decided by the database's clock alone).
//!
//! The shard rule holds in every statement: `shard` is a scalar parameter and the first column of every
//! key, and a transaction touches one shard. Isolation is READ COMMITTED throughout; each function
//! says what it locks and whether it may be repeated.

pub mod append;
mod attribute;
mod claims;
mod cluster;
mod components;
mod confirm;
mod connect;
mod derived;
mod error;
mod fork;
mod from_row;
mod inbox;
mod lacking;
mod leases;
mod losses;
mod opening;
mod options;
mod pages;
mod payloads;
mod pool;
mod repairs;
mod runs;
mod schedules;
mod schema;
mod search;
mod tasks;
mod tie;
mod time;
mod timers;
mod wake;
mod writer;

pub use append::{
    Acks, Append, Batch, Close, Head, Item, NewItem, NewProjection, NewRun, NewTask, NewTimer, Outcome,
    PoisonKind, StatusChange,
};
pub use claims::ClaimedRun;
pub use cluster::{Cluster, ClusterError, ClusterOptions, blocked_by};
pub use components::{ComponentInfo, ComponentKind, Deployment, NewComponent};
pub use connect::{ConnectError, Ledger};
pub use derived::{Awaited, ChildState};
pub use error::LedgerError;
pub use fork::ForkedRun;
pub use inbox::{Heard, InboxItem, PassedOn, Posted, Reader, Unread, Walk};
pub use lacking::{Began, Lacking};
pub use leases::{Lease, LeaseHeartbeat, OtherHosts, Reading, Renewal};
pub use losses::Loss;
pub use options::ConnectOptions;
pub use pages::{Pages, ShownRows};
pub use payloads::store::{KeyError, PayloadReader, Quota};
pub use payloads::{PayloadCodec, Payloads, Reference, Stored};
pub use repairs::Repairable;
pub use runs::{Page, RunFilter, RunInfo, RunRef, RunSummary};
pub use schedules::{Schedule, ScheduleChange};
pub use schema::{MigrateError, Partitions};
pub use tasks::{OpenTask, Settled, Sweep, Taken, TakenTask, TaskCheck, TaskHeartbeat, TaskPage, TaskState};
pub use timers::{DueTimer, TimerCheck};
pub use wake::{Notifier, Wake, Wakeups};
pub use writer::{Health, Hook, HookFn, Stopped, Writer, WriterConfig};
