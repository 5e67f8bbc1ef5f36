//! What runs say to each other, and what clients say to them, when the host dies in between.

use std::time::Duration;

use backstitch_client::{ClientError, IdReuse, SendSignal, SendUpdate, StartRun};
use backstitch_core::{Json, RunStatus};
use sqlx::PgConnection;

use crate::load::{count, deployed_database, options};
use crate::support::{DEADLINE, TestHost, check_ledgers, connect, eventually};

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

/// Waits until a query counts so many.
async fn until(connection: &mut PgConnection, what: &str, number: i64, query: &'static str) {
    eventually(what, async || (count(connection, query).await >= number).then_some(())).await;
}

#[tokio::test]
async fn signals_between_runs_come_once_wherever_the_sender_dies() {
    let visits = [
        ("append-before", 9),
        ("append-sent", 10),
        ("append-after", 10),
        ("append-after", 13),
        ("activation-middle", 12),
    ];
    for (point, visit) in visits {
        let database = deployed_database().await;
        let mut dying = TestHost::start(options(&database).crash(format!("{point}:{visit}"))).await;
        let start = async |host: &TestHost, workflow: &str, input: &str| {
            let start = StartRun::new(workflow, Some(workflow.to_owned()), json(input));
            // The host may die over it, and the answer be lost: the heir is asked again.
            let _ = host.client.start(start).await;
        };
        let relay = r#"{"to":"collect","count":12}"#;
        start(&dying, "collect", "12").await;
        start(&dying, "relay", relay).await;
        start(&dying, "feed_child", "8").await;
        dying.crashed().await;
        let heir = TestHost::start(options(&database)).await;
        start(&heir, "collect", "12").await;
        start(&heir, "relay", relay).await;
        start(&heir, "feed_child", "8").await;
        assert_eq!(heir.output("collect").await, "[0,1,2,3,4,5,6,7,8,9,10,11]", "{point}:{visit}");
        assert_eq!(heir.output("feed_child").await, "[0,1,2,3,4,5,6,7]", "{point}:{visit}");
        let told = heir.output("relay").await;
        assert_eq!(told.matches("sent").count(), 12, "{point}:{visit}: {told}");
        let mut connection = connect(&database).await;
        assert_eq!(count(&mut connection, "select count(*) from ledger where kind = 24").await, 20);
        check_ledgers(&database).await;
    }
}

