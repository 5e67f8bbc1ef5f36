//! What meets what: an outcome of every kind and a request to stop, in every order, on hosts that die over
//! them. However they meet, a run ends once.

use backstitch_core::{Json, Message, RunStatus, Scope};
use backstitch_ledger::{ConnectOptions, Ledger, Posted, RunRef};

use crate::load::{count, deployed_database, late, options};
use crate::support::{TestHost, check_ledgers, connect, eventually};

/// What the run waits for.
const KINDS: [&str; 4] = ["activity", "timer", "signal", "child"];
/// How it is asked to stop.
const REQUESTS: [&str; 2] = ["cancel", "terminate"];
/// Which of the two is there first.
const ORDERS: [&str; 3] = ["event-first", "request-first", "request-twice"];
/// Where the host dies that finds both. None: it does not.
const CRASHES: [Option<&str>; 6] = [
    None,
    Some("append-before:1"),
    Some("append-sent:2"),
    Some("append-after:1"),
    Some("activation-middle:3"),
    Some("activity-done:1"),
];

/// A run whose activity nobody asks to stop: a host always has an attempt to die over.
const BYSTANDER: &str = "bystander";

/// Every case, under its name, which is its workflow id.
fn cases() -> impl Iterator<Item = (String, [&'static str; 3])> {
    let pairs = KINDS.into_iter().flat_map(|kind| REQUESTS.into_iter().map(move |request| (kind, request)));
    let all = pairs.flat_map(|(kind, request)| ORDERS.into_iter().map(move |order| [kind, request, order]));
    all.map(|case| (case.join("/"), case))
}

/// Puts messages where hosts find them, while none is alive.
struct Hand(Ledger);

impl Hand {
    #[expect(clippy::disallowed_methods, reason = "a message of no host has an id of the test's own")]
    async fn post(&self, id: &str, message: &Message) {
        let run = self.0.run_id(Scope::DEFAULT, RunRef::WorkflowId(id)).await.unwrap().unwrap();
        // Ordered as the calls are.
        let (item, row) = (uuid::Uuid::now_v7(), message.to_row());
        let posted = self.0.post(Scope::DEFAULT, run, item, 1, &row).await.unwrap();
        assert!(matches!(posted, Posted::Accepted { .. }), "{posted:?}");
    }

    /// What makes the thing happen that the run waits for. Timers and activities happen by themselves.
    async fn event(&self, id: &str, kind: &str) {
        let to = match kind {
            "signal" => id.to_owned(),
            "child" => format!("{id}/child"),
            _ => return,
        };
        let payload = Json::of(&"went").unwrap();
        self.post(&to, &Message::Signal { name: "go".into(), payload, id: None }).await;
    }

    async fn request(&self, id: &str, request: &str) {
        let reason = "enough".to_owned();
        let message = match request {
            "cancel" => Message::Cancel { reason, id: None },
            _ => Message::Terminate { reason, only_this: false },
        };
        self.post(id, &message).await;
    }
}

/// Whether a component serves the activity.
async fn serve(database: &str, is_served: bool) {
    let [from, to] = if is_served { ["hidden", "late"] } else { ["late", "hidden"] };
    let mut connection = connect(database).await;
    let rename = sqlx::query("update deployments set name = $1 where name = $2").bind(to).bind(from);
    assert_eq!(rename.execute(&mut connection).await.unwrap().rows_affected(), 1);
    sqlx::query("update tenants set deployment = deployment + 1").execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_run_ends_once_however_its_outcomes_meet_a_request_to_stop() {
    for crash in CRASHES {
        let database = deployed_database().await;
        let mut connection = connect(&database).await;
        let host = TestHost::start(options(&database)).await;
        host.client.deploy(late()).await.unwrap();
        drop(host);
        serve(&database, false).await;
        let mut host = TestHost::start(options(&database)).await;
        for (id, [kind, ..]) in cases() {
            host.start_run("awaits", &id, &format!("{kind:?}")).await;
        }
        host.start_run("awaits", BYSTANDER, "\"activity\"").await;
        // Each has given its command, and each child its own.
        let commands = "select count(*) from ledger where kind between 2 and 5";
        let children = cases().filter(|(_, [kind, ..])| *kind == "child").count();
        let given = i64::try_from(cases().count() + children + 1).unwrap();
        eventually("all wait", async || (count(&mut connection, commands).await == given).then_some(()))
            .await;
        host.kill();
        // What it had sent may still be under way.
        let sessions = "select count(*) from pg_stat_activity
                        where datname = current_database() and application_name like 'backstitch%'";
        eventually("its sessions end", async || (count(&mut connection, sessions).await == 0).then_some(()))
            .await;
        serve(&database, true).await;
        // A timer may be over already on a machine that is slow: nothing is left to meet.
        let open = "select array_agg(workflow_id) from runs where status < 10";
        let open: Vec<String> = sqlx::query_scalar(open).fetch_one(&mut connection).await.unwrap();
        let hand = Hand(Ledger::connect(ConnectOptions::new(&database)).await.unwrap());
        for (id, [kind, request, order]) in cases().filter(|(id, _)| open.contains(id)) {
            let first = match order {
                "event-first" => None,
                "request-first" => Some(request),
                _ => Some("cancel"),
            };
            if let Some(first) = first {
                hand.request(&id, first).await;
            }
            hand.event(&id, kind).await;
            if order != "request-first" {
                hand.request(&id, request).await;
            }
        }
        hand.0.close().await;
        if let Some(crash) = crash
            && let Some(mut dying) = TestHost::try_start(options(&database).crash(crash)).await
        {
            dying.crashed().await;
        }
        let heir = TestHost::start(options(&database)).await;
        for (id, case) in cases() {
            check(&heir, &id, case, crash).await;
        }
        assert_eq!(heir.ended_run(BYSTANDER).await.status, RunStatus::Completed);
        for left in [
            "select count(*) from runs where status < 10",
            "select count(*) from timers",
            "select count(*) from inbox",
        ] {
            eventually(left, async || (count(&mut connection, left).await == 0).then_some(())).await;
        }
        check_ledgers(&database).await;
    }
}

/// One end, of a kind that the case allows, told in the same words by the ledger and the run.
async fn check(host: &TestHost, id: &str, [_, request, order]: [&str; 3], crash: Option<&str>) {
    let view = host.ended_run(id).await;
    let kinds: Vec<String> = host.rows(id).await.into_iter().map(|row| row.kind).collect();
    let what = format!("{id} with {crash:?}: {kinds:?}");
    let ends = kinds.iter().filter(|kind| kind.starts_with("run-") && *kind != "run-started");
    assert_eq!(ends.count(), 1, "{what}");
    assert_eq!(kinds.last().unwrap(), &format!("run-{}", view.status.as_str()), "{what}");
    let outcomes = ["activity-completed", "timer-fired", "child-completed", "child-failed"];
    assert!(kinds.iter().filter(|kind| outcomes.contains(&kind.as_str())).count() <= 1, "{what}");
    let allowed = match (request, order) {
        ("cancel", _) => &[RunStatus::Completed, RunStatus::Cancelled][..],
        (_, "request-twice") => &[RunStatus::Completed, RunStatus::Cancelled, RunStatus::Terminated],
        _ => &[RunStatus::Completed, RunStatus::Terminated],
    };
    assert!(allowed.contains(&view.status), "{what}");
}
