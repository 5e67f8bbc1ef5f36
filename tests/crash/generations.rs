//! Messages that meet a run while it continues as new: each is heard once, in the order of its sender.

use std::time::Duration;

use backstitch_client::{ClientError, IdReuse, ResetRun, SendSignal, SendUpdate, StartRun};
use backstitch_core::{Json, RunStatus, Seq};
use futures::{StreamExt as _, stream};
use sqlx::PgConnection;

use crate::load::{count, deployed_database, options};
use crate::support::{Gates, TestHost, check_ledgers, connect, eventually};

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

/// Starts a run that takes so many signals, so many in each generation.
async fn start_baton(host: &TestHost, id: &str, count: usize, each: usize) {
    host.start_run("baton", id, &format!(r#"{{"items":[],"count":{count},"each":{each}}}"#)).await;
}

async fn item(host: &TestHost, id: &str, number: usize) {
    host.client.signal(id, "item", &Json::of(&number).unwrap()).await.unwrap();
}

/// How many generations of a workflow id there are.
async fn generations(connection: &mut PgConnection, id: &str) -> i64 {
    let runs = sqlx::query_scalar("select count(*) from runs where workflow_id = $1").bind(id);
    runs.fetch_one(connection).await.unwrap()
}

/// Waits until the latest generation of a workflow id waits for a signal, and nothing else is under way.
async fn until_it_waits(connection: &mut PgConnection, id: &str) {
    let query = "select l.kind = 4 from runs r join ledger l using (run_id)
                 where workflow_id = $1 order by generation desc, seq desc limit 1";
    eventually("it waits", async || {
        let last =
            sqlx::query_scalar::<_, bool>(query).bind(id).fetch_optional(&mut *connection).await.unwrap();
        (last == Some(true)).then_some(())
    })
    .await;
}

/// The output of the last generation of a workflow id.
async fn output(host: &TestHost, id: &str) -> String {
    let view = eventually(&format!("{id} ends"), async || {
        let view = host.client.result(id, Duration::from_secs(10)).await.ok()?;
        (view.status != RunStatus::Running && view.status != RunStatus::Continued).then_some(view)
    })
    .await;
    assert_eq!(view.status, RunStatus::Completed, "{view:#?}\n{}", host.log());
    view.output.unwrap().as_str().to_owned()
}

/// Has a run that sleeps for a moment continue as new, and its host not hear of that: the next generation is in the
/// database, and the acknowledgement waits at the gate `append-after`, which is shut. False: it has heard, and the
/// gate is open.
async fn continue_unheard(
    host: &TestHost,
    gates: &Gates,
    connection: &mut PgConnection,
    id: &str,
    number: usize,
) -> bool {
    until_it_waits(connection, id).await;
    let before = generations(connection, id).await;
    item(host, id, number).await;
    let sleeps = "select count(*) from timers where purpose = 1";
    eventually("it sleeps or goes on", async || {
        let sleeps = count(connection, sleeps).await == 1;
        (sleeps || generations(connection, id).await > before).then_some(())
    })
    .await;
    gates.shut("append-after");
    if generations(connection, id).await > before {
        gates.open("append-after");
        return false;
    }
    eventually("it goes on as a new run", async || {
        // Who waits at the gate has committed: what is not there then comes with a later append.
        let waits = gates.is_reached("append-after");
        if generations(connection, id).await > before {
            return Some(());
        }
        if waits {
            gates.pass("append-after");
        }
        None
    })
    .await;
    true
}

async fn loaded(host: &TestHost) -> u64 {
    host.client.health().await.unwrap().runs_loaded
}

/// A run that takes three signals, sleeping between its generations, so that a test can see to the gates.
async fn start_slow_baton(host: &TestHost, id: &str) {
    host.start_run("baton", id, r#"{"items":[],"count":3,"each":1,"pause_ms":300}"#).await;
}

#[tokio::test]
async fn a_run_that_is_found_before_its_start_was_heard_of_is_one_run() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let gates = Gates::new();
    let host = TestHost::start(options(&database).gates(&gates)).await;
    let mut hits = 0;
    for attempt in 0..20 {
        let id = format!("found-{attempt}");
        start_slow_baton(&host, &id).await;
        let unheard = continue_unheard(&host, &gates, &mut connection, &id, 0).await;
        item(&host, &id, 1).await;
        if unheard {
            // The new run is there by its message, and only then does its host hear of its start.
            eventually("it is loaded", async || (loaded(&host).await == 2).then_some(())).await;
            gates.open("append-after");
            hits += 1;
        }
        item(&host, &id, 2).await;
        assert_eq!(output(&host, &id).await, "[0,1,2]");
        if hits == 2 {
            break;
        }
    }
    assert_eq!(hits, 2, "its host has always heard first");
    assert!(!host.log().contains("refused for good"), "{}", host.log());
    check_ledgers(&database).await;
}

#[tokio::test]
async fn rows_that_were_read_before_a_run_was_taken_into_memory_are_not_used_after_it() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let gates = Gates::new();
    let host = TestHost::start(options(&database).gates(&gates)).await;
    let mut was_hit = false;
    for attempt in 0..20 {
        let id = format!("stale-{attempt}");
        start_slow_baton(&host, &id).await;
        let unheard = continue_unheard(&host, &gates, &mut connection, &id, 0).await;
        if unheard {
            gates.shut("load-after");
        }
        item(&host, &id, 1).await;
        if unheard {
            eventually("its ledger was read", async || gates.is_reached("load-after").then_some(())).await;
            gates.open("append-after");
            // It is in memory by its start, goes on as the next one, and goes.
            eventually("it has gone on", async || {
                let runs = generations(&mut connection, &id).await;
                (runs == 3 && loaded(&host).await == 1).then_some(())
            })
            .await;
            gates.open("load-after");
            was_hit = true;
        }
        item(&host, &id, 2).await;
        assert_eq!(output(&host, &id).await, "[0,1,2]");
        if was_hit {
            break;
        }
    }
    assert!(was_hit, "its host has always heard first");
    eventually("what was read is put away", async || (loaded(&host).await == 0).then_some(())).await;
    assert!(!host.log().contains("refused for good"), "{}", host.log());
    check_ledgers(&database).await;
}

#[tokio::test]
async fn the_order_of_one_sender_and_the_ids_of_messages_hold_over_generations() {
    const COUNT: usize = 200;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    start_baton(&host, "ordered", COUNT, 2).await;
    for number in 0..COUNT {
        // Once more what was sent a while ago: to a run that has closed since.
        for number in [Some(number), number.checked_sub(7)].into_iter().flatten() {
            let payload = Json::of(&number).unwrap();
            let id = format!("item-{number}");
            match host.client.signal_once("ordered", "item", &payload, Some(id)).await {
                Ok(()) => {}
                // It is over before the repetitions are.
                Err(ClientError::Problem { code, .. }) if code == "run-closed" => {}
                Err(error) => panic!("{number}: {error}"),
            }
        }
    }
    let expected: Vec<usize> = (0..COUNT).collect();
    assert_eq!(output(&host, "ordered").await, serde_json::to_string(&expected).unwrap());
    assert_eq!(generations(&mut connection, "ordered").await, COUNT as i64 / 2);
    let left = "select count(*) from inbox";
    eventually("none is left", async || (count(&mut connection, left).await == 0).then_some(())).await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_update_is_made_once_however_its_run_goes_on() {
    const COUNT: u32 = 60;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("counter", "counter", &format!("[0,{COUNT}]")).await;
    let update = async |number: u32| {
        let update = SendUpdate {
            name: "count".into(),
            input: Json::null(),
            id: Some(format!("update-{number}")),
            wait: Duration::from_secs(60),
        };
        let view =
            host.client.update("counter", update).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(view.answered, "{view:?}");
        view.output.unwrap()
    };
    // Each twice, some at the same time, others later.
    let asked = (0..COUNT).flat_map(|number| [number, number.saturating_sub(5)]);
    let answers: Vec<(u32, Json)> = stream::iter(asked)
        .map(|number| async move { (number, update(number).await) })
        .buffered(6)
        .collect()
        .await;
    for (number, answer) in &answers {
        let others = answers.iter().filter(|(other, _)| other == number);
        assert!(others.clone().all(|(_, other)| other == answer), "{number} was answered twice: {answers:?}");
    }
    assert_eq!(output(&host, "counter").await, COUNT.to_string());
    let made = "select count(*) from ledger where kind = 11";
    assert_eq!(count(&mut connection, made).await, i64::from(COUNT));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_cancel_between_runs_is_heard_once_though_its_sender_sends_it_again() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("keeps_one", "asked", "null").await;
    until_it_waits(&mut connection, "asked").await;
    dead.start_run("canceller", "asks", r#""asked""#).await;
    until_it_waits(&mut connection, "asks").await;
    let heard = "select count(*) from ledger where kind = 27";
    eventually("it is heard", async || (count(&mut connection, heard).await == 1).then_some(())).await;
    dead.kill();
    // As if it had died before it could note that the message was accepted.
    let forget = "delete from ledger l using runs r where r.run_id = l.run_id and r.workflow_id = 'asks'
                  and l.seq >= (select seq from ledger m where m.run_id = r.run_id and m.kind = 28)";
    assert!(sqlx::query(forget).execute(&mut connection).await.unwrap().rows_affected() >= 1);
    let heir = TestHost::start(options(&database)).await;
    let sent = "select count(*) from ledger where kind = 28";
    eventually("it is sent again", async || (count(&mut connection, sent).await == 1).then_some(())).await;
    let left = "select count(*) from inbox";
    eventually("it is read again", async || (count(&mut connection, left).await == 0).then_some(())).await;
    assert_eq!(count(&mut connection, heard).await, 1);
    // And one of a client, which does not know whether it was taken.
    for _ in 0..2 {
        heir.client.cancel_once("asked", "again", Some("once".into())).await.unwrap();
    }
    eventually("it is heard", async || (count(&mut connection, heard).await == 2).then_some(())).await;
    eventually("all is read", async || (count(&mut connection, left).await == 0).then_some(())).await;
    assert_eq!(count(&mut connection, heard).await, 2);
    heir.client.signal("asked", "kept", &json(r#""here""#)).await.unwrap();
    assert_eq!(heir.output("asked").await, r#""cancelled here""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_signal_with_a_start_goes_after_a_run_that_has_gone_on() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let signal = SendSignal { name: "item".into(), payload: json("7"), id: None };
    for hops in [1, 5] {
        let id = format!("hops-{hops}");
        let start = StartRun::new("hop", Some(id.clone()), Json::of(&hops).unwrap());
        host.client.start(StartRun { signal: Some(signal.clone()), ..start }).await.unwrap();
        assert_eq!(output(&host, &id).await, "7");
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_reset_of_a_run_that_goes_on_meanwhile_leaves_its_successor_alone() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let gates = Gates::new();
    let host = TestHost::start(options(&database).gates(&gates)).await;
    start_baton(&host, "reset", 2, 1).await;
    until_it_waits(&mut connection, "reset").await;
    let run = host.client.run("reset").await.unwrap().run.run_id;
    gates.shut("append-before");
    item(&host, "reset", 0).await;
    eventually("it is about to go on", async || gates.is_reached("append-before").then_some(())).await;
    let id = run.to_string();
    let reset = async {
        let ask = ResetRun { to_seq: Some(Seq(0)), ..ResetRun::default() };
        host.client.reset(&id, &ask).await
    };
    let goes_on = async {
        let asked = "select count(*) from inbox where kind in (3, 14)";
        eventually("it is asked to stop", async || (count(&mut connection, asked).await == 1).then_some(()))
            .await;
        gates.open("append-before");
    };
    let (refused, ()) = tokio::join!(reset, goes_on);
    // It may have stopped before it went on: then there is a run from its first row.
    match refused {
        Err(error) => assert_eq!(error.code(), Some("later-run-open"), "{error}"),
        Ok(begun) => assert_eq!(begun.run.generation, 1),
    }
    item(&host, "reset", 1).await;
    let latest = host.ended_run("reset").await;
    assert_eq!((latest.generation, latest.status), (1, RunStatus::Completed), "{latest:?}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn starts_of_one_workflow_id_at_once_find_or_make_one_run() {
    const STARTS: usize = 16;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    let start = async |id: &str, number: usize, reuse, signal: bool| {
        let signal =
            signal.then(|| SendSignal { name: "item".into(), payload: Json::of(&number).unwrap(), id: None });
        let input = Json::of(&(STARTS + number)).unwrap();
        let start = StartRun { reuse, signal, ..StartRun::new("collect", Some(id.to_owned()), input) };
        host.client.start(start).await.unwrap_or_else(|error| panic!("{id}: {error}"))
    };
    for (id, reuse, signals) in
        [("found", IdReuse::UseExisting, false), ("signalled", IdReuse::AllowClosed, true)]
    {
        for round in 0..5 {
            let id = format!("{id}-{round}");
            let starts = (0..STARTS).map(|number| start(&id, number, reuse, signals));
            let started = futures::future::join_all(starts).await;
            assert_eq!(started.iter().filter(|started| started.created).count(), 1, "{started:#?}");
            assert!(started.iter().all(|other| other.run.run_id == started[0].run.run_id), "{started:#?}");
        }
    }
    assert_eq!(count(&mut connection, "select count(*) from runs").await, 10);
    let read = "select count(*) from ledger where kind = 24";
    eventually("every signal is heard", async || {
        (count(&mut connection, read).await == 5 * STARTS as i64).then_some(())
    })
    .await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_is_paused_and_resumed_at_once_goes_on() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("collect", "both", "1").await;
    for _ in 0..20 {
        host.client.pause("both", "").await.unwrap();
        host.client.resume("both", "").await.unwrap();
    }
    item(&host, "both", 3).await;
    assert_eq!(host.output("both").await, "[3]");
    host.start_run("collect", "neither", "1").await;
    let refused = host.client.resume("neither", "").await.unwrap_err();
    assert_eq!(refused.code(), Some("not-paused"), "{refused}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_child_that_is_refused_leaves_nothing_behind() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("collect", "taken", "1").await;
    host.start_run("regretful", "parent", r#""taken""#).await;
    host.output("parent").await;
    item(&host, "taken", 1).await;
    assert_eq!(host.output("taken").await, "[1]");
    for orphans in [
        "select count(*) from inbox i where not exists (select from runs r where r.run_id = i.run_id)",
        "select count(*) from timers i where not exists (select from runs r where r.run_id = i.run_id)",
        "select count(*) from attributes i where not exists (select from runs r where r.run_id = i.run_id)",
    ] {
        assert_eq!(count(&mut connection, orphans).await, 0, "{orphans}");
    }
}

#[tokio::test]
async fn a_start_that_is_repeated_finds_its_run_that_has_continued_as_new() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let start = |input: &str| StartRun::new("counter", Some("counter".to_owned()), Json::new(input).unwrap());
    let first = host.client.start(start("[0,6]")).await.unwrap();
    assert!(first.created);
    for number in 0..3 {
        let update = SendUpdate {
            name: "count".into(),
            input: Json::null(),
            id: Some(format!("update-{number}")),
            wait: Duration::from_secs(60),
        };
        host.client.update("counter", update).await.unwrap();
    }
    eventually("it has continued as new", async || {
        let latest = host.client.run("counter").await.unwrap();
        (latest.run.run_id != first.run.run_id).then_some(())
    })
    .await;
    let again = host.client.start(start("[0,6]")).await.unwrap();
    assert!(!again.created && again.run.run_id == first.run.run_id, "{again:?}");
    let other = host.client.start(start("[0,7]")).await.unwrap_err();
    assert!(other.to_string().contains("workflow-id-taken"), "{other}");
}
