//! The one file of the host that reads the clock, draws randomness and looks at its environment.
//!
//! Everything else gets time, identities and settings as values. `clippy.toml` bans the calls behind
//! these functions everywhere else, so that whoever looks for a source of surprise looks here.

use std::path::{Path, PathBuf};
use std::{fs, io};

use backstitch_core::{HostId, Seed, TaskLease};
use ring::rand::{SecureRandom as _, SystemRandom};
use uuid::Uuid;

/// What this machine's wall clock says, in milliseconds since the Unix epoch. Nothing of a run goes by it: see
/// [`crate::clock`].
pub fn wall_ms() -> u64 {
    wall().saturating_add_signed(skew_ms())
}

#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
fn wall() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// By how much a test has this machine's clock be wrong, in milliseconds: what the file says that `BACKSTITCH_CLOCK` names,
/// now. Only builds with debug assertions ask.
#[cfg(debug_assertions)]
fn skew_ms() -> i64 {
    static FILE: std::sync::LazyLock<Option<PathBuf>> =
        std::sync::LazyLock::new(|| variable_path("BACKSTITCH_CLOCK"));
    let said = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    said.and_then(|said| said.trim().parse().ok()).unwrap_or(0)
}

/// None.
#[cfg(not(debug_assertions))]
fn skew_ms() -> i64 {
    0
}

/// Milliseconds since the machine was started, those included in which it slept: whoever was not there for a while
/// must be able to tell.
pub fn uptime_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let ms = now.tv_sec.unsigned_abs().saturating_mul(1_000);
    ms.saturating_add(now.tv_nsec.unsigned_abs() / 1_000_000)
}

/// An identity that is ordered by time: a UUID v7 at a place in time, in 4,096ths of a millisecond since the Unix epoch.
pub fn id_at(place: u64) -> Uuid {
    // Of the random bytes, those of the place are overwritten. The version and the variant are the builder's.
    let mut bytes = *random_uuid().as_bytes();
    bytes[..6].copy_from_slice(&(place >> 12).to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&((place & 0xfff) as u16 | 0x7000).to_be_bytes());
    Uuid::from_bytes(bytes)
}

/// What a run that starts now draws its numbers from.
pub fn new_seed() -> Seed {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    Seed(bytes)
}

/// The identity of this host process. A restarted process is another host.
pub fn new_host_id() -> HostId {
    HostId(new_uuid())
}

/// Ties an error that a client sees to the line in the log that explains it.
pub fn new_incident_id() -> Uuid {
    new_uuid()
}

/// A lease of tasks. All of it is random: whoever knows it was granted it.
pub fn new_task_lease() -> TaskLease {
    TaskLease(random_uuid())
}

#[expect(clippy::disallowed_methods, reason = "the one source of identities")]
fn random_uuid() -> Uuid {
    Uuid::new_v4()
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

/// The memory that this process may have: the machine's, or less if it is in a control group with a bound.
pub fn memory_bytes() -> Option<u64> {
    memory_bytes_below(Path::new("/"))
}

/// The same where the files of the kernel are below `root`.
fn memory_bytes_below(root: &Path) -> Option<u64> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let bounds = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (groups, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // Each group within another has its bound, and in a container the group's name is not its path.
        let all = root.join(groups);
        let within = all.join(group.trim_start_matches('/'));
        let dirs = within.ancestors().take_while(|dir| dir.starts_with(&all));
        dirs.filter_map(|dir| number(&dir.join(file))).collect()
    });
    bounds.chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_ordered_by_time() {
        let at = |ms: u64| id_at(ms << 12);
        assert!(at(1_700_000_000_000) < at(1_700_000_000_001));
        assert!(id_at(5) < id_at(6));
        assert_eq!((id_at(5).get_version_num(), id_at(5).get_variant()), (7, uuid::Variant::RFC4122));
    }

    #[test]
    fn there_is_memory_and_not_more_than_the_machine_has() {
        let bytes = memory_bytes().unwrap();
        assert!((64 << 20..1 << 50).contains(&bytes), "{bytes}");
    }

    /// Files of the kernel, as a machine or a container shows them.
    fn shown(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_bound_of_all_groups_around_the_process_counts() {
        const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       8388608 kB\nMemFree:  1 kB\n");
        const GIB: u64 = 1 << 30;
        let second = ("proc/self/cgroup", "0::/kubepods/pod7/host\n");
        let first = ("proc/self/cgroup", "9:name=systemd:/x\n4:cpuacct,memory:/docker/ab\n0::/x\n");
        /// What it is, its files with their texts, and the bound.
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<u64>);
        let cases: [Case<'_>; 8] = [
            ("nothing to be read", &[], None),
            ("no groups", &[MACHINE], Some(8 * GIB)),
            (
                "nested, the outer one is tighter",
                &[
                    MACHINE,
                    second,
                    ("sys/fs/cgroup/kubepods/memory.max", "4294967296\n"),
                    ("sys/fs/cgroup/kubepods/pod7/memory.max", "1073741824\n"),
                    ("sys/fs/cgroup/kubepods/pod7/host/memory.max", "2147483648\n"),
                ],
                Some(GIB),
            ),
            (
                "the inner one has none",
                &[
                    MACHINE,
                    second,
                    ("sys/fs/cgroup/kubepods/pod7/memory.max", "3221225472\n"),
                    ("sys/fs/cgroup/kubepods/pod7/host/memory.max", "max\n"),
                ],
                Some(3 * GIB),
            ),
            (
                "none has one",
                &[MACHINE, second, ("sys/fs/cgroup/kubepods/pod7/host/memory.max", "max\n")],
                Some(8 * GIB),
            ),
            (
                "a container that sees its own group at the top",
                &[MACHINE, second, ("sys/fs/cgroup/memory.max", "536870912\n")],
                Some(GIB / 2),
            ),
            (
                "the first version, with other controllers beside",
                &[
                    MACHINE,
                    first,
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                    ("sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "2147483648\n"),
                ],
                Some(2 * GIB),
            ),
            (
                "the first version without a bound",
                &[
                    MACHINE,
                    ("proc/self/cgroup", "4:memory:/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                    ("sys/fs/cgroup/memory.max", "1\n"),
                ],
                Some(8 * GIB),
            ),
        ];
        for (case, files, bytes) in cases {
            assert_eq!(memory_bytes_below(shown(files).path()), bytes, "{case}");
        }
    }

    #[test]
    fn the_clock_shows_this_century() {
        assert!(wall_ms() > 1_700_000_000_000);
        assert!(uptime_ms() > 0);
    }
}
