//! The program as a person or a script calls it: arguments in; exit code, stdout and stderr out.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use backstitch::cli::exit::Exit;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::process::Command;

use crate::support::{DEADLINE, PROGRAM, TestHost, connect};

/// What a call of the program came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The document on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error on stderr of a call with `--json`.
    pub(crate) fn error(&self) -> Value {
        let document: Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        document["error"].clone()
    }

    /// It ended as it should.
    pub(crate) fn exits(self, exit: Exit) -> Self {
        assert_eq!(self.exit, i32::from(exit.code()), "{self:?}");
        self
    }
}

/// A call of the program that knows nothing of the environment of this test.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["BACKSTITCH_HOST", "BACKSTITCH_CRASH", "BACKSTITCH_LOG", "DATABASE_URL", "CARGO"] {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Makes the call. Whatever happens, the program does not panic.
pub(crate) async fn call(mut command: Command) -> Said {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap();
    said(&command, output)
}

/// The same for what compiles, which takes as long as the machine needs: it may go on while it, or a process that it has
/// started, computes.
pub(crate) async fn call_that_compiles(mut command: Command) -> Said {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let group = child.id().unwrap();
    let mut ended = std::pin::pin!(child.wait_with_output());
    let mut computed = 0;
    for _ in 0..COMPILING_DEADLINES_MAX {
        if let Ok(output) = tokio::time::timeout(DEADLINE, &mut ended).await {
            return said(&command, output.unwrap());
        }
        let before = std::mem::replace(&mut computed, processor_ticks(group));
        assert!(computed > before, "{command:?} does nothing and does not end");
    }
    panic!("{command:?} does not end");
}

/// How many deadlines what compiles has in all.
const COMPILING_DEADLINES_MAX: u32 = 10;

/// Processor time of a group of processes so far, in ticks of the kernel, with that of those it has waited for.
fn processor_ticks(group: u32) -> u64 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ticks = processes.filter_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        // Behind the name, which may hold anything: state, parent, group; and four sorts of time.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let is_of_group = fields.get(2)?.parse::<u32>().ok()? == group;
        let times = fields.get(11..15)?.iter().filter_map(|time| time.parse::<u64>().ok());
        is_of_group.then(|| times.sum::<u64>())
    });
    ticks.sum()
}

fn said(command: &Command, output: std::process::Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let exit = output.status.code().unwrap_or_else(|| panic!("{command:?} was ended: {}", output.status));
    let said = Said { exit, stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!said.stderr.contains("panicked at host/"), "{command:?}: {said:?}");
    said
}

/// Calls the program as a client of `host`.
pub(crate) async fn tell(host: &TestHost, args: &[&str]) -> Said {
    let mut command = command(args);
    command.args(["--host", &host.url]);
    call(command).await
}

/// Files for the program to read. Gone when dropped.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes a file of this length that takes no room; its path.
    pub(crate) fn sparse(&self, name: &str, bytes: u64) -> String {
        std::fs::File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Tables that a request may write to. Leases are left out: a host writes there all the time.
const TABLES: [&str; 8] =
    ["runs", "ledger", "timers", "inbox", "components", "deployments", "tenants", "schedules"];

/// Rows of each table: a refused request leaves them as they were.
pub(crate) async fn rows_of_tables(database: &str) -> Vec<(&'static str, i64)> {
    let mut connection: PgConnection = connect(database).await;
    let mut counts = Vec::new();
    for table in TABLES {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        counts.push((table, sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()));
    }
    counts
}

/// The most memory that a process has had, in MiB.
pub(crate) fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// An order that everybody can fill.
pub(crate) const ORDER: &str = r#"{"order_id":"order-1","customer":{"name":"A","email":"a@example.com","city":"Berlin"},"item_id":"SKU-1","quantity":1,"unit_price_cents":995}"#;
