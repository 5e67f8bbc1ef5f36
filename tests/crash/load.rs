//! What hosts are given to do while things go wrong, how each of it must end, and who made which attempt.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use backstitch_client::{ClientError, StartRun};
use backstitch_core::{Json, RunStatus};
use sqlx::PgConnection;
use tokio::sync::OnceCell;

use crate::support::{self, HostOptions, TestHost, check_ledgers, connect, eventually};

/// The components of the load, and those of guests that misbehave.
pub(crate) const PACKAGES: [&str; 12] = [
    "order-workflow",
    "order-activities",
    "example-activities",
    "approval-workflow",
    "fan-out-workflow",
    "saga-workflow",
    "child-workflow",
    "follow-up-workflow",
    "hostile-guest",
    "hostile-activities",
    "verbs-guest",
    "beating-activities",
];

/// How a run must end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// With an output that contains this.
    Completed(&'static str),
    /// With a failure of this code.
    Failed(&'static str),
}

/// One run of the load.
#[derive(Debug)]
pub(crate) struct Job {
    workflow: &'static str,
    id: &'static str,
    input: &'static str,
    ending: Ending,
}

/// The input of an order. The articles are those of `examples/order/orders.jsonl`: `CLOCK-486` is in stock,
/// `BOOK-834` is not, a reservation of `LEG-4474` fails once, one of `LEG-3374` twice.
macro_rules! order {
    ($item:literal) => {
        concat!(
            r#"{"order_id":"o-1","customer":{"name":"A","email":"a@example.com","city":"Cork"},"#,
            r#""item_id":""#,
            $item,
            r#"","quantity":1,"unit_price_cents":995}"#
        )
    };
}
pub(crate) use order;

/// A bit of everything. One approval is signalled at once, the other by [`finish`]: whenever a host dies,
/// at least that run is open.
pub(crate) const LOAD: [Job; 10] = [
    job("order_workflow", "served", order!("CLOCK-486"), Ending::Completed("reserved")),
    job("approval", EARLY, ASKED, Ending::Completed("approved")),
    job("approval", LATE, ASKED, Ending::Completed("approved")),
    job("fan_out", "fan", r#"{"n":20,"text":"abc"}"#, Ending::Completed(r#"{"n":20,"bytes":60}"#)),
    job("book_trip", "undone", TRIP, Ending::Failed("sold-out")),
    job("follow_up", "asleep", r#"{"customer":"a@example.com","after":"50ms"}"#, Ending::Completed("mail-")),
    job(
        "validate_batch",
        "batch",
        BATCH,
        Ending::Completed(r#"{"valid":["a"],"refused":[["b","unknown-sku"]]}"#),
    ),
    job("order_workflow", "backordered", order!("BOOK-834"), Ending::Completed("backordered")),
    job("order_workflow", "flaky-once", order!("LEG-4474"), Ending::Completed("reserved")),
    job("order_workflow", "flaky-twice", order!("LEG-3374"), Ending::Completed("reserved")),
];

/// The children of the batch: two validations and the archive.
const CHILDREN: usize = 3;

pub(crate) const EARLY: &str = "decided-early";
pub(crate) const LATE: &str = "decided-late";
pub(crate) const ASKED: &str =
    r#"{"subject":"desk","requester":"a@example.com","manager":"b@example.com","timeout":"1 hour"}"#;
const TRIP: &str = r#"{"trip_id":"oslo-no-car","parts":["flight","hotel","car"]}"#;
const BATCH: &str =
    r#"[{"order_id":"a","sku":"SKU-1","quantity":1},{"order_id":"b","sku":"ABC","quantity":1}]"#;

const fn job(workflow: &'static str, id: &'static str, input: &'static str, ending: Ending) -> Job {
    Job { workflow, id, input, ending }
}

/// A host that logs every attempt, and shares compiled code with all others of these tests.
pub(crate) fn options(database: &str) -> HostOptions<'_> {
    HostOptions::new(database)
        .data(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash-tests"))
        .arg("--log=backstitch::activity=debug,backstitch=info,backstitch_ledger=info")
        .arg("--log-format=json")
}

/// A component that offers `late`.
pub(crate) fn late() -> Vec<u8> {
    let text =
        std::fs::read_to_string(support::root().join("tests/guests/wat/mended-activities.wat")).unwrap();
    wat::parse_str(text.replace("\"spin\"", "\"late\"")).unwrap()
}

/// A database of its own in which [`PACKAGES`] are deployed and no host is alive.
pub(crate) async fn deployed_database() -> String {
    static TEMPLATE: OnceCell<(String, String)> = OnceCell::const_new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let (template, url) = TEMPLATE
        .get_or_init(async || {
            let url = support::database().await;
            let mut host = TestHost::start(options(&url)).await;
            host.deploy(&PACKAGES).await;
            host.signal("-TERM");
            assert!(host.exit().await.success(), "{}", host.log());
            let name = sqlx::query_scalar("select current_database()");
            (name.fetch_one(&mut connect(&url).await).await.unwrap(), url)
        })
        .await;
    let copy = format!("copy_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut server = connect(&url.replacen(template, "postgres", 1)).await;
    eventually("the template can be copied", async || {
        // Nobody may be connected to it; whoever was may still be on the way out.
        let statement = format!("create database {copy} template {template}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut server).await.ok()
    })
    .await;
    url.replacen(template, &copy, 1)
}

/// What clients know of the load.
#[derive(Debug, Default)]
pub(crate) struct Started {
    answered: BTreeSet<&'static str>,
    signalled: bool,
}

/// Starts every run of the load. The host, or its database, may go away in the middle of it.
pub(crate) async fn start(host: &TestHost) -> Started {
    let mut started = Started::default();
    for job in &LOAD {
        if answered(launch(host, job).await).is_some() {
            started.answered.insert(job.id);
        }
    }
    started.signalled = answered(approve(host, EARLY).await).is_some();
    started
}

/// Starts one run of the load.
pub(crate) async fn start_one(host: &TestHost, id: &str) {
    let job = LOAD.iter().find(|job| job.id == id).expect("it is part of the load");
    answered(launch(host, job).await);
}

/// None if nobody knows whether the request took effect.
fn answered<T>(result: Result<T, ClientError>) -> Option<T> {
    match result {
        Ok(answer) => Some(answer),
        Err(ClientError::Unreachable { .. }) => None,
        Err(error) if error.has_status(503) || error.has_status(404) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Whether a run was made.
async fn launch(host: &TestHost, job: &Job) -> Result<bool, ClientError> {
    let start = StartRun::new(job.workflow, Some(job.id.to_owned()), Json::new(job.input).unwrap());
    host.client.start(start).await.map(|started| started.created)
}

/// Decides an approval.
pub(crate) async fn approve(host: &TestHost, id: &str) -> Result<(), ClientError> {
    host.client.signal(id, "manager-approval", &Json::new(r#"{"approved":true}"#).unwrap()).await
}

/// Has a host finish the load: clients repeat what was not answered, and what was. Then everything that
/// must hold afterwards is checked.
pub(crate) async fn finish(host: &TestHost, database: &str, started: &Started) {
    for job in &LOAD {
        let created =
            eventually(&format!("{} is started", job.id), async || answered(launch(host, job).await)).await;
        assert!(
            !created || !started.answered.contains(job.id),
            "{}: a start that was answered is lost",
            job.id
        );
    }
    for id in if started.signalled { &[LATE][..] } else { &[EARLY, LATE] } {
        eventually(&format!("{id} is decided"), async || answered(approve(host, id).await)).await;
    }
    for job in &LOAD {
        let view = host.ended_run(job.id).await;
        let right = match (&job.ending, &view.output, &view.failure) {
            (Ending::Completed(part), Some(output), _) => output.as_str().contains(part),
            (Ending::Failed(code), _, Some(failure)) => *failure.code == **code,
            _ => false,
        };
        assert!(right, "{job:?} ended with {view:#?}\n{}", host.log());
        assert_ne!(view.status, RunStatus::Parked);
    }
    let mut connection = connect(database).await;
    for (what, query) in [
        ("no run is open", "select count(*) from runs where status < 10"),
        ("no timer is left", "select count(*) from timers"),
        ("no message is left", "select count(*) from inbox"),
    ] {
        eventually(what, async || (count(&mut connection, query).await == 0).then_some(())).await;
    }
    let ids: Vec<&str> = LOAD.iter().map(|job| job.id).collect();
    let runs: i64 = sqlx::query_scalar(
        "select count(*) from runs where workflow_id = any ($1)
         or parent_run in (select run_id from runs where workflow_id = any ($1))",
    )
    .bind(ids)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(usize::try_from(runs), Ok(LOAD.len() + CHILDREN), "runs in all");
    check_ledgers(database).await;
}

/// What a `select count(*)` says.
pub(crate) async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

/// Who owns a run.
pub(crate) async fn owner(connection: &mut PgConnection, id: &str) -> Option<String> {
    let owner = sqlx::query_scalar("select owner::text from runs where workflow_id = $1");
    owner.bind(id).fetch_optional(connection).await.unwrap().flatten()
}

/// Waits until every host has been silent for longer than its lease: the next one to come takes the runs
/// at its first look.
pub(crate) async fn overdue(database: &str) {
    let mut connection = connect(database).await;
    let alive = "select count(*) from leases
                 where not dead and heartbeat_at + lease_ms * interval '1 millisecond' >= now()";
    eventually("the lease runs out", async || (count(&mut connection, alive).await == 0).then_some(())).await;
}

/// An activity call: the run and the command.
pub(crate) type Call = (String, u64);

/// The calls whose outcome is in the ledger.
pub(crate) async fn done(connection: &mut PgConnection) -> BTreeSet<Call> {
    let rows: Vec<(String, i32)> =
        sqlx::query_as("select run_id::text, op from ledger where kind in (20, 21)")
            .fetch_all(connection)
            .await
            .unwrap();
    rows.into_iter().map(|(run, op)| (run, u64::try_from(op).unwrap())).collect()
}

/// One attempt of a call, as a host has logged it when it started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    /// Which registration of the host.
    term: usize,
    pub(crate) call: Call,
    pub(crate) attempt: u64,
}

/// The attempts that a host has made.
pub(crate) fn attempts(host: &TestHost) -> Vec<Attempt> {
    let mut term = 0;
    let mut attempts = Vec::new();
    for line in host.log().lines() {
        // The last line of a host that was killed may be a part of one.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if event["message"] == "registered" {
            term += 1;
        } else if event["target"] == "backstitch::activity" {
            let call =
                (event["run"].as_str().unwrap().to_owned(), event["op"].as_str().unwrap().parse().unwrap());
            attempts.push(Attempt { term, call, attempt: event["attempt"].as_u64().unwrap() });
        }
    }
    attempts
}

/// Checks who has executed what: every outcome comes from an attempt that somebody logged; nobody
/// executes a call again whose outcome was in the ledger when that host began, and no host makes
/// one attempt twice in one term.
pub(crate) async fn check_attempts(database: &str, hosts: &[(&TestHost, BTreeSet<Call>)]) {
    let mut made = BTreeSet::new();
    for (index, (host, done_before)) in hosts.iter().enumerate() {
        let mut own = BTreeSet::new();
        for attempt in attempts(host) {
            assert!(!done_before.contains(&attempt.call), "host {index} repeats what was done: {attempt:?}");
            made.insert(attempt.call.clone());
            assert!(own.insert(attempt.clone()), "host {index} makes an attempt twice: {attempt:?}");
        }
    }
    let done = done(&mut connect(database).await).await;
    let unseen: Vec<&Call> = done.difference(&made).collect();
    assert!(unseen.is_empty(), "outcomes without an attempt: {unseen:?}");
}
