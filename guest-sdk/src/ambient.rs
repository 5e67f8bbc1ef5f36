//! What a workflow may know of the world without asking for it: time, randomness, a log.
//!
//! Promises: no ledger rows, and the same values on every replay. Use these, never the standard
//! library's clock or a random-number crate: in a component those do not exist, on purpose.

use crate::bindings::types;
use crate::host::{self, Host};
use std::time::{Duration, SystemTime};

/// The time of the event being handled: it stands still between two `.await`s.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms())
}

/// [`now`] in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    host::with(Host::now_ms)
}

/// The next number of this run's random stream. Nobody can guess it who cannot read the run's ledger: tokens may
/// be made of it.
pub fn random_u64() -> u64 {
    host::with(Host::random_u64)
}

/// A UUID (version 4) from this run's random stream.
pub fn uuid() -> String {
    let (high, low) = (random_u64(), random_u64());
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// Guards a change of code that runs are already under way with: true for runs that get here for the
/// first time, false for those whose ledger went past this point before the change existed.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// # async fn charge_with_receipt() {} async fn charge() {}
/// if backstitch_sdk::patched("receipt-with-charge") {
///     charge_with_receipt().await;
/// } else {
///     charge().await;
/// }
/// # Ok(()) }
/// ```
pub fn patched(change_id: &str) -> bool {
    host::with(|host| host.patched(change_id))
}

/// Takes the place of [`patched`] once the old side is deleted: takes the mark of runs that have one,
/// leaves none in new runs. Delete it too as soon as no open run has a mark.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// # async fn charge_with_receipt() {}
/// backstitch_sdk::deprecate_patch("receipt-with-charge");
/// charge_with_receipt().await;
/// # Ok(()) }
/// ```
pub fn deprecate_patch(change_id: &str) {
    host::with(|host| host.deprecate_patch(change_id));
}

/// What a run's ledger holds up to the event being handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistorySize {
    /// Its rows. The host's bound is 200,000.
    pub rows: u32,
    /// Bytes of payloads that the workflow gave and was given. The host's bound is 256 MiB.
    pub bytes: u64,
}

/// How long the ledger has become. See [`should_continue_as_new`].
pub fn history_size() -> HistorySize {
    let types::History { rows, bytes } = host::with(Host::history_size);
    HistorySize { rows, bytes }
}

/// Whether a run that lives long had better continue as new at its next rest: long before the bounds,
/// at 10,000 rows or 16 MiB, which a host replays in some ten milliseconds.
///
/// ```no_run
/// # use backstitch_sdk::{Result, continue_as_new, should_continue_as_new, wait_for};
/// # async fn example(mut total: u64) -> Result<()> {
/// loop {
///     total += wait_for::<u64>("payment").await?;
///     if should_continue_as_new() {
///         return continue_as_new(&total);
///     }
/// }
/// # }
/// ```
pub fn should_continue_as_new() -> bool {
    let HistorySize { rows, bytes } = history_size();
    rows >= 10_000 || bytes >= 16 << 20
}

/// Whether the workflow is being led over old ground after a crash or an eviction. For logs and metrics
/// alone, which [`log`] spares already: a workflow that decides by it diverges, and is parked.
pub fn is_replaying() -> bool {
    host::with(Host::is_replaying)
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// Worth waking somebody.
    Error,
}

/// Writes to the host's log; silent on replay. The macros [`debug!`](crate::debug!),
/// [`info!`](crate::info!), [`warn!`](crate::warn!) and [`error!`](crate::error!) format and call this.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => types::Level::Debug,
        Level::Info => types::Level::Info,
        Level::Warn => types::Level::Warn,
        Level::Error => types::Level::Error,
    };
    host::with(|host| host.log(level, message));
}

/// Logs at [`Level::Debug`], formatted as by [`format!`].
#[macro_export]
macro_rules! debug { ($($arg:tt)+) => { $crate::log($crate::Level::Debug, &::std::format!($($arg)+)) }; }

/// Logs at [`Level::Info`], formatted as by [`format!`].
#[macro_export]
macro_rules! info { ($($arg:tt)+) => { $crate::log($crate::Level::Info, &::std::format!($($arg)+)) }; }

/// Logs at [`Level::Warn`], formatted as by [`format!`].
#[macro_export]
macro_rules! warn { ($($arg:tt)+) => { $crate::log($crate::Level::Warn, &::std::format!($($arg)+)) }; }

/// Logs at [`Level::Error`], formatted as by [`format!`].
#[macro_export]
macro_rules! error { ($($arg:tt)+) => { $crate::log($crate::Level::Error, &::std::format!($($arg)+)) }; }
