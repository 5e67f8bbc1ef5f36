//! Everything that Backstitch says to Wasmtime.
//!
//! * [`Sandbox::take_in`] turns a stranger's bytes into a [`Program`], or says everything that is wrong with
//!   them: from the cache of compiled code, or by looking at them, compiling them and asking them what they hold in
//!   a process of its own, in a cage.
//! * [`Sandbox::load`] does the same with what was taken in before, by this host or another.
//! * [`WorkflowInstance`] runs one run's guest against a [`backstitch_core::Replay`]. It never waits for
//!   anybody, gives its thread away now and then, and repeats exactly.
//! * [`Sandbox::invoke`] runs one attempt of an activity, on tokio, against the clock.
//!
//! Whatever a guest does, it ends as a value: a [`backstitch_core::Fault`], a
//! [`backstitch_core::Divergence`], or a [`backstitch_core::Failure`] of an attempt. After a trap its
//! store is never entered again.
//!
//! Activities reach out by HTTP alone, and only to where [`Manifest`] and [`EgressConfig`] let them.
//!
//! Deliberately absent: sockets and the file system in every guest; the network, wall clocks, threads and
//! timers in workflows; the ledger, which only the host's wiring knows.

mod activity;
mod admit;
mod artefact;
mod budget;
mod cache;
mod cage;
mod compile;
mod describe;
mod described;
mod egress;
mod engine;
mod fault;
mod gauge;
mod guest_log;
mod guest_time;
mod heartbeat;
mod host;
mod kind;
mod last_words;
mod means;
mod prices;
mod program;
mod room;
mod sandbox;
mod stdio;
mod turns;
mod wasi;
mod workflow;
mod world;

pub use activity::{ActivityCall, ActivityContext, ActivityProgram};
pub use admit::{Admitted, Refused};
pub use cache::CacheError;
pub use cage::CageReport;
pub use compile::{CompileError, Compiler, Job, NotAJob, compile_child_main};
pub use described::Described;
pub use egress::{BadManifest, EgressConfig, EgressError, Manifest, Network, NotANetwork, tls};
pub use engine::Build;
pub use gauge::{Gauge, GaugeError, Gauged};
pub use guest_time::{GuestTime, Stop};
pub use heartbeat::{Defer, Heartbeat};
pub use host::RunInfo;
pub use kind::{ComponentKind, NotAKind};
pub use program::Program;
pub use room::Room;
pub use sandbox::{Deployable, LoadError, Sandbox, SandboxConfig, SandboxError};
pub use workflow::{Activation, Reader, Stopped, Unstarted, WorkflowInstance, WorkflowProgram};