#[tokio::test]
async fn a_message_that_nobody_can_take_is_an_ordinary_error() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("relay", "to-nobody", r#"{"to":"nobody","count":1}"#).await;
    assert_eq!(host.output("to-nobody").await, r#"["unknown-run"]"#);
    host.start_run("collect", "closed", "0").await;
    host.output("closed").await;
    host.start_run("relay", "to-closed", r#"{"to":"closed","count":1}"#).await;
    assert_eq!(host.output("to-closed").await, r#"["run-closed"]"#);
    host.start_run("stop_child", "stops", "null").await;
    assert_eq!(host.output("stops").await, r#""cancelled unknown-run""#);
    host.start_run("unserved", "unserved", "null").await;
    assert_eq!(host.output("unserved").await, r#""Timeout schedule-to-start""#);
}

#[tokio::test]
async fn clean_up_that_is_shielded_is_finished_by_the_next_host() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("thorough", "thorough", r#""the desk""#).await;
    dead.start_run("keeps_one", "keeps-one", "null").await;
    until(&mut connection, "both wait", 3, "select count(*) from ledger where kind in (3, 4)").await;
    dead.client.cancel("thorough", "enough").await.unwrap();
    dead.client.cancel("keeps-one", "enough").await.unwrap();
    until(&mut connection, "the clean-up has begun", 2, "select count(*) from ledger where kind = 3").await;
    let asked = "select count(*) from ledger where kind = 27";
    until(&mut connection, "both are asked", 2, asked).await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    // Once more: what is shielded outlives that too. It ends when it is told to, and not before it was asked again.
    heir.client.cancel("thorough", "now").await.unwrap();
    until(&mut connection, "it is asked again", 3, asked).await;
    heir.client.signal("thorough", "enough", &json("null")).await.unwrap();
    let view = heir.ended_run("thorough").await;
    assert_eq!(view.status, RunStatus::Cancelled, "{view:#?}");
    let kinds: Vec<String> = heir.rows("thorough").await.into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "activity-completed").count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "cancel-requested").count(), 2, "{kinds:?}");
    assert_eq!(kinds.last().unwrap(), "run-cancelled", "{kinds:?}");
    heir.client.signal("keeps-one", "kept", &json(r#""here""#)).await.unwrap();
    assert_eq!(heir.output("keeps-one").await, r#""cancelled here""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_continues_as_new_hands_its_signals_on() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut host = TestHost::start(options(&database)).await;
    let first = host.client.start(StartRun::new("rolling", Some("rolling".into()), json("0"))).await.unwrap();
    for number in 0..60 {
        if number % 20 == 10 {
            host.kill();
            host = TestHost::start(options(&database)).await;
        }
        host.client.signal("rolling", "add", &json("1")).await.unwrap();
    }
    let first = host.client.handle(first.run.run_id);
    let last = first.result(DEADLINE).await.unwrap();
    assert_eq!((last.status, last.output), (RunStatus::Completed, Some(json("60"))));
    assert_eq!(first.status().await.unwrap(), RunStatus::Continued);
    let runs = "select count(*) from runs where workflow_id = 'rolling' and status = 14";
    assert!(count(&mut connection, runs).await >= 5);
    assert_eq!(count(&mut connection, "select count(*) from inbox").await, 0);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_signal_with_an_id_counts_once() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("collect", "once", "2").await;
    let first = async |host: &TestHost| {
        host.client.signal_once("once", "item", &json("1"), Some("first".into())).await.unwrap();
    };
    first(&dead).await;
    until(&mut connection, "it is recorded", 1, "select count(*) from ledger where kind = 24").await;
    first(&dead).await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    first(&heir).await;
    heir.client.signal("once", "item", &json("2")).await.unwrap();
    assert_eq!(heir.output("once").await, "[1,2]");
    until(&mut connection, "none is left", 0, "select -count(*) from inbox").await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_update_is_refused_or_recorded_and_answered_once() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database).crash("append-after:3")).await;
    dead.start_run("shop", "shop", "10").await;
    let buy = |count: u32, id: &str| SendUpdate {
        name: "buy".into(),
        input: Json::of(&count).unwrap(),
        id: Some(id.to_owned()),
        wait: Duration::from_secs(20),
    };
    // The host dies over one of these; whoever asked asks the next one, under the same id.
    for (asked, id) in (0_u32..).zip(["one", "two", "three"]) {
        match dead.client.update("shop", buy(2, id)).await {
            Ok(view) => assert_eq!(view.output, Some(Json::of(&(8 - 2 * asked)).unwrap()), "{view:?}"),
            Err(_) => break,
        }
    }
    dead.crashed().await;
    let heir = TestHost::start(options(&database)).await;
    for (id, left) in [("one", "8"), ("two", "6"), ("three", "4"), ("one", "8")] {
        let view = heir.client.update("shop", buy(2, id)).await.unwrap();
        assert_eq!((view.answered, view.output), (true, Some(json(left))), "{id}");
    }
    let received = "select count(*) from ledger where kind = 24";
    assert_eq!(count(&mut connection, received).await, 3);

    // Refused: no trace. Failed: an answer like any other.
    let code = |result: Result<_, ClientError>| match result {
        Err(ClientError::Problem { code, detail, .. }) => (code, detail),
        other => panic!("{other:?}"),
    };
    let (refused, why) = code(heir.client.update("shop", buy(0, "none")).await);
    assert_eq!(refused, "update-refused");
    assert!(why.contains("nothing: buy something"), "{why}");
    let text = SendUpdate { input: json(r#""two""#), ..buy(0, "text") };
    assert_eq!(code(heir.client.update("shop", text).await).0, "update-refused");
    assert_eq!(count(&mut connection, received).await, 3);
    let failed = heir.client.update("shop", buy(13, "unlucky")).await.unwrap();
    assert_eq!(failed.failure.unwrap().code, "sold-out");

    let said = heir.cli(&["run", "update", "shop", "buy", "4", "--id", "last"]).await;
    assert_eq!((said.code, said.stdout.trim()), (0, "0"), "{}", said.stderr);
    assert_eq!(heir.output("shop").await, "0");
    // After the end: what was answered still is, and nothing else ever will be.
    let said = heir.cli(&["run", "update", "shop", "buy", "13", "--id", "unlucky"]).await;
    assert_eq!(said.code, 9, "{}", said.stderr);
    assert!(said.stderr.contains("4 left"), "{}", said.stderr);
    assert_eq!(code(heir.client.update("shop", buy(1, "late")).await).0, "run-closed");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_workflow_id_is_used_again_as_its_starter_says() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let start = |input: &str, reuse| StartRun {
        reuse,
        ..StartRun::new("collect", Some("daily".into()), json(input))
    };
    let code = |result: Result<_, ClientError>| match result {
        Err(ClientError::Problem { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let first = host.client.start(start("1", IdReuse::AllowClosed)).await.unwrap();
    assert!(first.created);
    assert_eq!(code(host.client.start(start("2", IdReuse::Reject)).await), "workflow-id-taken");
    assert_eq!(code(host.client.start(start("1", IdReuse::AllowClosed)).await), "workflow-id-taken");
    let same = host.client.start(start("7", IdReuse::UseExisting)).await.unwrap();
    assert_eq!((same.created, same.run.run_id), (false, first.run.run_id));

    // With a start comes a signal, whether the run is made or found.
    let signal = SendSignal { name: "item".into(), payload: json("5"), id: Some("s".into()) };
    let signalled = StartRun { signal: Some(signal.clone()), ..start("1", IdReuse::UseExisting) };
    host.client.start(signalled).await.unwrap();
    assert_eq!(host.output("daily").await, "[5]");
    // To whoever has the id, and to a new run if that one has closed: what a signal with a start is for.
    for (number, created) in [(0, true), (1, false)] {
        let signal = SendSignal { name: "item".into(), payload: Json::of(&number).unwrap(), id: None };
        let start = StartRun { signal: Some(signal), ..start("2", IdReuse::AllowClosed) };
        assert_eq!(host.client.start(start).await.unwrap().created, created);
    }
    assert_eq!(host.output("daily").await, "[0,1]");

    let second = host.client.start(start("0", IdReuse::AllowClosed)).await.unwrap();
    assert_eq!((second.created, second.run.generation), (true, 2));
    assert_eq!(host.output("daily").await, "[]");
    let closed = host.client.start(start("9", IdReuse::UseExisting)).await.unwrap();
    assert_eq!((closed.created, closed.run.run_id), (false, second.run.run_id));
    let made = StartRun { signal: Some(signal), ..StartRun::new("collect", Some("made".into()), json("1")) };
    assert!(host.client.start(made).await.unwrap().created);
    assert_eq!(host.output("made").await, "[5]");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_does_not_listen_keeps_nobody_waiting() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    for id in ["flooded", "other", "held"] {
        host.start_run("collect", id, "1").await;
    }
    for id in ["flooded", "held"] {
        host.client.pause(id, "").await.unwrap();
    }
    until(&mut connection, "both are held", 2, "select count(*) from runs where status = 3").await;
    // More than it keeps, and more than may wait for it beside that.
    let flood = "insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at)
                 select 0, 1, run_id, ('0190' || lpad(to_hex(n), 28, '0'))::uuid, 1, 's', '1', now()
                 from runs, generate_series(1, 20050) n where workflow_id = 'flooded'";
    sqlx::query(flood).execute(&mut connection).await.unwrap();
    host.client.signal("other", "item", &json("1")).await.unwrap();
    assert_eq!(host.output("other").await, "[1]");
    let refused = host.client.signal("flooded", "s", &json("1")).await.unwrap_err();
    assert!(
        refused.has_status(429) && refused.code() == Some("inbox-full") && !refused.is_final(),
        "{refused}"
    );
    let taken = "select count(*) from ledger where kind = 24 and name = 's'";
    until(&mut connection, "it has as many as it keeps", 10_000, taken).await;
    // What it cannot hear yet is left where it is, and keeps neither of them in memory.
    host.client.cancel("held", "enough").await.unwrap();
    eventually("they are put away", async || {
        (host.client.health().await.unwrap().runs_loaded == 0).then_some(())
    })
    .await;
    assert_eq!(count(&mut connection, taken).await, 10_000);
    host.client.resume("held", "").await.unwrap();
    assert_eq!(host.ended_run("held").await.status, RunStatus::Cancelled);
    host.client.terminate("flooded", "enough").await.unwrap();
    assert_eq!(host.ended_run("flooded").await.status, RunStatus::Terminated);
    until(&mut connection, "its messages go", 0, "select -count(*) from inbox").await;
    check_ledgers(&database).await;
}
