//! CPU time of this process and of a Postgres server, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel's clock tick: 100 a second on every Linux that Rust supports (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// CPU spent so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// This process.
    pub(crate) host: Duration,
    /// The postmaster, every process it has now, and every one it has waited for.
    pub(crate) postgres: Duration,
}

impl Cpu {
    /// Reads the clocks.
    pub(crate) fn now(postmaster: u32) -> Result<Self> {
        let host = times("self")?.own;
        let server = times(&postmaster.to_string())?;
        let mut postgres = server.own + server.waited_for;
        for child in children(postmaster)? {
            // One that has ended in between is in the postmaster's account the next time.
            postgres += times(&child.to_string()).map_or(Duration::ZERO, |times| times.own);
        }
        Ok(Self { host, postgres })
    }

    /// Since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            host: self.host.saturating_sub(before.host),
            postgres: self.postgres.saturating_sub(before.postgres),
        }
    }

    /// Of every process together, in microseconds.
    pub(crate) fn us(self) -> f64 {
        (self.host + self.postgres).as_secs_f64() * 1e6
    }
}

struct Times {
    own: Duration,
    waited_for: Duration,
}

/// Fields 14 to 17 of `/proc/PID/stat` (proc(5)), in ticks.
fn times(process: &str) -> Result<Times> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = after_name(&stat)?.split_whitespace().collect();
    let ticks =
        |index: usize| -> Result<f64> { Ok(fields.get(index).context("a short stat line")?.parse()?) };
    let span = |ticks: f64| Duration::from_secs_f64(ticks / TICKS_PER_S);
    Ok(Times { own: span(ticks(11)? + ticks(12)?), waited_for: span(ticks(13)? + ticks(14)?) })
}

fn after_name(stat: &str) -> Result<&str> {
    Ok(stat.rsplit_once(')').context("a stat line without a name")?.1)
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if parent_of(pid).is_some_and(|its| its == parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// The parent of a process, if that is still there.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat).ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("a short statm line")?.parse()?;
    // Page size of every x86-64 and nearly every AArch64 Linux.
    Ok(pages * 4096)
}
