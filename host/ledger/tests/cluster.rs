//! The private cluster: it dies with its parent, comes back with its data, and explains itself.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backstitch_ledger::{Cluster, ClusterError, ClusterOptions};
use sqlx::{Connection as _, PgConnection};

/// How soon a server must follow its parent: well before the supervisor would lose its patience (30 s).
const DEATH: Duration = Duration::from_secs(15);
/// Tells the program that it is the child of a test, and where to run its cluster.
const CHILD_DIR: &str = "BACKSTITCH_TEST_CLUSTER_DIR";

/// A folder that the server's user may enter.
fn open_tempdir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn within(timeout: Duration, what: &str, mut check: impl FnMut() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < timeout, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn runs(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

/// Not a test: what the tests below run in a process of its own, to kill it.
#[test]
fn a_child_that_runs_a_cluster() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let ephemeral = dir == "ephemeral";
    let cluster = if ephemeral {
        Cluster::ephemeral()
    } else {
        Cluster::start(ClusterOptions::new(PathBuf::from(dir)))
    };
    let cluster = cluster.unwrap();
    println!("\nready {} {} {}", cluster.pid(), cluster.dir().display(), cluster.url());
    loop {
        std::thread::park();
    }
}

struct Ran {
    child: Child,
    pid: i32,
    dir: PathBuf,
    url: String,
}

/// Runs a cluster in another process.
fn run_child(dir: &Path) -> Ran {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_that_runs_a_cluster", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().strip_prefix("ready ").map(str::to_owned)).unwrap();
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap().to_owned();
    Ran { child, pid: word().parse().unwrap(), dir: word().into(), url: word() }
}

impl Ran {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_ephemeral_cluster_dies_with_its_killed_parent_and_leaves_nothing() {
    let mut ran = run_child(Path::new("ephemeral"));
    assert!(runs(ran.pid) && ran.dir.exists());
    ran.kill();
    within(DEATH, "the server is gone", || !runs(ran.pid));
    within(DEATH, "its folder is gone", || !ran.dir.exists());
}

#[tokio::test]
async fn a_lasting_cluster_comes_back_right_after_its_parent_was_killed() {
    let dir = open_tempdir();
    let home = dir.path().join("pg");
    let mut ran = run_child(&home);
    execute(&ran.url, "create table kept as select 1 as one").await;
    // A session that never ends must not hold the server back.
    let idle = PgConnection::connect(&ran.url).await.unwrap();
    ran.kill();
    let cluster = Cluster::start(ClusterOptions::new(&home)).unwrap();
    assert!(!runs(ran.pid) && cluster.pid() != ran.pid);
    execute(&cluster.url(), "select one from kept").await;
    drop(idle);
    let pid = cluster.pid();
    cluster.stop(true);
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_crash_of_the_server_loses_nothing_that_was_committed() {
    let dir = open_tempdir();
    let options = ClusterOptions::new(dir.path().join("pg"));
    let cluster = Cluster::start(options.clone()).unwrap();
    execute(&cluster.url(), "create table kept as select 1 as one").await;
    cluster.stop(false);
    let cluster = Cluster::start(options).unwrap();
    execute(&cluster.url(), "select one from kept").await;
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = open_tempdir();
    let options = ClusterOptions::new(dir.path().join("pg"));
    let first = Cluster::start(options.clone()).unwrap();
    assert!(matches!(Cluster::start(options.clone()), Err(ClusterError::InUse(_))));
    drop(first);
    drop(Cluster::start(options).unwrap());
}

#[tokio::test]
async fn a_stale_process_number_that_belongs_to_someone_else_is_no_obstacle() {
    let dir = open_tempdir();
    let options = ClusterOptions::new(dir.path().join("pg"));
    let cluster = Cluster::start(options.clone()).unwrap();
    let stale = std::fs::read_to_string(options.dir.join("data/postmaster.pid")).unwrap();
    let pid = cluster.pid();
    cluster.stop(false);
    // As after a power failure, with the number given to a process that lives, of the same user: Postgres
    // would take it for another server.
    let owner = std::fs::metadata(&options.dir).unwrap().uid();
    let mut command = Command::new("sleep");
    command.arg("600");
    if rustix::process::geteuid().is_root() {
        command.uid(owner);
    }
    let mut stranger = command.spawn().unwrap();
    let stale = stale.replacen(&pid.to_string(), &stranger.id().to_string(), 1);
    std::fs::write(options.dir.join("data/postmaster.pid"), stale).unwrap();
    let started = Cluster::start(options);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    execute(&started.unwrap().url(), "select 1").await;
}

#[tokio::test]
async fn a_folder_with_a_long_name_gets_a_short_socket() {
    let dir = open_tempdir();
    let home = dir.path().join("x".repeat(120)).join("größe & 100%");
    std::fs::create_dir(home.parent().unwrap()).unwrap();
    let cluster = Cluster::start(ClusterOptions::new(&home)).unwrap();
    execute(&cluster.url(), "select 1").await;
    let url = cluster.create_database("größe & 100%").await.unwrap();
    execute(&url, "select 1").await;
    let socket_dir = url.split("host=").nth(1).unwrap().split('&').next().unwrap().replace("%2F", "/");
    assert!(Path::new(&socket_dir).exists());
    drop(cluster);
    assert!(!Path::new(&socket_dir).exists(), "{socket_dir}");
}

#[tokio::test]
async fn a_host_works_with_a_role_that_is_no_superuser_and_owns_what_was_there_before() {
    let dir = open_tempdir();
    let cluster = Cluster::start(ClusterOptions::new(dir.path().join("pg"))).unwrap();
    // As an earlier version has left it.
    for statement in [
        "create table parted (one integer generated always as identity, at integer) partition by range (at)",
        "create table part partition of parted for values from (0) to (9)",
        "create view seen as select one from parted",
        "create function answer() returns integer language sql as 'select 42'",
        "create type mood as enum ('fine')",
    ] {
        execute(&cluster.url(), statement).await;
    }
    for _ in 0..2 {
        let url = cluster.service_url().await.unwrap();
        let mut session = PgConnection::connect(&url).await.unwrap();
        let query =
            "select rolsuper or rolcreaterole or rolcreatedb from pg_roles where rolname = current_user";
        assert!(!sqlx::query_scalar::<_, bool>(query).fetch_one(&mut session).await.unwrap());
        let others = "select count(*) from pg_class c where c.relnamespace = 'public'::regnamespace
                      and pg_get_userbyid(c.relowner) <> current_user";
        assert_eq!(sqlx::query_scalar::<_, i64>(others).fetch_one(&mut session).await.unwrap(), 0);
        for allowed in [
            "alter table part add column two integer",
            "alter table part drop column two",
            "drop function answer()",
            "create function answer() returns integer language sql as 'select 43'",
            "alter type mood rename to temper",
            "alter type temper rename to mood",
            "create table more (one integer)",
            "drop table more",
        ] {
            // A column of a partition is its table's.
            let done = sqlx::query(allowed).execute(&mut session).await;
            assert!(done.is_ok() || allowed.contains("part "), "{allowed}: {done:?}");
        }
        for refused in
            ["copy (select 1) to program 'true'", "alter system set work_mem = '1GB'", "create role more"]
        {
            assert!(sqlx::query(refused).execute(&mut session).await.is_err(), "{refused}");
        }
        // Who connects is known by the operating system.
        let methods: Vec<String> = sqlx::query_scalar("select distinct auth_method from pg_hba_file_rules")
            .fetch_all(&mut PgConnection::connect(&cluster.url()).await.unwrap())
            .await
            .unwrap();
        assert_eq!(methods, ["peer"]);
    }
    let stranger = cluster.url().replace("user=backstitch", "user=postgres");
    assert!(PgConnection::connect(&stranger).await.is_err(), "as nobody else");
}

#[test]
fn a_folder_that_was_open_to_others_is_closed() {
    let dir = open_tempdir();
    let home = dir.path().join("pg");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _cluster = Cluster::start(ClusterOptions::new(&home)).unwrap();
    assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn psql_understands_the_url_too() {
    let cluster = Cluster::ephemeral().unwrap();
    // Only where it is installed.
    let Ok(output) = Command::new("psql").args(["-Atc", "select 6 * 7", &cluster.url()]).output() else {
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{output:?}");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let dir = open_tempdir();
    let settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    let options = ClusterOptions { settings, ..ClusterOptions::new(dir.path().join("pg")) };
    let error = Cluster::start(options).unwrap_err();
    assert!(matches!(&error, ClusterError::Start { tail, .. } if tail.contains("shared_buffers")), "{error}");
}

#[test]
fn missing_programs_are_named_with_the_command_that_installs_them() {
    let dir = open_tempdir();
    let options =
        ClusterOptions { pg_bin: Some("/nonexistent".into()), ..ClusterOptions::new(dir.path().join("pg")) };
    let error = Cluster::start(options).unwrap_err();
    assert!(matches!(error, ClusterError::NoBinaries { .. }));
    assert!(error.to_string().contains("/nonexistent") && error.to_string().contains("install"), "{error}");
}

#[test]
fn a_folder_that_the_servers_user_cannot_enter_is_named() {
    // Only root lends the server another user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let home = dir.path().join("pg");
    let error = Cluster::start(ClusterOptions::new(&home)).unwrap_err();
    assert!(matches!(&error, ClusterError::Unreachable { blocked, .. } if blocked == dir.path()), "{error}");
    assert_eq!(backstitch_ledger::blocked_by(&home).unwrap().as_deref(), Some(dir.path()));
}
