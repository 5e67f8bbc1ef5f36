//! A database that is gone, takes no writes, or is full: clients are told at once and told what to do,
//! and when it is over everything goes on where it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use backstitch::cli::exit::Exit;
use backstitch_ledger::{Cluster, ClusterOptions};
use sqlx::{AssertSqlSafe, Executor as _};

use crate::program::{Files, call, command, rows_of_tables, tell};
use crate::support::{HostOptions, TestHost, check_ledgers, component, connect, database, eventually};

/// Something that happens to a database.
trait Trouble {
    /// The database's URL.
    fn database(&self) -> String;
    async fn begins(&mut self);
    async fn ends(&mut self);
    /// Whether reading goes on.
    const READS: bool;
    /// What a host that starts meanwhile says.
    const UNSTARTED: Option<&'static str>;
}

#[tokio::test]
async fn a_database_that_is_gone_is_told_and_lived_through() {
    check(Gone::new().await).await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_told_and_lived_through() {
    check(ReadOnly(Gone::new().await)).await;
}

#[tokio::test]
async fn a_database_that_is_full_is_told_and_lived_through() {
    match Full::new().await {
        Some(full) => check(full).await,
        None => eprintln!("skipped: only root may mount the small disk that this test fills"),
    }
}

/// Two megabytes that no compression makes small: more than any page that is there already has room for.
fn large_input() -> String {
    let mut state = 1_u64;
    let letters = (0..2_000_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 59) as u8 % 26)
    });
    format!("\"{}\"", letters.collect::<String>())
}

