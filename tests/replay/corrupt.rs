//! Ledgers that were changed behind the host's back: noticed when they are read, before a guest runs.

use backstitch_client::views::{ReplayVerdict, RunDetailView};
use backstitch_core::{Event, FaultKind, Json, Kind, Row, RunId, RunStatus, Seq};
use backstitch_ledger::{ConnectOptions, Ledger};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::{DEADLINE, HostOptions, TestHost, check_ledgers, connect, database, eventually};

/// Somebody's hand in the database.
enum Damage {
    /// `$1` is the run.
    Sql(&'static [&'static str]),
    /// Every checksum made good again afterwards: a program's defect rather than a disk's.
    Resealed(fn(&mut [Row])),
}
use Damage::{Resealed, Sql};

struct Case {
    name: &'static str,
    damage: Damage,
    /// Part of what is said about it.
    noticed: &'static str,
}

const fn case(name: &'static str, damage: Damage, noticed: &'static str) -> Case {
    Case { name, damage, noticed }
}

/// Of a run with the rows run-started, activity-scheduled, -completed, -scheduled, -completed,
/// signal-awaited.
const OPEN: &[Case] = &[
    case(
        "the-first-row-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq = 0"]),
        "expected row 0, found row 1",
    ),
    case(
        "a-middle-row-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq = 3"]),
        "expected row 3, found row 4",
    ),
    case(
        "all-rows-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1"]),
        "the ledger is empty",
    ),
    case(
        "rows-swapped",
        Sql(&[
            "update ledger set seq = 99 where shard = 0 and run_id = $1 and seq = 3",
            "update ledger set seq = 3 where shard = 0 and run_id = $1 and seq = 4",
            "update ledger set seq = 4 where shard = 0 and run_id = $1 and seq = 99",
        ]),
        "row 3 does not match its checksum",
    ),
    case(
        "a-row-doubled-at-the-end",
        Sql(&["insert into ledger
               select shard, tenant, run_id, 6, kind, op, name, payload, detail, attempt, at, chain
               from ledger where shard = 0 and run_id = $1 and seq = 2"]),
        "row 6 does not match its checksum",
    ),
    case(
        "a-row-doubled-before-the-start",
        Sql(&["insert into ledger
               select shard, tenant, run_id, -1, kind, op, name, payload, detail, attempt, at, chain
               from ledger where shard = 0 and run_id = $1 and seq = 0"]),
        "expected row 0, found row 4294967295",
    ),
    case(
        "another-runs-rows",
        Sql(&[
            "delete from ledger where shard = 0 and run_id = $1",
            "insert into ledger
             select l.shard, l.tenant, $1, l.seq, l.kind, l.op, l.name, l.payload, l.detail, l.attempt, l.at, l.chain
             from ledger l join runs r on r.shard = 0 and r.run_id = l.run_id
             where l.shard = 0 and r.workflow_id = 'sound-1'",
        ]),
        "row 0 does not match its checksum",
    ),
    case(
        "the-input-edited",
        Sql(&["update ledger set payload = '[2]' where shard = 0 and run_id = $1 and seq = 0"]),
        "row 0 does not match its checksum",
    ),
    case(
        "a-payload-edited",
        Sql(&["update ledger set payload = '[2]' where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-payload-with-a-space-more",
        Sql(&["update ledger set payload = (payload::text || ' ')::json
               where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-payload-gone",
        Sql(&["update ledger set payload = null where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-payload-nested-too-deeply-to-show",
        Sql(&["update ledger set payload = (repeat('[', 500) || repeat(']', 500))::json
               where shard = 0 and run_id = $1 and seq = 0"]),
        "row 0 does not match its checksum",
    ),
    case(
        "a-name-edited",
        Sql(&["update ledger set name = 'ohce' where shard = 0 and run_id = $1 and seq = 1"]),
        "row 1 does not match its checksum",
    ),
    case(
        "options-edited",
        Sql(&["update ledger set detail = '{\"task_queue\":\"q\"}' where shard = 0 and run_id = $1 and seq = 1"]),
        "row 1 does not match its checksum",
    ),
    case(
        "a-kind-edited",
        Sql(&["update ledger set kind = 21 where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-kind-that-is-none",
        Sql(&["update ledger set kind = -32768 where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "an-op-edited",
        Sql(&["update ledger set op = -1 where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "an-attempt-edited",
        Sql(&["update ledger set attempt = 2 where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-time-edited",
        Sql(&["update ledger set at = at + interval '1 ms' where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-time-before-all-clocks",
        Sql(&["update ledger set at = '1969-07-20' where shard = 0 and run_id = $1 and seq = 2"]),
        "row 2 does not match its checksum",
    ),
    case(
        "a-time-before-all-times",
        Sql(&["update ledger set at = '-infinity' where shard = 0 and run_id = $1 and seq = 5"]),
        "row 5 does not match its checksum",
    ),
    case(
        "a-time-after-all-times",
        Sql(&["update ledger set at = 'infinity' where shard = 0 and run_id = $1 and seq = 5"]),
        "row 5 does not match its checksum",
    ),
    case(
        "a-checksum-edited",
        Sql(&["update ledger set chain = chain # 1 where shard = 0 and run_id = $1 and seq = 5"]),
        "row 5 does not match its checksum",
    ),
    case(
        "an-unknown-kind-resealed",
        Resealed(|rows| rows[2].kind = 99),
        "row 2 cannot be read: unknown kind 99",
    ),
    case(
        "deep-json-resealed",
        Resealed(|rows| rows[2].payload = Some(format!("{}{}", "[".repeat(500), "]".repeat(500)).into())),
        "row 2 cannot be read: payload: JSON nested deeper",
    ),
    case(
        "an-outcome-of-another-sort-resealed",
        Resealed(|rows| rows[2].kind = Kind::TimerFired.tag()),
        "row 2: timer-fired is not allowed here: op 0 is no open timer",
    ),
    case(
        "time-running-backwards-resealed",
        Resealed(|rows| rows[5].at_ms = rows[0].at_ms - 1),
        "row 5 is older than the row before it",
    ),
];

/// Of a run that went on: signal-received, activity-scheduled, -completed, run-completed.
const CLOSED: &[Case] = &[
    case(
        "the-end-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq = 9"]),
        "the run closed with 10 rows, the ledger holds 9",
    ),
    case(
        "the-last-rows-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq > 5"]),
        "the run closed with 10 rows, the ledger holds 6",
    ),
    case(
        "the-first-row-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq = 0"]),
        "expected row 0, found row 1",
    ),
    case(
        "a-middle-row-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1 and seq = 4"]),
        "expected row 4, found row 5",
    ),
    case(
        "the-result-edited",
        Sql(&["update ledger set payload = '[2]' where shard = 0 and run_id = $1 and seq = 9"]),
        "row 9 does not match its checksum",
    ),
    case(
        "the-result-resealed",
        Resealed(|rows| rows[9].payload = Some("[2]".into())),
        "row 9 does not match its checksum",
    ),
    case(
        "all-rows-dropped",
        Sql(&["delete from ledger where shard = 0 and run_id = $1"]),
        "the ledger is empty",
    ),
];

const SOUND: [&str; 2] = ["sound-1", "sound-2"];

async fn do_damage(database: &str, connection: &mut PgConnection, run: RunId, damage: &Damage) {
    match damage {
        Sql(statements) => {
            for statement in *statements {
                let done = sqlx::query(*statement).bind(run.0).execute(&mut *connection).await.unwrap();
                assert!(done.rows_affected() > 0, "{statement}");
            }
        }
        Resealed(edit) => {
            let ledger = Ledger::connect(ConnectOptions::new(database)).await.unwrap();
            let mut rows = ledger.rows(run, Seq(0), u32::MAX >> 1).await.unwrap();
            ledger.close().await;
            edit(&mut rows);
            let mut chain = backstitch_core::Chain(0);
            for mut row in rows {
                row.chain = row.link(run, chain);
                chain = row.chain;
                write_over(connection, run, &row).await;
            }
        }
    }
}

async fn write_over(connection: &mut PgConnection, run: RunId, row: &Row) {
    let done = sqlx::query(
        "update ledger set kind = $3, payload = $4::text::json, chain = $5,
                at = 'epoch'::timestamptz + $6 * interval '1 ms'
         where shard = 0 and run_id = $1 and seq = $2",
    )
    .bind(run.0)
    .bind(row.seq.0.cast_signed())
    .bind(row.kind)
    .bind(row.payload.as_deref())
    .bind(row.chain.0.cast_signed())
    .bind(row.at_ms.cast_signed())
    .execute(connection)
    .await
    .unwrap();
    assert_eq!(done.rows_affected(), 1);
}

/// Starts a run and waits until it waits for its signal.
async fn waiting_run(host: &TestHost, id: &str) -> RunId {
    let id = host.start_run("json_relay", id, "[1]").await;
    eventually("the run waits for its signal", async || {
        let view = host.client.run(&id).await.unwrap();
        (view.rows == 6).then_some(view.run.run_id)
    })
    .await
}

async fn finish(host: &TestHost, id: &str) {
    host.client.signal(id, "bytes", &Json::new("[3]").unwrap()).await.unwrap();
    assert_eq!(host.output(id).await, "[3]");
}

const GUESTS: [&str; 2] = ["hostile-guest", "hostile-activities"];

#[tokio::test]
async fn a_damaged_ledger_parks_its_run_before_a_guest_sees_it() {
    let database = database().await;
    let mut host = TestHost::with(&database, &GUESTS).await;
    let mut connection = connect(&database).await;
    let mut runs = Vec::new();
    for id in SOUND {
        waiting_run(&host, id).await;
    }
    for case in OPEN {
        runs.push((case, waiting_run(&host, case.name).await));
    }
    host.kill();
    for (case, run) in &runs {
        do_damage(&database, &mut connection, *run, &case.damage).await;
    }

    let mut host = TestHost::start(HostOptions::new(&database)).await;
    for (case, run) in &runs {
        parked_loudly(&host, case, *run).await;
    }
    eventually("the sound runs are brought back", async || {
        let health = host.client.health().await.unwrap();
        (health.runs_warm == SOUND.len() as u64).then_some(())
    })
    .await;
    let health = host.client.health().await.unwrap();
    assert_eq!(health.activations, SOUND.len() as u64, "guests of damaged ledgers were run\n{}", host.log());
    for id in SOUND {
        finish(&host, id).await;
    }
    for (case, run) in &runs {
        shown_and_ended(&host, case, *run).await;
    }
    assert!(host.is_running());
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

async fn parked_loudly(host: &TestHost, case: &Case, run: RunId) {
    let Case { name, noticed, .. } = case;
    let view = host.client.handle(name).result(DEADLINE).await.unwrap();
    assert_eq!(view.status, RunStatus::Parked, "{name}");
    let fault = view.fault.unwrap();
    assert_eq!(fault.kind, FaultKind::Corrupt, "{name}: {fault}");
    assert!(fault.message.contains(noticed), "{name}: {fault}");
    let log = host.log();
    let said = log.lines().any(|line| {
        line.contains("ERROR") && line.contains(&run.to_string()) && line.contains(&fault.message)
    });
    assert!(said, "{name} is parked without an error in the log:\n{log}");
}

async fn shown_and_ended(host: &TestHost, case: &Case, run: RunId) {
    let Case { name, noticed, .. } = case;
    let shown = host.cli(&["run", "show", name]).await;
    assert_eq!(shown.code, 0, "{name}: {shown:?}");
    assert!(shown.stdout.contains(noticed), "{name}: {shown:?}");
    assert_eq!(host.cli(&["run", "ledger", name]).await.code, 0, "{name}");
    assert_replays_as_corrupt(host, name, noticed).await;
    host.client.retry(name).await.unwrap();
    let id = run.to_string();
    let attempts = || host.log().lines().filter(|line| line.contains("ERROR") && line.contains(&id)).count();
    eventually("a retry is refused too", async || (attempts() > 1).then_some(())).await;
    assert_eq!(host.ended_run(name).await.status, RunStatus::Parked, "{name}");
    let view = terminated(host, name, "beyond repair").await;
    assert!(view.run.failure.unwrap().message.starts_with("beyond repair"), "{name}");
    assert!(view.damage.unwrap().contains(noticed), "{name}");
}

/// Gets rid of a parked run.
pub(crate) async fn terminated(host: &TestHost, id: &str, reason: &str) -> RunDetailView {
    host.client.terminate(id, reason).await.unwrap();
    let view = eventually(&format!("{id} is terminated"), async || {
        let view = host.client.run(id).await.unwrap();
        (view.run.status != RunStatus::Parked).then_some(view)
    })
    .await;
    assert_eq!(view.run.status, RunStatus::Terminated, "{id}");
    view
}

async fn assert_replays_as_corrupt(host: &TestHost, id: &str, noticed: &str) {
    let replayed = host.client.replay(id, None).await.unwrap();
    let ReplayVerdict::Faulted { fault } = &replayed.verdict else { panic!("{id}: {replayed:?}") };
    assert_eq!(fault.kind, FaultKind::Corrupt, "{id}: {fault}");
    assert!(fault.message.contains(noticed), "{id}: {fault}");
    assert_eq!(replayed.fuel, 0, "{id}: a guest was run");
    let said = host.cli(&["replay", id]).await;
    assert_eq!(said.code, 21, "{id}: {said:?}");
    assert!(said.stdout.contains(noticed), "{id}: {said:?}");
}

#[tokio::test]
async fn a_closed_run_whose_ledger_was_changed_is_told_by_its_head() {
    let database = database().await;
    let host = TestHost::with(&database, &GUESTS).await;
    let mut connection = connect(&database).await;
    let mut runs = Vec::new();
    for Case { name, .. } in CLOSED {
        runs.push(waiting_run(&host, name).await);
        finish(&host, name).await;
        let view = host.client.run(name).await.unwrap();
        assert_eq!((view.rows, view.damage), (10, None), "{name}");
        let replayed = host.client.replay(name, None).await.unwrap();
        assert!(matches!(replayed.verdict, ReplayVerdict::Identical), "{name}: {replayed:?}");
    }
    for (Case { name, damage, noticed }, run) in CLOSED.iter().zip(runs) {
        do_damage(&database, &mut connection, run, damage).await;
        let view = host.client.run(name).await.unwrap();
        assert_eq!(view.run.status, RunStatus::Completed, "{name}");
        assert!(view.damage.as_ref().is_some_and(|damage| damage.contains(noticed)), "{name}: {view:?}");
        let shown = host.cli(&["run", "show", name]).await;
        assert!(shown.stdout.contains(noticed), "{name}: {shown:?}");
        assert_replays_as_corrupt(&host, name, noticed).await;
    }
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[tokio::test]
async fn a_repaired_ledger_goes_on_with_what_was_sent_to_it_meanwhile() {
    let database = database().await;
    let mut host = TestHost::with(&database, &GUESTS).await;
    let mut connection = connect(&database).await;
    let run = waiting_run(&host, "repaired").await;
    host.kill();
    let edit = &["update ledger set payload = '[2]' where shard = 0 and run_id = $1 and seq = 2"];
    do_damage(&database, &mut connection, run, &Sql(edit)).await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    assert_eq!(host.ended_run("repaired").await.status, RunStatus::Parked);
    host.client.signal("repaired", "bytes", &Json::new("[3]").unwrap()).await.unwrap();
    // It waits for the run, which hears nothing as long as it is parked but what ends that.
    let repair = &["update ledger set payload = '[1]' where shard = 0 and run_id = $1 and seq = 2"];
    do_damage(&database, &mut connection, run, &Sql(repair)).await;
    host.client.retry("repaired").await.unwrap();
    eventually("the run goes on", async || {
        let view = host.client.run("repaired").await.unwrap();
        (view.run.status == RunStatus::Completed).then_some(())
    })
    .await;
    assert_eq!(host.output("repaired").await, "[3]");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn the_parent_of_a_damaged_child_hears_of_its_end() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["child-workflow"]).await;
    let mut connection = connect(&database).await;
    let input = r#"{"order_id":"c","sku":"SKU-1","quantity":1}"#;
    let parent = host.start_run("validate_one", "parent", input).await;
    let parent = host.client.run(&parent).await.unwrap().run.run_id;
    // The child waits for an activity that nobody offers.
    let child = eventually("the child waits", async || {
        let child = child_of(&mut connection, parent).await?;
        (host.client.run(&child.to_string()).await.unwrap().rows == 2).then_some(child)
    })
    .await;
    host.kill();
    let drop_first = &["delete from ledger where shard = 0 and run_id = $1 and seq = 0"];
    do_damage(&database, &mut connection, child, &Sql(drop_first)).await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let child = child.to_string();
    assert_eq!(host.ended_run(&child).await.status, RunStatus::Parked);
    host.client.terminate(&child, "beyond repair").await.unwrap();
    let view = host.ended_run("parent").await;
    assert_eq!(view.status, RunStatus::Failed, "{view:#?}");
    assert_eq!(view.failure.unwrap().code, "terminated");
}

async fn child_of(connection: &mut PgConnection, parent: RunId) -> Option<RunId> {
    let child: Option<Uuid> =
        sqlx::query_scalar("select run_id from runs where shard = 0 and parent_run = $1")
            .bind(parent.0)
            .fetch_optional(connection)
            .await
            .unwrap();
    child.map(RunId)
}

/// The ledger is sound, but the code that wrote it is lost: such a run can be ended in its ledger.
#[tokio::test]
async fn a_run_whose_component_was_changed_is_parked_and_ends_in_its_ledger() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["child-workflow"]).await;
    let mut connection = connect(&database).await;
    let input = r#"{"order_id":"c","sku":"SKU-1","quantity":1}"#;
    host.start_run("validate_order", "lost", input).await;
    eventually("the run waits", async || (host.client.run("lost").await.unwrap().rows == 2).then_some(()))
        .await;
    host.kill();
    let damaged = sqlx::query("update components set bytes = bytes || '\\x00'::bytea")
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(damaged.rows_affected(), 1);
    let host = TestHost::start(HostOptions::new(&database)).await;
    let view = host.ended_run("lost").await;
    assert_eq!(view.status, RunStatus::Parked);
    let fault = view.fault.unwrap();
    assert_eq!(fault.kind, FaultKind::Component);
    assert!(fault.message.contains("changed after it was deployed"), "{fault}");
    let view = terminated(&host, "lost", "no longer wanted").await;
    assert_eq!((view.rows, view.damage), (3, None));
    let failure = view.run.failure.unwrap();
    assert_eq!(failure.message, "no longer wanted");
    let ledger = Ledger::connect(ConnectOptions::new(&database)).await.unwrap();
    let last = ledger.rows(view.run.run_id, Seq(2), 1).await.unwrap().remove(0);
    ledger.close().await;
    let Event::RunTerminated { reason } = last.event().unwrap() else { panic!("{last:?}") };
    assert_eq!(reason, "no longer wanted");
    check_ledgers(&database).await;
}
