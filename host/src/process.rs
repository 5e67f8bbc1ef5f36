//! What the process asks of its operating system for itself, once, before it serves: room for files, and that nobody
//! else looks into its memory.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are asked for at most: some systems say "without bound" and mean less.
const FILES_MAX: u64 = 1 << 20;

/// Files that the host needs for something else than connections of clients: those to the database, components,
/// requests of activities, pipes of workers.
const FILES_APART: u64 = 1_024;

/// Raises the bound on open files to what the system lets it be. Says how many there may be.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(FILES_MAX);
    let now = current.unwrap_or(u64::MAX);
    if now >= wanted {
        return now;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, files = now, "the bound on open files cannot be raised");
            now
        }
    }
}

/// How many of so many files may be connections of clients.
pub(crate) fn files_for_connections(files: u64) -> usize {
    let left = files.saturating_sub(FILES_APART).max(files / 2);
    usize::try_from(left).unwrap_or(usize::MAX)
}

/// No core dump of this process and its children, and no debugger of another process of the same user: its memory
/// has payloads in the clear, their keys and the secrets of activities.
pub(crate) fn hide_memory() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this very process: what the files of another show of it does not say so to root.
    #[cfg(target_os = "linux")]
    #[test]
    fn nobody_may_look_into_the_memory_that_is_hidden() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        hide_memory().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(files_for_connections(1_048_576), 1_047_552);
        assert_eq!(files_for_connections(1_024), 512);
        assert_eq!(files_for_connections(3_000), 1_976);
    }
}
