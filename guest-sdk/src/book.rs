//! The code of the book in `docs/`, compiled and run: a page that is not true fails `cargo test`.

#[doc = include_str!("../../docs/src/getting-started.md")]
struct GettingStarted;

#[doc = include_str!("../../docs/src/activities.md")]
struct Activities;

#[doc = include_str!("../../docs/src/reach.md")]
struct Reach;

#[doc = include_str!("../../docs/src/time.md")]
struct Time;

#[doc = include_str!("../../docs/src/parallelism.md")]
struct Parallelism;

#[doc = include_str!("../../docs/src/signals.md")]
struct Signals;

#[doc = include_str!("../../docs/src/messages.md")]
struct Messages;

#[doc = include_str!("../../docs/src/children.md")]
struct Children;

#[doc = include_str!("../../docs/src/cancellation.md")]
struct Cancellation;

#[doc = include_str!("../../docs/src/continue-as-new.md")]
struct ContinueAsNew;

#[doc = include_str!("../../docs/src/queries.md")]
struct Queries;

#[doc = include_str!("../../docs/src/updates.md")]
struct Updates;

#[doc = include_str!("../../docs/src/interceptors.md")]
struct Interceptors;

#[doc = include_str!("../../docs/src/hooks.md")]
struct Hooks;

#[doc = include_str!("../../docs/src/memory.md")]
struct Memory;

#[doc = include_str!("../../docs/src/versioning.md")]
struct Versioning;

#[doc = include_str!("../../docs/src/determinism.md")]
struct Determinism;

#[doc = include_str!("../../docs/src/testing.md")]
struct Testing;
