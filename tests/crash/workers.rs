//! The workers that are shipped: the Python library, the TypeScript library, and `backstitch worker exec`, which
//! is the Rust library with a program for each attempt. Real processes, killed and stopped as they will be.
//!
//! Their programs are in `tests/workers/`. What they see they leave in a folder of the test, and some wait there
//! for a file that lets them go on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use backstitch_client::tasks::{AnswerTask, ListActivities, PollTasks, TaskView};
use backstitch_core::{Json, RunStatus};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::load::{deployed_database, done, options};
use crate::support::{PROGRAM, TestHost, check_ledgers, connect, eventually, root};

/// Whose worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Python,
    JavaScript,
    /// A program for each attempt.
    Exec,
}

/// What a worker does with its calls.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Takes 20 ms.
    Quick,
    /// Waits for the file `open-N`.
    Patient,
    /// Fails at the first attempt.
    Flaky,
    /// Leaves the answer to others.
    Later,
}

/// Attempts of a worker at a time.
const CONCURRENCY: usize = 4;
/// A lease that nothing here outlives by accident.
const LONG_MS: u64 = 120_000;
/// A lease that is to run out, and that a busy machine keeps all the same.
const SHORT_MS: u64 = 1_500;

/// A worker process. Killed when dropped.
struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker of one host, or several with commas between them, and waits until it would hear a signal.
    async fn start(kind: Kind, url: &str, dir: &Path, habit: Habit, lease_ms: u64, grace_ms: u64) -> Self {
        let at_once = CONCURRENCY.to_string();
        let programs = root().join("tests/workers").canonicalize().unwrap();
        let word = format!("{habit:?}").to_lowercase();
        let mut command = match kind {
            Kind::Python => Command::new("python3"),
            Kind::JavaScript => Command::new("node"),
            Kind::Exec => Command::new(PROGRAM),
        };
        match kind {
            Kind::Python | Kind::JavaScript => {
                let file = if kind == Kind::Python { "worker.py" } else { "worker.js" };
                command.arg(programs.join(file)).arg(url).arg(dir).arg(word);
                command.args([&at_once, &lease_ms.to_string(), &grace_ms.to_string()]);
                command.env("PYTHONPATH", programs.join("../../workers/python"));
                command.env("PYTHONDONTWRITEBYTECODE", "1");
            }
            Kind::Exec => {
                let queue = if matches!(habit, Habit::Later) { "default" } else { "outside" };
                command.args(["worker", "exec", "--queue", queue, "--concurrency", &at_once]);
                let (first, others) = url.split_once(',').unwrap_or((url, ""));
                for other in others.split_terminator(',') {
                    command.args(["--also-host", other]);
                }
                command.args([
                    "--lease",
                    &format!("{lease_ms}ms"),
                    "--grace",
                    &format!("{grace_ms}ms"),
                    "--",
                ]);
                command.arg("/bin/sh").arg(programs.join("program.sh")).arg(dir).arg(word);
                command.env("BACKSTITCH_HOST", first);
            }
        }
        let log = tempfile::Builder::new().prefix("log-").tempfile_in(dir).unwrap();
        let (file, log) = log.keep().unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{:?} is needed for this test and cannot be started: {error}", command.get_program())
        });
        let mut worker = Self { child, log };
        eventually("the worker is up", async || {
            let ended = worker.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", worker.said());
            worker.is_up(kind, dir).then_some(())
        })
        .await;
        worker
    }

    /// Node has a handler of its own for SIGTERM from the beginning; the others have one when it is the worker's.
    fn is_up(&self, kind: Kind, dir: &Path) -> bool {
        const TERM: u64 = 1 << 14;
        let pid = self.child.id();
        if kind == Kind::JavaScript {
            return dir.join(format!("up-{pid}")).exists();
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & TERM != 0
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually("the worker ends", async || self.child.try_wait().unwrap()).await
    }

    /// SIGTERM, and it ends as it should.
    async fn stop(mut self) {
        self.signal("-TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.said());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address that stays while hosts come and go behind it.
struct Front {
    url: String,
    host: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Front {
    async fn of(host: &TestHost) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let host = Arc::new(Mutex::new(address(host)));
        let behind = Arc::clone(&host);
        let task = tokio::spawn(async move {
            while let Ok((mut worker, _)) = listener.accept().await {
                let host = behind.lock().unwrap().clone();
                tokio::spawn(async move {
                    if let Ok(mut host) = TcpStream::connect(host).await {
                        let _ = worker.set_nodelay(true).and(host.set_nodelay(true));
                        let _ = tokio::io::copy_bidirectional(&mut worker, &mut host).await;
                    }
                });
            }
        });
        Self { url, host, task }
    }

    fn lead_to(&self, host: &TestHost) {
        *self.host.lock().unwrap() = address(host);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address(host: &TestHost) -> String {
    host.url.trim_start_matches("http://").to_owned()
}

/// The same each time, and different for each of them.
fn random(kind: Kind, turn: u64) -> u64 {
    let mixed = (kind as u64 * 16 + turn + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
}

/// The command lines of living processes that were given this folder.
fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok())
        .filter(|line| line.contains(dir))
        .map(|line| line.replace('\0', " "))
        .collect()
}

async fn file(dir: &Path, name: &str) -> String {
    eventually(&format!("there is a file {name}"), async || std::fs::read_to_string(dir.join(name)).ok())
        .await
}

fn open(dir: &Path, n: u64) {
    std::fs::write(dir.join(format!("open-{n}")), "").unwrap();
}

async fn count(host: &TestHost, id: &str, kind: &str) -> usize {
    host.rows(id).await.iter().filter(|row| row.kind == kind).count()
}

/// Three hundred calls are carried out by two workers; both are killed on the way, and the host is.
async fn survive(kind: Kind) {
    const CALLS: u64 = 300;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut host = TestHost::start(options(&database)).await;
    let front = Front::of(&host).await;
    let dir = tempfile::tempdir().unwrap();
    host.start_run("outside", "sum", &CALLS.to_string()).await;
    let start = async || Worker::start(kind, &front.url, dir.path(), Habit::Patient, SHORT_MS, 10_000).await;
    let mut workers = [start().await, start().await];
    for turn in 0..3 {
        let share = turn * 70 + 20 + random(kind, turn) % 50;
        // A few more than that may be done: what a worker dies with comes again behind those that wait.
        (0..share + 20).for_each(|n| open(dir.path(), n));
        eventually("so many calls are done", async || {
            (done(&mut connection).await.len() as u64 >= share).then_some(())
        })
        .await;
        if turn == 1 {
            host.kill();
            host = TestHost::start(options(&database)).await;
            front.lead_to(&host);
        } else {
            let dead = &mut workers[turn as usize / 2];
            dead.kill();
            *dead = start().await;
        }
    }
    (0..CALLS).for_each(|n| open(dir.path(), n));
    assert_eq!(host.output("sum").await, (CALLS * (CALLS - 1) / 2).to_string());
    let rows = host.rows("sum").await;
    let mut ops: Vec<_> =
        rows.iter().filter(|row| row.kind == "activity-completed").map(|row| row.op).collect();
    assert_eq!(ops.len() as u64, CALLS);
    ops.sort_unstable();
    ops.dedup();
    assert_eq!(ops.len() as u64, CALLS, "a call was completed twice");
    for worker in workers {
        worker.stop().await;
    }
    eventually("no process is left", async || processes(dir.path()).is_empty().then_some(())).await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn three_hundred_calls_are_each_done_once_while_python_workers_and_their_host_die() {
    survive(Kind::Python).await;
}

#[tokio::test]
async fn three_hundred_calls_are_each_done_once_while_javascript_workers_and_their_host_die() {
    survive(Kind::JavaScript).await;
}

#[tokio::test]
async fn three_hundred_calls_are_each_done_once_while_workers_with_programs_and_their_host_die() {
    survive(Kind::Exec).await;
}

/// A worker that knows two hosts goes on at the other one when the first is killed.
async fn fail_over(kind: Kind) {
    const CALLS: u64 = 20;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut first = TestHost::start(options(&database)).await;
    let second = TestHost::start(options(&database)).await;
    let dir = tempfile::tempdir().unwrap();
    second.start_run("outside", "sum", &CALLS.to_string()).await;
    let urls = format!("{},{}", first.url, second.url);
    // What the first host hands out as it dies comes back soon.
    let worker = Worker::start(kind, &urls, dir.path(), Habit::Patient, SHORT_MS, 10_000).await;
    (0..CALLS / 2).for_each(|n| open(dir.path(), n));
    let mut done = async |count: u64| {
        eventually("so many calls are done", async || {
            (crate::load::done(&mut connection).await.len() as u64 >= count).then_some(())
        })
        .await;
    };
    done(CALLS / 2).await;
    // It has tasks of this host, and polls there.
    first.kill();
    (CALLS / 2..CALLS).for_each(|n| open(dir.path(), n));
    assert_eq!(second.output("sum").await, (CALLS * (CALLS - 1) / 2).to_string());
    worker.stop().await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_python_worker_goes_on_at_another_host_when_its_own_dies() {
    fail_over(Kind::Python).await;
}

#[tokio::test]
async fn a_javascript_worker_goes_on_at_another_host_when_its_own_dies() {
    fail_over(Kind::JavaScript).await;
}

#[tokio::test]
async fn a_worker_with_programs_goes_on_at_another_host_when_its_own_dies() {
    fail_over(Kind::Exec).await;
}

/// Workers that are stopped one after the other, as a new version is rolled out, cost no attempt. A task that a
/// poll was given in the moment of its end would come back as one, long after this test has lost its patience.
async fn roll_out(kind: Kind) {
    const TURNS: u64 = 12;
    const CALLS: u64 = 25 * (TURNS + 1);
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    let dir = tempfile::tempdir().unwrap();
    host.start_run("outside", "sum", &CALLS.to_string()).await;
    let start = async || Worker::start(kind, &host.url, dir.path(), Habit::Quick, LONG_MS, 10_000).await;
    let mut worker = start().await;
    for turn in 0..TURNS {
        let share = turn * 25 + random(kind, turn) % 25;
        eventually("so many calls are done", async || {
            (done(&mut connection).await.len() as u64 >= share).then_some(())
        })
        .await;
        std::mem::replace(&mut worker, start().await).stop().await;
    }
    assert_eq!(host.output("sum").await, (CALLS * (CALLS - 1) / 2).to_string());
    assert_eq!(count(&host, "sum", "activity-attempt-failed").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn python_workers_are_replaced_without_the_loss_of_an_attempt() {
    roll_out(Kind::Python).await;
}

#[tokio::test]
async fn javascript_workers_are_replaced_without_the_loss_of_an_attempt() {
    roll_out(Kind::JavaScript).await;
}

#[tokio::test]
async fn workers_with_programs_are_replaced_without_the_loss_of_an_attempt() {
    roll_out(Kind::Exec).await;
}

/// One worker after the other, each with something that libraries can get wrong.
async fn behave(kind: Kind) {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let dirs = [(); 5].map(|()| tempfile::tempdir().unwrap());
    a_stopped_worker_gives_back(kind, &host, dirs[0].path()).await;
    a_cancelled_attempt_hears_of_it(kind, &host, dirs[1].path()).await;
    a_lost_attempt_is_not_answered(kind, &host, dirs[2].path()).await;
    a_failed_attempt_is_followed_by_one_that_knows(kind, &host, dirs[3].path()).await;
    a_deferred_call_is_answered_by_others(kind, &host, dirs[4].path()).await;
    for dir in &dirs {
        eventually("no process is left", async || processes(dir.path()).is_empty().then_some(())).await;
    }
    let left = host.client.activities(&ListActivities::default()).await.unwrap();
    assert_eq!(left.activities.len(), 0, "{left:?}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_python_worker_keeps_to_what_is_promised_for_it() {
    behave(Kind::Python).await;
}

#[tokio::test]
async fn a_javascript_worker_keeps_to_what_is_promised_for_it() {
    behave(Kind::JavaScript).await;
}

#[tokio::test]
async fn a_worker_with_programs_keeps_to_what_is_promised_for_it() {
    behave(Kind::Exec).await;
}

/// One call ends within the grace; the other goes back, long before its lease is over, and is no attempt.
async fn a_stopped_worker_gives_back(kind: Kind, host: &TestHost, dir: &Path) {
    let mut worker = Worker::start(kind, &host.url, dir, Habit::Patient, LONG_MS, 2_000).await;
    host.start_run("outside", "stop", "2").await;
    for n in [0, 1] {
        file(dir, &format!("begun-{n}-1")).await;
    }
    worker.signal("-TERM");
    open(dir, 0);
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{}", worker.said());
    eventually("the call that ended is recorded", async || {
        (count(host, "stop", "activity-completed").await == 1).then_some(())
    })
    .await;
    std::fs::remove_file(dir.join("begun-1-1")).unwrap();
    open(dir, 1);
    let next = Worker::start(kind, &host.url, dir, Habit::Patient, LONG_MS, 2_000).await;
    assert_eq!(host.output("stop").await, "1");
    file(dir, "begun-1-1").await;
    assert_eq!(count(host, "stop", "activity-attempt-failed").await, 0);
    next.stop().await;
}

async fn a_cancelled_attempt_hears_of_it(kind: Kind, host: &TestHost, dir: &Path) {
    let worker = Worker::start(kind, &host.url, dir, Habit::Patient, SHORT_MS, 10_000).await;
    host.start_run("outside", "cancel", "1").await;
    file(dir, "begun-0-1").await;
    host.client.cancel("cancel", "enough").await.unwrap();
    assert_eq!(host.ended_run("cancel").await.status, RunStatus::Cancelled);
    file(dir, "cancelled-0").await;
    assert_eq!(count(host, "cancel", "activity-completed").await, 0);
    worker.stop().await;
}

/// Whoever sleeps through its leases drops what it has: somebody else is at it. It has as many as it can have,
/// for a poll of it would be given the next attempts.
async fn a_lost_attempt_is_not_answered(kind: Kind, host: &TestHost, dir: &Path) {
    let worker = Worker::start(kind, &host.url, dir, Habit::Patient, SHORT_MS, 10_000).await;
    host.start_run("outside", "lose", &CONCURRENCY.to_string()).await;
    for n in 0..CONCURRENCY {
        file(dir, &format!("begun-{n}-1")).await;
    }
    worker.signal("-STOP");
    let mut tasks = Vec::new();
    for _ in 0..CONCURRENCY {
        tasks.push(take(host, "outside").await);
    }
    assert_eq!(tasks.iter().map(|task| task.attempt).collect::<Vec<_>>(), [2; CONCURRENCY]);
    worker.signal("-CONT");
    for n in 0..CONCURRENCY {
        if kind == Kind::Exec {
            eventually("the programs are killed", async || {
                processes(dir).iter().all(|line| !line.starts_with("/bin/sh")).then_some(())
            })
            .await;
        } else {
            file(dir, &format!("cancelled-{n}")).await;
        }
    }
    worker.stop().await;
    for task in tasks {
        let answer = AnswerTask::completed(&*task.token, Json::new("7").unwrap());
        host.client.answer_task(&answer).await.unwrap();
    }
    assert_eq!(host.output("lose").await, (7 * CONCURRENCY).to_string());
}

async fn take(host: &TestHost, task_queue: &str) -> TaskView {
    let poll = PollTasks { wait_ms: 20_000, lease_ms: Some(LONG_MS), ..PollTasks::new(task_queue) };
    eventually("there is a task", async || host.client.poll_tasks(&poll).await.unwrap().pop()).await
}

async fn a_failed_attempt_is_followed_by_one_that_knows(kind: Kind, host: &TestHost, dir: &Path) {
    let worker = Worker::start(kind, &host.url, dir, Habit::Flaky, LONG_MS, 10_000).await;
    host.start_run("outside", "fail", "1").await;
    assert_eq!(host.output("fail").await, "0");
    let run = host.client.run("fail").await.unwrap().run.run_id;
    let told: serde_json::Value = serde_json::from_str(&file(dir, "begun-0-2").await).unwrap();
    assert_eq!((&told["attempt"], &told["key"]), (&2.into(), &format!("{run}:0").into()));
    let trace = format!("00-{}-", run.0.simple());
    assert!(told["traceparent"].as_str().unwrap().starts_with(&trace), "{told}");
    let rows = host.rows("fail").await;
    let failed = rows.iter().find(|row| row.kind == "activity-attempt-failed").unwrap();
    let failure = failed.payload.as_ref().unwrap().as_str();
    assert!(failure.contains("the first time"), "{failure}");
    if kind == Kind::Exec {
        assert!(failure.contains(r#""code":"exit-1""#), "{failure}");
    } else {
        assert!(failure.contains(r#""code":"again""#) && failure.contains(r#"{"n":0}"#), "{failure}");
        assert_eq!(told["details"], serde_json::json!({ "at": 7 }));
    }
    worker.stop().await;
}

async fn a_deferred_call_is_answered_by_others(kind: Kind, host: &TestHost, dir: &Path) {
    let worker = Worker::start(kind, &host.url, dir, Habit::Later, SHORT_MS, 10_000).await;
    host.start_run("queues", "defer", r#""contract""#).await;
    let token = file(dir, "token").await;
    eventually("the call is held", async || {
        let list = host.client.activities(&ListActivities::default()).await.ok()?;
        (list.activities.first()?.state == "held").then_some(())
    })
    .await;
    worker.stop().await;
    let answer = AnswerTask::completed(token, Json::new(r#""signed""#).unwrap());
    host.client.answer_task(&answer).await.unwrap();
    assert_eq!(host.output("defer").await, r#""signed""#);
}

/// The libraries' own tests: what needs a host that misbehaves.
async fn own_tests(program: &str, args: &[&str], folder: &str) {
    let mut command = Command::new(program);
    command.args(args).current_dir(root().join(folder)).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output
        .unwrap_or_else(|error| panic!("{program} is needed for this test and cannot be started: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn the_python_library_passes_its_own_tests() {
    own_tests("python3", &["-m", "unittest", "discover", "-s", "tests", "-t", "."], "workers/python").await;
}

#[tokio::test]
async fn the_typescript_library_passes_its_own_tests() {
    own_tests("node", &["--test", "test/"], "workers/typescript").await;
}

/// The requests of the page on workers, as they are printed there.
#[tokio::test]
async fn every_request_of_the_page_on_workers_is_taken() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("outside", "page", "20").await;
    let page = std::fs::read_to_string(root().join("docs/src/workers.md")).unwrap();
    let requests: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(requests.len(), 8, "{requests:#?}");
    for request in requests {
        let task = take(&host, "outside").await;
        let mut command = Command::new("sh");
        command.args(["-euc", &request.replace("curl ", "curl --silent --show-error --fail-with-body ")]);
        command.env("HOST", &host.url).env("TOKEN", &task.token);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{request}{text}{said}");
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        if request.contains("settle") {
            assert_eq!(answer["results"][0]["status"], 200, "{answer}");
        }
        if request.contains("poll") {
            assert_eq!(answer["tasks"][0]["name"], "work", "{answer}");
        }
    }
    let list = host.client.activities(&ListActivities::default()).await.unwrap();
    assert_eq!(list.activities.iter().filter(|task| task.state == "held").count(), 1, "{list:?}");
    eventually("the others are recorded", async || {
        let done = count(&host, "page", "activity-completed").await;
        let failed = count(&host, "page", "activity-attempt-failed").await;
        ((done, failed) == (2, 1)).then_some(())
    })
    .await;
}
