//! A host in a control group with little memory: its guests have a share of what the group may have, not of what the
//! machine has, and the kernel ends nobody for want of memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::activities::fill;
use crate::support::{HostOptions, TestHost, check_ledgers, database, skipped};

/// What the group may have. Half of it is for guests, one attempt may go beyond, and the host is a debug build.
const GROUP_MIB: u64 = 1_024;

/// A group of its own, within the one of this process. Goes when it is dropped, after those who were in it.
struct Group {
    dir: PathBuf,
    /// The file that counts whom the kernel has ended.
    events: &'static str,
}

impl Group {
    /// Makes one, if this process may; else says why not.
    fn new(bytes_max: u64) -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("no groups: {error}"))?;
        let path =
            |line: &str| line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned());
        let first = own.lines().find(|line| line.split(':').nth(1).is_some_and(|which| which == "memory"));
        let second = own.lines().find(|line| line.starts_with("0::"));
        let (parent, bound, events) = if let Some(line) = first {
            let parent = Path::new("/sys/fs/cgroup/memory").join(path(line).unwrap_or_default());
            (parent, "memory.limit_in_bytes", "memory.oom_control")
        } else if let Some(line) = second {
            let parent = Path::new("/sys/fs/cgroup").join(path(line).unwrap_or_default());
            // One with processes in it, as that of this one, may give its groups no bounds; one above it may.
            let parent = parent.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup")).find(|dir| {
                let given = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
                given.split_whitespace().any(|controller| controller == "memory")
            });
            let parent = parent.ok_or("no group around this process hands bounds of memory on")?;
            (parent.to_owned(), "memory.max", "memory.events")
        } else {
            return Err("this process is in no group that knows of memory".to_owned());
        };
        let group = Self { dir: parent.join(format!("backstitch-test-{}", std::process::id())), events };
        fs::create_dir(&group.dir).map_err(|error| format!("{}: {error}", group.dir.display()))?;
        let file = group.dir.join(bound);
        fs::write(&file, bytes_max.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(group)
    }

    /// What a shell says to go into it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.dir.display())
    }

    /// How many of it the kernel has ended for want of memory.
    fn killed(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join(self.events)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Those that were killed are in it for a moment longer.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("{} is left behind", self.dir.display());
    }
}

#[tokio::test]
async fn a_host_in_a_small_control_group_has_nobody_ended_for_want_of_memory() {
    const CALLS: usize = 40;
    let group = match Group::new(GROUP_MIB << 20) {
        Ok(group) => group,
        Err(why) => return skipped(&format!("no control group can be made here: {why}")),
    };
    let database = database().await;
    let options =
        HostOptions { lease_ms: "60000", before: Some(group.enter()), ..HostOptions::new(&database) };
    let mut host = TestHost::start(options).await;
    host.deploy(&["hostile-guest", "hostile-activities"]).await;
    let runs = fill(&host, CALLS).await;
    for id in &runs {
        assert_eq!(host.output(id).await, "250", "{id}");
    }
    assert!(host.is_running());
    assert_eq!(group.killed(), 0);
    check_ledgers(&database).await;
}
