//! What the tests stand on: a real Postgres, real host processes, real components.
//!
//! One private server serves all tests of a binary, each with a database of its own; it goes with the
//! process, whatever ends that. Hosts are children of the test and die with their [`TestHost`]. Nothing
//! here sleeps for a length of time: [`eventually`] waits for a condition, with a deadline that is far
//! beyond what a slow machine needs.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use backstitch_client::history::Part;
use backstitch_client::views::{RowView, RunView};
use backstitch_client::{Client, ClientError, StartRun};
use backstitch_core::{Json, Row, Run, RunId, RunStatus, Scope, Seq};
use backstitch_ledger::{Cluster, ConnectOptions, Ledger, Page, RunFilter, RunInfo, RunRef};
use sqlx::{Connection, PgConnection};

/// How long anything may take before the test gives up: never reached by a machine that works.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The `backstitch` program of this build.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_backstitch");

/// A lease short enough that a takeover does not hold a test up, and long enough that a busy machine
/// does not lose it all the time.
pub const LEASE_MS: &str = "1500";

/// The number of the signal by which a host dies at a crash point.
const SIGKILL: i32 = 9;

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A component of `examples/` or `tests/guests/`, by its package's name. All are built at the first call.
pub fn component(package: &str) -> Vec<u8> {
    static COMPONENTS: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(build_components);
    COMPONENTS.get(package).unwrap_or_else(|| panic!("no guest {package:?}")).clone()
}

/// The packages that become components for `wasm32-unknown-unknown`.
const GUESTS: [&str; 21] = [
    "order-workflow",
    "order-activities",
    "example-activities",
    "approval-workflow",
    "fan-out-workflow",
    "saga-workflow",
    "child-workflow",
    "follow-up-workflow",
    "shipment-workflow",
    "payment-workflow",
    "poll-workflow",
    "perspectives-workflow",
    "bare-workflow",
    "hostile-guest",
    "hostile-activities",
    "order-v2-workflow",
    "verbs-guest",
    "beating-activities",
    "inventory-activities",
    "inventory-workflow",
    "reaching-activities",
];

fn build_components() -> BTreeMap<String, Vec<u8>> {
    let packages = GUESTS.map(str::to_owned);
    let guests = backstitch::componentize::find(&root(), &packages).unwrap();
    let modules = backstitch::componentize::compile(&guests, true).unwrap();
    let component = |(package, module): (String, PathBuf)| {
        let module = std::fs::read(module).unwrap();
        let component = backstitch::componentize::componentize(&package, module).unwrap();
        (package, component)
    };
    packages.into_iter().zip(modules).map(component).collect()
}

/// The component that a text under `tests/guests/wat/` describes.
pub fn wat(name: &str) -> Vec<u8> {
    let path = root().join("tests/guests/wat").join(name).with_extension("wat");
    wat::parse_file(path).unwrap()
}

/// A database of its own on the server of this test binary; its URL.
pub async fn database() -> String {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| Cluster::ephemeral().unwrap()));
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    server.await.unwrap().create_database(&name).await.unwrap()
}

/// Asks the database directly.
pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How to start a host.
pub struct HostOptions<'a> {
    pub database: &'a str,
    /// A crash point, as `BACKSTITCH_CRASH` takes it.
    pub crash: Option<String>,
    /// The folder of its gates, as `BACKSTITCH_GATES` takes it.
    pub gates: Option<PathBuf>,
    /// Further arguments of the command.
    pub args: Vec<String>,
    /// `serve`, or `dev`, which does not look at `database`.
    pub command: &'static str,
    /// How long the host may be silent.
    pub lease_ms: &'static str,
    /// What a shell says before it becomes the host.
    pub before: Option<String>,
    /// The file that says by how many milliseconds its machine's clock is wrong.
    pub clock: Option<PathBuf>,
    /// Where it keeps what outlives it; none: in a folder that goes with the [`TestHost`].
    pub data: Option<PathBuf>,
}

impl<'a> HostOptions<'a> {
    pub fn new(database: &'a str) -> Self {
        let (args, command) = (Vec::new(), "serve");
        Self {
            database,
            crash: None,
            args,
            gates: None,
            command,
            lease_ms: LEASE_MS,
            before: None,
            clock: None,
            data: None,
        }
    }

