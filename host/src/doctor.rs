//! Looks at a machine before, or after, something does not work: each check says what it found and,
//! where that is not good, the command that mends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backstitch_client::{Client, ClientError};
use backstitch_core::limits;
use backstitch_ledger::{Cluster, ClusterOptions, ConnectOptions, Ledger, Loss, blocked_by};
use backstitch_sandbox::{CageReport, CompileError, Compiler};
use serde::Serialize;

use crate::componentize::{self, TARGET};
use crate::config::{self, DataDir, NoDataDir};

/// Below it Postgres will soon stop taking writes.
const DISK_BYTES_MIN: u64 = 256 << 20;
/// Below it a busy host fills the disk within the day.
const DISK_BYTES_GOOD: u64 = 2 << 30;

/// Mappings that a warm guest takes: memory and its guards, tables, stack.
const MAPS_PER_GUEST: u64 = 6;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which thing.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What mends it; none if it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Well.
    Ok,
    /// Works, but not for everything or not for long.
    Warning,
    /// Does not work.
    Failed,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Failed, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything. With options at the database that they name, else at the private Postgres that `dev`
/// would start.
pub async fn examine(
    options: Option<ConnectOptions>,
    pg_bin: Option<PathBuf>,
    data: Result<DataDir, NoDataDir>,
    compiler: &Compiler,
    client: &Client,
) -> Vec<Check> {
    let mut checks = vec![match options {
        Some(options) => database(options).await,
        None => private_postgres(pg_bin, data.as_ref().ok()).await,
    }];
    checks.push(cargo());
    checks.push(target());
    match data {
        Ok(data) => {
            checks.push(data_dir(data.path()));
            checks.push(disk(data.path()));
        }
        Err(error) => {
            checks.push(Check::failed("data directory", error.to_string(), "set HOME or give --data-dir"));
        }
    }
    checks.extend(maps(fs::read_to_string("/proc/sys/vm/max_map_count").ok().as_deref()));
    checks.push(cage(compiler.probe().await));
    checks.push(host(client).await);
    checks
}

/// Where components of others are looked at and compiled.
fn cage(probed: Result<Option<CageReport>, CompileError>) -> Check {
    const NAME: &str = "compiler's cage";
    let lsm = "give the host a kernel of 6.12 or later with Landlock among its modules (lsm=landlock,...), and a \
               container profile that allows landlock and seccomp";
    match probed {
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            "look at its standard error: backstitch internal compile probe",
        ),
        Ok(None) => Check::warning(NAME, "none: components are compiled in the host", "compile in a child"),
        Ok(Some(CageReport { missing, escapes })) if missing.is_empty() && escapes.is_empty() => {
            Check::ok(NAME, "limits, Landlock and seccomp hold")
        }
        Ok(Some(CageReport { missing, escapes })) => {
            let escapes = escapes.iter().map(|what| format!("it is possible {what}"));
            let found: Vec<String> = missing.into_iter().chain(escapes).collect();
            Check::warning(NAME, found.join("; "), lsm)
        }
    }
}

/// The login, the version, the encoding and whether it takes writes: all of it is asked on connecting.
async fn database(options: ConnectOptions) -> Check {
    const NAME: &str = "database";
    let shown = config::without_password(&options.url);
    match Ledger::connect(options).await {
        Ok(ledger) => match ledger.losses().await {
            // A database without our schema has lost nothing.
            Err(_) => Check::ok(NAME, format!("{shown} takes writes")),
            Ok(losses) => lost(&losses).unwrap_or_else(|| Check::ok(NAME, format!("{shown} takes writes"))),
        },
        Err(error) => Check::failed(NAME, error.to_string(), "mend DATABASE_URL or the server it names"),
    }
}

/// What hosts have noted down that the database had committed and has lost.
fn lost(losses: &[Loss]) -> Option<Check> {
    let first = losses.first()?;
    let Loss { workflow_id, run, kept, committed, .. } = first;
    Some(Check::warning(
        "database",
        format!(
            "it has lost committed rows of {} runs, in a failover or a restore; of {workflow_id:?} (run {run}) it kept {kept} \
             of {committed}",
            losses.len()
        ),
        "look at these runs (select * from losses): what clients were told of the rows that are gone does not hold; then \
         delete from losses",
    ))
}

/// A private Postgres that really starts, in a directory that goes with it, and then whether its user
/// could enter the one that `dev` would use.
async fn private_postgres(pg_bin: Option<PathBuf>, data: Option<&DataDir>) -> Check {
    const NAME: &str = "private postgres";
    let dir = PathBuf::from(format!("/tmp/backstitch-doctor-{}", std::process::id()));
    let options = ClusterOptions { pg_bin, ephemeral: true, ..ClusterOptions::new(&dir) };
    let started = tokio::task::spawn_blocking(|| {
        Cluster::start(options).map(|cluster| cluster.stop(false)).map_err(|error| error.to_string())
    });
    let started = started.await.unwrap_or_else(|error| Err(error.to_string()));
    // A server takes its folder with it; where none came up, it is left.
    let _ = fs::remove_dir_all(&dir);
    let blocked = data.map(|data| blocked_by(&data.postgres()));
    match (started, blocked) {
        (Err(why), _) => Check::failed(NAME, why, "or set DATABASE_URL to a Postgres that runs already"),
        (Ok(()), Some(Ok(Some(place)))) => Check::failed(
            NAME,
            format!("starts, but its user may not enter {}", place.display()),
            "give another directory with --data-dir",
        ),
        (Ok(()), _) => Check::ok(NAME, "starts, takes connections and stops"),
    }
}