async fn check<T: Trouble>(mut trouble: T) {
    let database = trouble.database();
    let host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    let open = host.start_run("json_echo", "open", "1").await;
    eventually("the run waits", async || (host.rows(&open).await.len() == 4).then_some(())).await;
    let before = rows_of_tables(&database).await;
    let files = Files::new();
    let large = files.write("large.json", large_input());
    let input = format!("@{large}");
    let component = files.write("approval.wasm", component("approval-workflow"));
    trouble.begins().await;

    // Of a start that was on its way when the trouble came it cannot be known what becomes of it.
    let start = |id| ["run", "start", "json_echo", input.as_str(), "--id", id, "--json"];
    let refused = |said: &crate::program::Said| {
        let error = said.error();
        assert_eq!(error["code"], "database-unavailable", "{error:#}");
        assert!(error["why"].as_str().unwrap().contains("the database"), "{error:#}");
        error["why"].as_str().unwrap().to_owned()
    };
    let surprised = tell(&host, &start("surprised")).await.exits(Exit::Unavailable);
    assert!(refused(&surprised).contains("repeat it with the same id"), "{surprised:?}");
    let health = host.client.health().await.unwrap();
    assert_eq!(health.status, "degraded", "{health:?}");
    assert!(health.database.is_some());
    // From then on it is known that nothing was started.
    let warned = tell(&host, &start("warned")).await.exits(Exit::Unavailable);
    assert!(refused(&warned).contains("nothing was started"), "{warned:?}");
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/runs", host.url))
        .body(r#"{"workflow":"json_echo","workflow_id":"warned too"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    let signal = [&["run", "signal", "open", "bytes"][..], &[input.as_str(), "--json"]].concat();
    refused(&tell(&host, &signal).await.exits(Exit::Unavailable));
    if !T::READS {
        refused(&tell(&host, &["run", "list", "--json"]).await.exits(Exit::Unavailable));
        refused(&tell(&host, &["run", "show", "open", "--json"]).await.exits(Exit::Unavailable));
        refused(&tell(&host, &["deploy", &component, "--json"]).await.exits(Exit::Unavailable));
    }
    if let Some(words) = T::UNSTARTED {
        let data = files.dir().join("data");
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--json"]);
        serve.args(["--data-dir".as_ref(), data.as_os_str()]).env("DATABASE_URL", &database);
        let error = call(serve).await.exits(Exit::Unavailable);
        assert!(error.stderr.contains(words), "{error:?}");
        let doctor = ["doctor", "--database-url", &database, "--json"];
        let checks = tell(&host, &doctor).await.exits(Exit::Unhealthy).json();
        let failed = |name: &str| {
            let checks = checks["checks"].as_array().unwrap();
            checks.iter().any(|check| check["name"] == name && check["state"] == "failed")
        };
        assert!(failed("database") && failed("host"), "{checks:#}");
    }

    trouble.ends().await;
    eventually("the host is well", async || (host.client.health().await.ok()?.status == "ok").then_some(()))
        .await;
    let again = tell(&host, &start("surprised")).await.exits(Exit::Ok).json();
    let runs = rows_of_tables(&database).await[0].1;
    assert_eq!(runs, before[0].1 + 1, "what was refused is not there, and what was repeated is there once");
    assert_eq!(again["workflow_id"], "surprised");
    tell(&host, &["run", "show", "warned"]).await.exits(Exit::NotFound);
    for id in ["open", "surprised"] {
        tell(&host, &["run", "signal", id, "bytes", "\"over\""]).await.exits(Exit::Ok);
        assert_eq!(host.output(id).await, r#""\"over\"""#, "{id}");
    }
    check_ledgers(&database).await;
    drop(host);
}

/// A server that is stopped and started again.
struct Gone {
    options: ClusterOptions,
    cluster: Option<Cluster>,
    url: String,
    _dir: tempfile::TempDir,
}

impl Gone {
    async fn new() -> Self {
        // The server's user must be able to enter.
        let open = std::fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(open).tempdir_in("/tmp").unwrap();
        let options = ClusterOptions::new(dir.path().join("postgres"));
        let cluster = start(&options).await;
        let url = cluster.url();
        Self { options, cluster: Some(cluster), url, _dir: dir }
    }
}

async fn start(options: &ClusterOptions) -> Cluster {
    let options = options.clone();
    tokio::task::spawn_blocking(|| Cluster::start(options).unwrap()).await.unwrap()
}

impl Trouble for Gone {
    const READS: bool = false;
    const UNSTARTED: Option<&'static str> = Some("no Postgres answers at");

    fn database(&self) -> String {
        self.url.clone()
    }

    async fn begins(&mut self) {
        let cluster = self.cluster.take().unwrap();
        tokio::task::spawn_blocking(|| cluster.stop(false)).await.unwrap();
    }

    async fn ends(&mut self) {
        self.cluster = Some(start(&self.options).await);
    }
}

/// A server that an operator has told to take no writes.
struct ReadOnly(Gone);

impl ReadOnly {
    async fn order(&self, statement: &'static str) {
        let mut connection = connect(&self.0.url).await;
        for statement in ["set default_transaction_read_only = off", statement, "select pg_reload_conf()"] {
            connection.execute(statement).await.unwrap();
        }
        // Backends look at the new settings before their next statement; new ones have them.
        let wanted = if statement.contains("reset") { "off" } else { "on" };
        eventually("the settings are read", async || {
            let mut other = connect(&self.0.url).await;
            let is: String =
                sqlx::query_scalar("show default_transaction_read_only").fetch_one(&mut other).await.ok()?;
            (is == wanted).then_some(())
        })
        .await;
    }
}

impl Trouble for ReadOnly {
    const READS: bool = true;
    const UNSTARTED: Option<&'static str> = Some("connect to the primary");

    fn database(&self) -> String {
        self.0.database()
    }

    async fn begins(&mut self) {
        self.order("alter system set default_transaction_read_only = on").await;
    }

    async fn ends(&mut self) {
        self.order("alter system reset default_transaction_read_only").await;
    }
}

/// A database on a disk of its own, which is small.
struct Full {
    // Before the folder that it is mounted in.
    disk: Disk,
    cluster: Gone,
    url: String,
}

/// Room for a fresh database and little more.
const DISK_MIB: u32 = 48;

impl Full {
    async fn new() -> Option<Self> {
        let cluster = Gone::new().await;
        let dir = &cluster.options.dir;
        let disk = Disk::mount(dir, &dir.join("small"))?;
        let mut connection = connect(&cluster.url).await;
        for statement in [
            format!("create tablespace small location '{}'", disk.0.display()),
            "create database small tablespace small".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        let url = cluster.cluster.as_ref().unwrap().url_of("small");
        Some(Self { disk, cluster, url })
    }

    fn ballast(&self) -> PathBuf {
        self.disk.0.join("ballast")
    }
}

impl Trouble for Full {
    const READS: bool = true;
    const UNSTARTED: Option<&'static str> = None;

    fn database(&self) -> String {
        self.url.clone()
    }

    async fn begins(&mut self) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        let full = std::io::copy(&mut std::io::repeat(0), &mut ballast).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    async fn ends(&mut self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // Before the disk goes.
        drop(self.cluster.cluster.take());
    }
}

/// A mounted tmpfs.
struct Disk(PathBuf);

impl Disk {
    /// None: not allowed here.
    fn mount(like: &Path, at: &Path) -> Option<Self> {
        let owner = std::fs::metadata(like).unwrap();
        std::fs::create_dir(at).unwrap();
        let options = format!("size={DISK_MIB}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The server of the other tests is none of these.
#[tokio::test]
async fn a_second_program_cannot_have_the_folder_of_a_private_server() {
    let _ = database().await;
    let gone = Gone::new().await;
    let data = gone.options.dir.parent().unwrap();
    let mut dev = command(&["dev", "--listen", "127.0.0.1:0"]);
    dev.arg("--data-dir").arg(data);
    let said = call(dev).await;
    assert!(said.exit != 0 && said.stderr.contains("another process uses"), "{said:?}");
    let host = TestHost::start(HostOptions::new(&gone.url)).await;
    assert_eq!(host.client.health().await.unwrap().status, "ok", "the first one is none the worse");
}
