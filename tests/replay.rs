//! A run and its replay are the same: every example from every prefix of its ledger, byte for byte,
//! twice in fresh stores; and where they are not, because the ledger or the code was changed, that is
//! said loudly and before anything is made of it.
//!
//! | module | shows |
//! |---|---|
//! | `examples` | the examples, run on a host; a history, and how it is kept in `corpus/` |
//! | `prefixes` | what a guest does when it is led along a prefix, cold, warm and in batches |
//! | `corrupt` | ledgers that were changed in the database |
//! | `changed` | other components led along a ledger |
//! | `bytes` | JSON that a careless host would change |
//! | `files` | histories in files: exported, edited, replayed without a host |
//! | `library` | what a workflow gets of Rust's standard library |

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod support;

#[path = "replay/bytes.rs"]
mod bytes;
#[path = "replay/changed.rs"]
mod changed;
#[path = "replay/corrupt.rs"]
mod corrupt;
#[path = "replay/examples.rs"]
mod examples;
#[path = "replay/files.rs"]
mod files;
#[path = "replay/library.rs"]
mod library;
#[path = "replay/prefixes.rs"]
mod prefixes;
