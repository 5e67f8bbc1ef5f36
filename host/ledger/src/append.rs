//! What an activation produced, and the one statement that makes it durable.
//!
//! An [`Append`] is everything that one run's step changes, and it is atomic. The statement takes
//! many of them. Its first part is the fence: the host's lease, alive and of this epoch, locked FOR SHARE.
//! Every other part joins it, so a host that was declared dead writes nothing, and a host cannot be
//! declared dead in the middle of a statement: that update waits for the lock, and so does takeover.
//!
//! **Why ledger rows need no other guard.** A run is given to another host only when its owner's lease
//! is dead. A living lease therefore means that this host still owns every run that it has claimed. The
//! primary key (shard, run, seq) is the second line: two rows can never have one place.
//!
//! **Why there is no gap.** A database may lose its last commits: a replica that was promoted lagged, a backup was
//! restored, `synchronous_commit` was off. Then this host knows of rows that are not there any more. So each append
//! says which row it [follows](Append::after), place and checksum, and the statement looks for it. If it is not there,
//! nothing is written ([`PoisonKind::Behind`]), and the run has to be read again.
//!
//! All parts of one statement see the same snapshot: none sees what another has written. So a batch holds
//! at most one statement about each key ([`fits`](Batch::fits)); what would be the second begins the
//! next batch.

mod parts;
mod statement;

pub use parts::{
    Acks, Append, Batch, Close, Head, Item, NewItem, NewProjection, NewRun, NewTask, NewTimer, Outcome,
    PoisonKind, StatusChange,
};
pub(crate) use statement::{Appended, execute, read_back};
