//! The one file of the host that reads the clock, draws randomness and looks at its environment.
//!
//! Everything else gets time, identities and settings as values. `clippy.toml` bans the calls behind
//! these functions everywhere else, so that whoever looks for a source of surprise looks here.

use std::io;
use std::path::PathBuf;

use backstitch_core::{HostId, RunId, TaskLease};
use uuid::Uuid;

/// Milliseconds since the Unix epoch. May step backwards when an operator sets the clock: what must
/// not is made monotonic where it is used.
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
pub fn now_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// The identity of a run that starts now.
pub fn new_run_id() -> RunId {
    RunId(new_uuid())
}

/// The identity of this host process. A restarted process is another host.
pub fn new_host_id() -> HostId {
    HostId(new_uuid())
}

/// The identity of a message that is sent now.
pub fn new_item_id() -> Uuid {
    new_uuid()
}

/// Ties an error that a client sees to the line in the log that explains it.
pub fn new_incident_id() -> Uuid {
    new_uuid()
}

/// One handing-out of tasks. All of it is random: whoever knows it was given it.
#[expect(clippy::disallowed_methods, reason = "the one source of identities")]
pub fn new_task_lease() -> TaskLease {
    TaskLease(Uuid::new_v4())
}

#[expect(clippy::disallowed_methods, reason = "the one source of identities")]
fn new_uuid() -> Uuid {
    Uuid::now_v7()
}

/// An environment variable; empty and unreadable ones count as unset.
#[expect(clippy::disallowed_methods, reason = "the one reading of the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An environment variable that names a file or directory; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one reading of the environment")]
pub fn variable_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The running program, to start itself again with. On Linux it is the kernel's own link, which
/// holds even after the file has been replaced by a newer version.
pub fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

/// Whether the process runs as the superuser, whom Postgres refuses to serve.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_ordered_by_time() {
        let first = new_run_id();
        let second = new_run_id();
        assert!(first < second);
        assert_eq!(first.0.get_version_num(), 7);
    }

    #[test]
    fn the_clock_shows_this_century() {
        assert!(now_ms() > 1_700_000_000_000);
    }
}