    pub fn crash(mut self, point: impl Into<String>) -> Self {
        self.crash = Some(point.into());
        self
    }

    pub fn gates(mut self, gates: &Gates) -> Self {
        self.gates = Some(gates.0.path().to_owned());
        self
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn clock(mut self, file: impl Into<PathBuf>) -> Self {
        self.clock = Some(file.into());
        self
    }

    pub fn data(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data = Some(dir.into());
        self
    }
}

/// Places where a host waits as long as a test wants it to.
pub struct Gates(tempfile::TempDir);

impl Gates {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn shut(&self, gate: &str) {
        let _ = std::fs::remove_file(self.0.path().join(format!("{gate}.reached")));
        std::fs::write(self.0.path().join(gate), "").unwrap();
    }

    pub fn open(&self, gate: &str) {
        std::fs::remove_file(self.0.path().join(gate)).unwrap();
        let _ = std::fs::remove_file(self.0.path().join(format!("{gate}.reached")));
    }

    /// Lets one through who waits there.
    pub fn pass(&self, gate: &str) {
        std::fs::write(self.0.path().join(format!("{gate}.pass")), "").unwrap();
    }

    /// Whether somebody waits there, who has not been let through.
    pub fn is_reached(&self, gate: &str) -> bool {
        let is_there = |file: &str| self.0.path().join(format!("{gate}.{file}")).exists();
        !is_there("pass") && is_there("reached")
    }
}

/// What a command of the CLI said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A `backstitch serve` process. Killed when dropped.
pub struct TestHost {
    child: Child,
    pub client: Client,
    pub url: String,
    /// The database it said it works on.
    pub database_url: String,
    data: tempfile::TempDir,
}

impl TestHost {
    /// Starts a host and waits until it serves. None if it died before, as at an early crash point.
    pub async fn try_start(options: HostOptions<'_>) -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        let mut command = match &options.before {
            None => Command::new(PROGRAM),
            Some(before) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(PROGRAM);
                shell
            }
        };
        command
            .args([options.command, "--json", "--listen", "127.0.0.1:0", "--lease-ms", options.lease_ms])
            .args(["--data-dir".as_ref(), options.data.as_deref().unwrap_or(data.path()).as_os_str()])
            .args(&options.args)
            .env("DATABASE_URL", options.database)
            .env_remove("BACKSTITCH_CRASH")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(data.path().join("log")).unwrap());
        if let Some(point) = &options.crash {
            command.env("BACKSTITCH_CRASH", point);
        }
        if let Some(gates) = &options.gates {
            command.env("BACKSTITCH_GATES", gates);
        }
        if let Some(file) = &options.clock {
            command.env("BACKSTITCH_CLOCK", file);
        }
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let ready = tokio::task::spawn_blocking(move || {
            serde_json::Deserializer::from_reader(stdout).into_iter::<serde_json::Value>().next()
        });
        let Some(Ok(ready)) = ready.await.unwrap() else {
            let log = std::fs::read_to_string(data.path().join("log")).unwrap_or_default();
            assert!(options.crash.is_some(), "the host did not start:\n{log}");
            assert_eq!(
                child.wait().unwrap().signal(),
                Some(SIGKILL),
                "the host did not die at its crash point:\n{log}"
            );
            return None;
        };
        let url = ready["url"].as_str().unwrap().to_owned();
        let database_url = ready["database_url"].as_str().unwrap().to_owned();
        Some(Self { child, client: Client::new(&url).unwrap(), url, database_url, data })
    }

    /// Starts a host that must come up.
    pub async fn start(options: HostOptions<'_>) -> Self {
        Self::try_start(options).await.expect("the host came up")
    }

    /// Starts a host and deploys these packages.
    pub async fn with(database: &str, packages: &[&str]) -> Self {
        let host = Self::start(HostOptions::new(database)).await;
        host.deploy(packages).await;
        host
    }

    pub async fn deploy(&self, packages: &[&str]) {
        for package in packages {
            self.client.deploy(component(package)).await.unwrap();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal such as `-STOP`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) {
        eventually("the host ends", async || (!self.is_running()).then_some(())).await;
    }

    /// Waits until the process has ended by itself, and says how.
    pub async fn exit(&mut self) -> ExitStatus {
        eventually("the host ends", async || self.child.try_wait().unwrap()).await
    }

    /// Waits until the process has died at its crash point.
    pub async fn crashed(&mut self) {
        assert_eq!(self.exit().await.signal(), Some(SIGKILL), "{}", self.log());
    }

    /// What it has written to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap()
    }

    /// Runs a command of the CLI against this host.
    pub async fn cli(&self, args: &[&str]) -> Said {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("BACKSTITCH_HOST", &self.url).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Said { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts a run under an id and gives the id back.
    pub async fn start_run(&self, workflow: &str, id: &str, input: &str) -> String {
        let start = StartRun::new(workflow, Some(id.to_owned()), Json::new(input).unwrap());
        self.client.start(start).await.unwrap();
        id.to_owned()
    }

    /// Waits until a run has closed or is parked.
    pub async fn ended_run(&self, id: &str) -> RunView {
        eventually(&format!("run {id} ends"), async || {
            let view = self.client.result(id, Duration::from_secs(10)).await.ok()?;
            (!matches!(view.status, RunStatus::Running | RunStatus::Paused)).then_some(view)
        })
        .await
    }

    /// Waits until a run has completed, and gives its output.
    pub async fn output(&self, id: &str) -> String {
        let view = self.ended_run(id).await;
        assert_eq!(view.status, RunStatus::Completed, "{view:#?}\n{}", self.log());
        view.output.unwrap().as_str().to_owned()
    }

    /// From which row on a run draws its numbers from which seed. Only its export says so.
    pub async fn seeds(&self, id: &str) -> Vec<(u64, String)> {
        let text = self.client.history(id, &[Part::Timeline]).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let detail = document["timeline"][0]["detail"].as_str().unwrap();
        let detail: serde_json::Value = serde_json::from_str(detail).unwrap();
        let source = |source: &serde_json::Value| {
            (source["from"].as_u64().unwrap(), source["seed"].as_str().unwrap().to_owned())
        };
        detail["random"].as_array().unwrap().iter().map(source).collect()
    }

    /// A run's whole ledger.
    pub async fn rows(&self, id: &str) -> Vec<RowView> {
        let mut rows = Vec::new();
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let page = self.client.ledger(id, seq, None).await.unwrap();
            rows.extend(page.rows);
            from = page.next_seq;
        }
        rows
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Checks what must hold of every ledger in a database, whatever happened: every place once, no gap,
/// every chain unbroken, every closed run's head where its row says.
pub async fn check_ledgers(database: &str) {
    let ledger = Ledger::connect(ConnectOptions::new(database)).await.unwrap();
    let mut before = None;
    loop {
        let page = Page { before, limit: 500 };
        let runs = ledger.list(Scope::DEFAULT, &RunFilter::default(), page).await.unwrap();
        let Some(last) = runs.last() else { break };
        before = Some(last.run);
        for summary in &runs {
            let (rows, info) = rows_and_info(&ledger, summary.run).await;
            let (run, _) = Run::load_all(summary.run, &rows).unwrap_or_else(|corrupt| {
                panic!("run {} of {}: {corrupt}", summary.run, summary.workflow_id)
            });
            if let Some((rows, chain)) = info.head {
                assert_eq!((run.next_seq(), run.chain()), (rows, chain), "head of {}", summary.run);
            }
            assert_eq!(run.is_open(), info.summary.status.is_open(), "{:?}", info.summary);
        }
    }
    ledger.close().await;
}

/// The rows of a run and what is said of it, of one moment although the run may close meanwhile.
async fn rows_and_info(ledger: &Ledger, run: RunId) -> (Vec<Row>, RunInfo) {
    let info = async || ledger.run(Scope::DEFAULT, RunRef::Id(run)).await.unwrap().unwrap();
    loop {
        let before = info().await;
        let rows = ledger.rows(run, Seq(0), u32::MAX >> 1).await.unwrap();
        let after = info().await;
        if before.head == after.head {
            return (rows, after);
        }
    }
}

/// Says that something could not be shown here. Past the harness, which keeps what a test that passes prints to itself.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// What is refused: the status and the code.
pub(crate) fn refusal<T: std::fmt::Debug>(refused: Result<T, ClientError>) -> (u16, String) {
    match refused.unwrap_err() {
        ClientError::Problem { status, code, .. } => (status, code),
        other => panic!("{other:?}"),
    }
}
