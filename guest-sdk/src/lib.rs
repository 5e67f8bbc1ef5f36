//! Durable workflows, and the activities they call, as plain async Rust.
//!
//! A workflow is an `async fn`. Every call it makes through this crate is recorded in a ledger before
//! its outcome is seen; after a crash the function is run again from its top against that ledger, and
//! goes on where it was. It can only do what is repeatable, because the sandbox it is compiled for has
//! nothing else.
//!
//! ```
//! use backstitch_sdk::testing::TestRun;
//! use backstitch_sdk::{ActivityOptions, Result, activities, export_workflows, proxy_activities, workflow};
//! use serde::{Deserialize, Serialize};
//!
//! #[activities(task_queue = "inventory-tasks")]
//! trait Inventory {
//!     async fn check_inventory(item_id: String) -> i64;
//!     async fn reserve_item(item_id: String, quantity: i64) -> String;
//!     async fn notify_backorder(item_id: String);
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order { item_id: String, quantity: i64 }
//!
//! #[derive(Serialize, Deserialize, Debug, PartialEq)]
//! enum Outcome { Reserved(String), Backordered }
//!
//! #[workflow]
//! async fn order_workflow(order: Order) -> Result<Outcome> {
//!     let inventory = proxy_activities::<dyn Inventory>(ActivityOptions::default());
//!     if inventory.check_inventory(order.item_id.clone()).await? >= order.quantity {
//!         Ok(Outcome::Reserved(inventory.reserve_item(order.item_id, order.quantity).await?))
//!     } else {
//!         inventory.notify_backorder(order.item_id).await?;
//!         Ok(Outcome::Backordered)
//!     }
//! }
//!
//! export_workflows!(order_workflow);
//!
//! // And its test, which needs neither a host nor a database:
//! let run = TestRun::<order_workflow>::new()
//!     .activity("check_inventory", |_| Ok(9))
//!     .activity("reserve_item", |_| Ok("reservation-1"))
//!     .run(&Order { item_id: "item-123".into(), quantity: 5 });
//! assert_eq!(run.output().unwrap(), Outcome::Reserved("reservation-1".into()));
//! assert_eq!(
//!     run.story(),
//!     [r#"activity check_inventory ["item-123"]"#, r#"activity reserve_item ["item-123",5]"#],
//! );
//! ```
//!
//! # The rules
//! - **A call is a command at once.** `let a = f(); let b = g();` starts both; `.await` only waits.
//!   [`join!`], [`try_join!`], [`join_all`] and [`select_biased!`] work as they do everywhere.
//! - **Dropping a pending command cancels it**: the loser of a [`select_biased!`] costs nothing.
//!   [`Pending::detach`] lets it go on.
//! - **Values cross as JSON**, written by `serde_json`. Types must be written the same way every time:
//!   prefer `BTreeMap` to `HashMap` in what you send, since the order of a `HashMap` belongs to the
//!   build. (Inside one build it repeats; a run is pinned to its build.)
//! - **A workflow panics only on a bug.** A panic parks the run, with file and line, until somebody
//!   fixes the code; a returned [`Error`] ends the run as failed.
//! - Time, randomness and logs come from [`now`], [`random_u64`], [`uuid`] and [`info!`].
//!
//! # Building
//! A guest is a `cdylib` for `wasm32-unknown-unknown` that depends on this crate alone (and `serde`);
//! `backstitch build` compiles it and turns the module into a component.

pub mod activity;
#[cfg(all(target_family = "wasm", feature = "allocator"))]
mod alloc;
mod ambient;
mod author;
mod bindings;
#[cfg(doctest)]
mod book;
mod command;
mod definition;
mod duration;
mod error;
mod executor;
mod hook;
mod host;
pub mod http;
mod interceptor;
mod memory;
mod options;
mod panic;
mod parallel;
mod scope;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod until;
mod update;
mod workflow;
mod written;

pub use activity::proxy_activities;
pub use ambient::{
    HistorySize, Level, deprecate_patch, history_size, is_replaying, log, now, now_ms, patched, random_u64,
    should_continue_as_new, uuid,
};
pub use backstitch_sdk_macros::{activities, workflow};
pub use command::{
    ChildHandle, Pending, call_activity, cancel_workflow, exec_child, signal_workflow, sleep_for,
    start_child, start_child_named, wait_for,
};
pub use definition::{Workflow, WorkflowResult};
pub use duration::{DurationError, IntoDuration, parse_duration};
pub use error::{Error, ErrorKind, Result};
pub use futures;
pub use futures::future::{join_all, try_join_all};
pub use futures::{join, select_biased, try_join};
pub use hook::{Hook, exec_hook, hook, raise};
pub use interceptor::{ActivityCall, ChildCall, Execution, Interceptor, Next};
pub use memory::{Attribute, Entity, Info, entity, info, remove_attribute, set_attribute, set_attributes};
pub use options::{ActivityOptions, ChildOptions, ParentClose, RetryPolicy};
pub use parallel::{Acquire, Permit, Semaphore, all};
pub use scope::{Shielded, shielded};
pub use until::{IntoInstant, sleep_until, wait_for_timeout};
pub use update::{Update, validate_update, wait_for_update};
pub use workflow::{continue_as_new, show};

/// What the macros expand to. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::activity::{
        describe as describe_activities, invoke as invoke_activity, run as run_activity,
    };
    pub use crate::interceptor::{Link, install as intercept};
    pub use crate::workflow::{Definition, describe, query, resume, start};

    /// The bindings of `world workflow`.
    pub mod workflow_world {
        pub use crate::bindings::workflow::*;
    }

    /// The bindings of `world activity`.
    pub mod activity_world {
        pub use crate::bindings::activity::*;
    }
}