fn cargo() -> Check {
    const NAME: &str = "cargo";
    let cargo = backstitch_engine::ambient::variable_path("CARGO").unwrap_or_else(|| "cargo".into());
    match Command::new(cargo).arg("--version").output() {
        Ok(output) if output.status.success() => {
            Check::ok(NAME, String::from_utf8_lossy(&output.stdout).trim())
        }
        _ => Check::warning(
            NAME,
            "cargo does not run: guests cannot be built here, components can still be deployed",
            "install Rust from https://rustup.rs",
        ),
    }
}

fn target() -> Check {
    let name = "wasm target";
    match componentize::has_target(Path::new(".")) {
        Ok(true) => Check::ok(name, format!("{TARGET} is installed")),
        Ok(false) => Check::warning(
            name,
            format!("{TARGET} is not installed: guests cannot be built here"),
            format!("rustup target add {TARGET}"),
        ),
        Err(error) => {
            let found = format!("{}: {}", error.what, error.why);
            Check::warning(name, found, "install Rust from https://rustup.rs")
        }
    }
}

fn data_dir(dir: &Path) -> Check {
    const NAME: &str = "data directory";
    let shown = dir.display();
    let Some(existing) = dir.ancestors().find(|ancestor| ancestor.exists()) else {
        return Check::failed(NAME, format!("{shown} cannot be made"), "give another with --data-dir");
    };
    // Asking the kernel is not enough: a read-only mount or a full quota says yes to that.
    let probe = existing.join(format!(".backstitch-doctor-{}", std::process::id()));
    let written = fs::write(&probe, b"probe");
    let _ = fs::remove_file(&probe);
    match written {
        Ok(()) if existing == dir => Check::ok(NAME, format!("{shown} takes files")),
        Ok(()) => Check::ok(NAME, format!("{shown} can be made")),
        Err(error) => {
            let found = format!("{} takes no files: {error}", existing.display());
            Check::failed(
                NAME,
                found,
                format!("chown it to this user, or give another than {shown} with --data-dir"),
            )
        }
    }
}

fn disk(dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(volume) => room(volume.f_bavail.saturating_mul(volume.f_frsize), existing),
        Err(error) => Check::warning(NAME, format!("unknown: {error}"), "look with df"),
    }
}

fn room(free: u64, place: &Path) -> Check {
    const NAME: &str = "disk space";
    let found = format!("{} MiB free at {}", free >> 20, place.display());
    let fix = "make room, or give a directory on another disk with --data-dir";
    match free {
        0..DISK_BYTES_MIN => Check::failed(NAME, found, fix),
        DISK_BYTES_MIN..DISK_BYTES_GOOD => Check::warning(NAME, found, fix),
        _ => Check::ok(NAME, found),
    }
}

/// None where the kernel has no such bound.
fn maps(setting: Option<&str>) -> Option<Check> {
    let name = "vm.max_map_count";
    let maps: u64 = setting?.trim().parse().ok()?;
    let wanted = MAPS_PER_GUEST * limits::WARM_RUNS_MAX as u64;
    Some(if maps >= wanted {
        Check::ok(name, maps.to_string())
    } else {
        let guests = maps / MAPS_PER_GUEST / 2;
        Check::warning(
            name,
            format!("{maps}: too few mappings for {} warm guests", limits::WARM_RUNS_MAX),
            format!("sysctl -w {name}={}, or start the host with --warm-runs-max {guests}", wanted * 2),
        )
    })
}

async fn host(client: &Client) -> Check {
    const NAME: &str = "host";
    let url = client.url();
    match client.health().await {
        Ok(health) if health.status == "ok" => Check::ok(NAME, format!("{} at {url}", health.version)),
        Ok(health) => {
            let why = health.database.unwrap_or_else(|| health.status.clone());
            Check::failed(
                NAME,
                format!("{url} is {}: {why}", health.status),
                "look at its log and its database",
            )
        }
        Err(ClientError::Unreachable { reason, .. }) => {
            Check::warning(NAME, format!("none at {url}: {reason}"), "backstitch dev")
        }
        Err(error) => Check::failed(NAME, error.to_string(), "check --host and BACKSTITCH_HOST"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_map_count_is_told_with_a_number_that_helps() {
        assert_eq!(maps(Some("262144\n")).unwrap().state, State::Ok);
        assert_eq!(maps(Some("65530")).unwrap().state, State::Ok, "the kernel's default");
        let small = maps(Some("6000")).unwrap();
        assert_eq!(small.state, State::Warning);
        assert!(small.fix.unwrap().starts_with("sysctl -w vm.max_map_count=60000, "));
        assert_eq!(maps(None), None);
    }

    #[test]
    fn what_a_kernel_does_not_do_for_the_cage_is_told() {
        assert_eq!(cage(Ok(Some(CageReport::default()))).state, State::Ok);
        let loose = CageReport {
            missing: vec!["Landlock: the kernel has none".to_owned()],
            escapes: vec!["to read a file".to_owned()],
        };
        let loose = cage(Ok(Some(loose)));
        assert_eq!(loose.state, State::Warning);
        assert_eq!(loose.found, "Landlock: the kernel has none; it is possible to read a file");
        assert!(loose.fix.unwrap().contains("lsm=landlock"));
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_a_failure_before_postgres_notices() {
        let state = |free| room(free, Path::new("/")).state;
        assert_eq!(state(1 << 20), State::Failed);
        assert_eq!(state(1 << 30), State::Warning);
        assert_eq!(state(1 << 40), State::Ok);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_fine_where_it_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(data_dir(&dir.path().join("a/b")).state, State::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the probe is gone");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(data_dir(&file).state, State::Failed, "a file is no directory");
    }
}
