//! The append: exactly once, fenced, isolated, byte for byte.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::sync::Arc;

use backstitch_core::inbox::{Message, MessageRow};
use backstitch_core::{Attribute, Chain, HostId, Op, Row, RunId, RunStatus, Seq};
use backstitch_ledger::{
    Append, Cluster, ClusterOptions, Head, Health, NewItem, NewProjection, NewTimer, Outcome, PoisonKind,
    Posted, RunRef, StatusChange, Stopped, Unread,
};
use common::*;

#[tokio::test]
async fn a_fenced_host_cannot_append() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut run, late) = (Grown::named("a"), Grown::named("b"));
    host.commit(run.start()).await;

    ledger.declare_dead(host.id).await.unwrap();
    let outcomes = host.append_all(vec![run.step(2), late.start()]).await;
    assert_eq!(outcomes, [Outcome::Fenced, Outcome::Fenced]);
    assert_eq!(host.task.await.unwrap(), Stopped::Fenced);
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 1);
    assert_eq!(ledger.run(SCOPE, RunRef::WorkflowId("b")).await.unwrap(), None);
}

#[tokio::test]
async fn an_older_epoch_of_the_same_host_is_fenced_too() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("a").start()).await;
    let again = ledger.heartbeat().unwrap().register(host.id, 60_000, "test").await.unwrap();
    assert!(again.epoch > host.lease.epoch);
    assert_eq!(host.append(Grown::named("b").start()).await, Outcome::Fenced);
}

#[tokio::test]
async fn a_start_that_is_refused_takes_nothing_of_the_run_that_is_there_with_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    let again = run.start();
    let timer = NewTimer { run: run.id, op: Op(7), due_ms: 1, purpose: 1 };
    let step = Append { timers: vec![timer], ..run.step(1) };
    // Both are at the writer at once.
    let outcomes = host.append_all(vec![step, again]).await;
    let committed = |refused: Vec<RunId>| Outcome::Committed { refused };
    assert_eq!(outcomes, [committed(vec![]), committed(vec![run.id])]);
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 2);
    assert_eq!(ledger.due_timers(check(host.id, 2), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_death_waits_for_the_append_that_holds_the_lease() {
    let ledger = ledger().await;
    let host = Host::new(&ledger).await;
    let mut session = session(&ledger.options().url).await;
    // What the first part of an append does, held open.
    sqlx::raw_sql("begin; select from leases for share").execute(&mut session).await.unwrap();
    let declared = tokio::spawn({
        let (ledger, id) = (ledger.clone(), host.id);
        async move { ledger.declare_dead(id).await.unwrap() }
    });
    eventually("the death waits for a lock", || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where wait_event_type = 'Lock' and datname = current_database()",
        )
        .fetch_one(&mut common::session(&ledger.options().url).await)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    assert!(!declared.is_finished());
    sqlx::raw_sql("commit").execute(&mut session).await.unwrap();
    assert!(declared.await.unwrap());
}

/// Sends `steps` appends for each of `count` runs while `disturb` does its worst, and checks that
/// each was committed exactly once.
async fn survives(host: &mut Host, count: usize, steps: usize, disturb: impl Future<Output = ()>) {
    let mut runs: Vec<Grown> = (0..count).map(|n| Grown::named(&format!("run {n}"))).collect();
    let starts = runs.iter().map(Grown::start).collect();
    for outcome in host.append_all(starts).await {
        assert_eq!(outcome, committed());
    }
    let load = async {
        for _ in 0..steps {
            let appends: Vec<Append> = runs.iter_mut().map(|run| run.step(2)).collect();
            for outcome in host.append_all(appends).await {
                assert_eq!(outcome, committed());
            }
        }
    };
    tokio::join!(load, disturb);
    for run in &runs {
        let rows = checked_rows(&host.ledger, run.id).await;
        assert_eq!(rows.len(), 1 + 2 * steps);
        assert_eq!(rows.last().unwrap().chain, run.run.chain());
    }
}

#[tokio::test]
async fn lost_replies_commit_exactly_once() {
    let ledger = ledger().await;
    let mut host = Host::with_hook(&ledger, Some(drop_reply(|call| call % 2 == 0))).await;
    survives(&mut host, 20, 10, async {}).await;
    assert!(host.health.borrow().is_healthy());
}

#[tokio::test]
async fn a_start_whose_reply_is_lost_is_not_refused_by_itself() {
    let ledger = ledger().await;
    let mut host = Host::with_hook(&ledger, Some(drop_reply(|call| call == 0))).await;
    let (new, twin) = (Grown::named("a"), Grown::named("a"));
    assert_eq!(host.append(new.start()).await, committed());
    assert_eq!(host.append(twin.start()).await, Outcome::Committed { refused: vec![twin.id] });
}

#[tokio::test]
async fn a_killed_backend_loses_nothing() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let url = ledger.options().url.clone();
    let disturb = async {
        let mut session = session(&url).await;
        let mut killed = 0;
        while killed < 5 {
            killed += terminate_writers(&mut session).await;
            tokio::task::yield_now().await;
        }
    };
    survives(&mut host, 20, 60, disturb).await;
}

#[tokio::test]
async fn a_restarted_cluster_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = ClusterOptions::new(dir.path().join("pg"));
    let cluster = Cluster::start(options.clone()).unwrap();
    let url = database(&cluster).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let (restarted, mut done) = tokio::sync::oneshot::channel();
    let restart = async {
        let running = tokio::task::spawn_blocking(move || {
            cluster.stop(false);
            Cluster::start(options).unwrap()
        });
        restarted.send(running.await.unwrap()).ok();
    };
    survives(&mut host, 10, 60, restart).await;
    done.try_recv().unwrap().stop(true);
}

#[tokio::test]
async fn a_taken_place_poisons_only_the_guilty_run() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut good, mut bad) = (Grown::named("good"), Grown::named("bad"));
    host.append_all(vec![good.start(), bad.start()]).await;
    // Someone else writes row 1 of `bad`.
    let twin = bad.grown_by(|bad| vec![Row { chain: Chain(1), ..bad.signal("1") }]);
    host.commit(twin).await;

    let stale = Append {
        after: Some(Head::at(&bad.new.first)),
        rows: vec![Row { seq: Seq(1), ..bad.signal("2") }],
        ..Append::new(SCOPE, bad.id)
    };
    let behind = Append {
        after: stale.head(),
        rows: vec![Row { seq: Seq(2), ..bad.signal("3") }],
        ..Append::new(SCOPE, bad.id)
    };
    let outcomes = host.append_all(vec![good.step(1), stale, behind, good.step(1)]).await;
    assert_eq!([&outcomes[0], &outcomes[3]], [&committed(), &committed()]);
    assert!(
        matches!(&outcomes[1], Outcome::Poisoned { kind: PoisonKind::SeqTaken, message } if message.contains("duplicate key"))
    );
    assert!(matches!(&outcomes[2], Outcome::Poisoned { kind: PoisonKind::Gap, .. }));
    assert_eq!(checked_rows(&ledger, good.id).await.len(), 3);
    let rows = ledger.rows(bad.id, Seq(0), 10).await.unwrap();
    assert_eq!(rows.len(), 2);
    // Whoever has read the run again goes on at the very place at which the lost one would have ended.
    let again = Append {
        after: rows.last().map(Head::at),
        rows: vec![Row { seq: Seq(2), ..bad.signal("4") }],
        ..Append::new(SCOPE, bad.id)
    };
    host.commit(again).await;
}

#[tokio::test]
async fn data_that_the_database_refuses_poisons_only_its_own_append() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut good, mut bad) = (Grown::named("good"), Grown::named("bad"));
    host.append_all(vec![good.start(), bad.start()]).await;
    let nul = Some(Arc::from("a\0b"));
    let not_json = Some(Arc::from("{"));
    let broken: [&dyn Fn(Row) -> Row; 3] =
        [&|row| Row { name: nul.clone(), ..row }, &|row| Row { payload: not_json.clone(), ..row }, &|row| {
            Row { at_ms: u64::MAX, ..row }
        }];
    for (round, break_row) in broken.iter().enumerate() {
        let mended = bad.grown_by(|bad| vec![bad.signal("0")]);
        let guilty = Append { rows: vec![break_row(mended.rows[0].clone())], ..mended.clone() };
        let pipelined = bad.step(1);
        let outcomes = host.append_all(vec![good.step(1), guilty, pipelined.clone(), good.step(1)]).await;
        assert_eq!([&outcomes[0], &outcomes[3]], [&committed(), &committed()], "round {round}");
        assert!(matches!(outcomes[1], Outcome::Poisoned { kind: PoisonKind::BadData, .. }), "{outcomes:?}");
        assert!(matches!(outcomes[2], Outcome::Poisoned { kind: PoisonKind::Gap, .. }), "{outcomes:?}");
        // The run goes on from where its ledger ends.
        host.commit(mended).await;
        host.commit(pipelined).await;
    }
    assert_eq!(checked_rows(&ledger, good.id).await.len(), 7);
    assert_eq!(checked_rows(&ledger, bad.id).await.len(), 7);
}

#[tokio::test]
async fn an_append_that_is_sent_twice_is_committed_once() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    let step = run.step(3);
    host.commit(step.clone()).await;
    host.commit(step).await;
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 4);
}

#[tokio::test]
async fn a_taken_workflow_id_is_refused_and_the_others_are_started() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let first = Grown::named("taken");
    host.commit(first.start()).await;
    let (mut second, third, fourth) = (Grown::named("taken"), Grown::named("free"), Grown::named("free"));
    let outcomes = host.append_all(vec![second.start(), third.start(), fourth.start()]).await;
    let refused = vec![second.id, fourth.id];
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Committed { refused: refused.clone() }));
    assert!(ledger.rows(second.id, Seq(0), 10).await.unwrap().is_empty());
    assert_eq!(checked_rows(&ledger, third.id).await.len(), 1);
    // Rows that were already on their way must not become a ledger without a beginning.
    let outcome = host.append(second.step(1)).await;
    assert!(matches!(outcome, Outcome::Poisoned { kind: PoisonKind::Gap, .. }));
    assert!(ledger.rows(second.id, Seq(0), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_that_follow_their_start_in_the_queue_are_written_after_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    let appends = vec![run.start(), run.step(1), run.complete("1")];
    for outcome in host.append_all(appends).await {
        assert_eq!(outcome, committed());
    }
    let info = ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().unwrap();
    assert_eq!(info.summary.status, RunStatus::Completed);
    assert_eq!(info.head, Some((Seq(3), run.run.chain())));
    assert_eq!((info.input.as_deref(), info.output.as_deref()), (Some("null"), Some("1")));
}

/// A start together with all that may follow it.
fn start_and_more(run: &mut Grown) -> Append {
    let mut append = run.start();
    let long = format!("\"{}\"", run.id.to_string().repeat(10_000));
    let rows = vec![run.signal("1"), run.signal(&long)];
    let timer = NewTimer { run: run.id, op: Op(7), due_ms: 0, purpose: 1 };
    let attributes = [("who".into(), Some(Attribute::Flag(true)))].into();
    let projection = NewProjection { run: run.id, entity: Some("{}".into()), attributes };
    append.join(Append {
        rows,
        timers: vec![timer],
        tasks: vec![task(Op(8), Seq(1), "a")],
        projections: vec![projection],
        ..Append::new(SCOPE, run.id)
    });
    append
}

/// How many rows of all kinds there are of a run.
async fn traces(connection: &mut sqlx::PgConnection, run: RunId) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in ["runs", "ledger", "timers", "tasks", "entities", "attributes"] {
        let count = format!("select count(*) from {table} where run_id = '{run}'");
        counts
            .push(sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut *connection).await.unwrap());
    }
    counts
}

#[tokio::test]
async fn nothing_that_comes_with_a_refused_start_or_follows_it_is_written() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("taken").start()).await;
    let (mut free, mut rival) = (Grown::named("free"), Grown::named("taken"));
    let appends = vec![
        start_and_more(&mut free),
        start_and_more(&mut rival),
        rival.step(1),
        Append { status: Some(StatusChange::Pause), ..Append::new(SCOPE, rival.id) },
    ];
    let outcomes = host.append_all(appends).await;
    let started = Outcome::Committed { refused: vec![rival.id] };
    assert_eq!(outcomes[..2], [started.clone(), started]);
    for outcome in &outcomes[2..] {
        assert!(matches!(outcome, Outcome::Poisoned { kind: PoisonKind::Gap, .. }), "{outcome:?}");
    }
    assert_eq!(checked_rows(&ledger, free.id).await.len(), 3);
    let mut connection = session(&ledger.options().url).await;
    assert_eq!(traces(&mut connection, free.id).await, [1, 3, 1, 1, 1, 1]);
    assert_eq!(traces(&mut connection, rival.id).await, [0; 6]);
    let stored: i64 = sqlx::query_scalar("select count(distinct digest) from payloads")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(stored, 1, "the long payload of the run that was started");
}

#[tokio::test]
async fn a_start_with_what_follows_it_is_written_once_when_its_reply_is_lost() {
    for others in [false, true] {
        let ledger = ledger().await;
        let mut host = Host::with_hook(&ledger, Some(drop_reply(|call| call == 1))).await;
        let mut old = Grown::named("old");
        host.commit(old.start()).await;
        let (mut rival, mut new) = (Grown::named("old"), Grown::named("new"));
        // The refused one first: that nothing of it is there says nothing about the others.
        let mut appends = vec![start_and_more(&mut rival), start_and_more(&mut new)];
        appends.extend(others.then(|| old.step(1)));
        for outcome in host.append_all(appends).await {
            assert_eq!(outcome, Outcome::Committed { refused: vec![rival.id] });
        }
        let mut connection = session(&ledger.options().url).await;
        assert_eq!(traces(&mut connection, rival.id).await, [0; 6]);
        assert_eq!(traces(&mut connection, new.id).await, [1, 3, 1, 1, 1, 1]);
        assert_eq!(checked_rows(&ledger, old.id).await.len(), 1 + usize::from(others));
        host.commit(new.step(1)).await;
    }
}

#[tokio::test]
async fn json_comes_back_byte_for_byte() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let megabyte = format!("[{}\"{}\"]", "1.50e+3, ".repeat(10), "ü".repeat(500_000));
    let texts = [
        r#"{"z":1,"a":{"c":null,"b":[ ]}}"#,
        r#"{"a":1,"a":2}"#,
        "123456789012345678901234567890.1234567890000",
        "1e400",
        "-0",
        r#""\u0000 \ud83d\ude00 \/""#,
        " [ 1 ,\n\t2 ] ",
        &megabyte,
    ];
    for (n, text) in texts.iter().enumerate() {
        let mut run = Grown::with_input(&n.to_string(), text);
        host.commit(run.start()).await;
        host.commit(run.grown_by(|run| vec![run.signal(text)])).await;
        host.commit(run.complete(text)).await;
        let rows = checked_rows(&ledger, run.id).await;
        for row in &rows {
            assert_eq!(row.payload.as_deref(), Some(*text));
        }
        let info = ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().unwrap();
        assert_eq!([info.input.as_deref(), info.output.as_deref()], [Some(*text); 2]);
    }
}

#[tokio::test]
async fn every_column_of_a_row_comes_back() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = Grown::named("a");
    host.commit(run.start()).await;
    let row = Row {
        seq: Seq(1),
        kind: 22,
        op: Some(Op(u32::MAX)),
        name: Some("größe".into()),
        payload: Some("1".into()),
        detail: Some("{ \"b\":1}".into()),
        attempt: Some(3_000_000_000),
        at_ms: 4_102_444_799_999,
        chain: Chain(u64::MAX),
    };
    let after = Some(run.head());
    host.commit(Append { after, rows: vec![row.clone()], ..Append::new(SCOPE, run.id) }).await;
    assert_eq!(ledger.rows(run.id, Seq(1), 10).await.unwrap(), [row]);
}

#[tokio::test]
async fn a_run_is_parked_and_goes_on() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    let fault = r#"{"kind":"trap"}"#;
    let park =
        Append { status: Some(StatusChange::Park { fault: fault.into() }), ..Append::new(SCOPE, run.id) };
    let unpark = Append { status: Some(StatusChange::Run), ..Append::new(SCOPE, run.id) };
    host.commit(run.start()).await;
    host.commit(park.clone()).await;
    let info = ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().unwrap();
    assert_eq!((info.summary.status, info.fault.as_deref()), (RunStatus::Parked, Some(fault)));
    // Opposite changes in one burst keep their order.
    let outcomes = host.append_all(vec![unpark.clone(), park.clone(), unpark, park, run.complete("2")]).await;
    assert!(outcomes.iter().all(|outcome| *outcome == committed()));
    let info = ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().unwrap();
    assert_eq!((info.summary.status, info.fault), (RunStatus::Completed, None));
}

#[tokio::test]
async fn the_last_word_on_a_timer_counts() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    let id = run.id;
    let timer = |op, due_ms| NewTimer { run: id, op: Op(op), due_ms, purpose: 1 };
    let set = |op, due_ms| Append { timers: vec![timer(op, due_ms)], ..Append::new(SCOPE, id) };
    let done = |op| Append { timers_done: vec![(id, Op(op))], ..Append::new(SCOPE, id) };
    let again = |op, due_ms| Append { timers: vec![timer(op, due_ms)], ..done(op) };
    // All in one burst: set; set and gone; set twice; set, and replaced by one append.
    let burst = vec![set(1, 10), set(2, 20), done(2), set(3, 30), set(3, 31), set(4, 40), again(4, 41)];
    for outcome in host.append_all(burst).await {
        assert_eq!(outcome, committed());
    }
    let due = async || {
        let timers = ledger.due_timers(check(host.id, 1_000), 10).await.unwrap();
        timers.into_iter().map(|timer| (timer.op.0, timer.due_ms)).collect::<Vec<_>>()
    };
    assert_eq!(due().await, [(1, 10), (3, 31), (4, 41)]);
    assert_eq!(ledger.next_due(check(host.id, 10)).await.unwrap(), Some(31));
    // The close of the run takes the rest, also a timer of the same burst.
    for outcome in host.append_all(vec![set(5, 50), run.complete("1")]).await {
        assert_eq!(outcome, committed());
    }
    let left: i64 = sqlx::query_scalar("select count(*) from timers")
        .fetch_one(&mut session(&ledger.options().url).await)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_message_is_moved_once_however_many_try() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (from, mut to) = (Grown::named("a"), Grown::named("a"));
    to.new.generation = 1;
    host.commit(from.start()).await;
    host.commit(to.start()).await;
    let signal = Message::Signal { name: "s".into(), payload: json("1"), id: None }.to_row();
    let item_id = new_id();
    ledger.post(SCOPE, from.id, item_id, now_ms(), &signal).await.unwrap();
    let mut moves = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (ledger, from) = (ledger.clone(), from.id);
        moves.spawn(async move { ledger.pass_on(from, &[]).await.unwrap().items });
    }
    let moved = moves.join_all().await;
    assert_eq!(moved.iter().sum::<usize>(), 1, "{moved:?}");
    let items = inbox(&ledger, host.id, &[]).await;
    let found: Vec<_> = items.iter().map(|item| (item.run, item.item_id, &item.message)).collect();
    assert_eq!(found, [(to.id, item_id, &signal)]);
}

#[tokio::test]
async fn messages_are_sent_once_and_consumed_with_their_effect() {
    let ledger = ledger().await;
    let mut host = Host::with_hook(&ledger, Some(drop_reply(|call| call == 1))).await;
    let (parent, mut child) = (Grown::named("parent"), Grown::named("child"));
    host.append_all(vec![parent.start(), child.start()]).await;
    let item_id = new_id();
    let outcome = Message::ChildClosed { op: Op(3), outcome: Ok(json("[1 ]")) };
    let message = outcome.to_row();
    let mut closing = child.complete("[1 ]");
    closing.inbox = vec![NewItem { run: parent.id, item_id, at_ms: 5, message: message.clone() }];
    host.commit(closing).await;

    let items = inbox(&ledger, host.id, &[]).await;
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].run, items[0].item_id, items[0].at_ms), (parent.id, item_id, 5));
    assert_eq!(items[0].message.message().unwrap(), outcome);
    assert!(inbox(&ledger, host.id, &[item_id]).await.is_empty());

    // Sent and consumed in one burst: gone.
    let (mut sends, second) = (Append::new(SCOPE, parent.id), new_id());
    sends.inbox = vec![NewItem { run: parent.id, item_id: second, at_ms: 6, message }];
    let consumes = Append {
        inbox_done: vec![(parent.id, item_id), (parent.id, second)],
        ..Append::new(SCOPE, parent.id)
    };
    host.append_all(vec![sends, consumes]).await;
    assert!(inbox(&ledger, host.id, &[]).await.is_empty());
}

#[tokio::test]
async fn a_message_to_a_closed_run_is_not_accepted() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    let message = MessageRow { kind: 4, ..MessageRow::default() };
    let post = async |run, item| ledger.post(SCOPE, run, item, 1, &message).await.unwrap();
    assert_eq!(post(run.id, new_id()).await, Posted::Unknown);
    host.commit(run.start()).await;
    let item = new_id();
    for _ in 0..2 {
        assert_eq!(post(run.id, item).await, Posted::Accepted { owner: Some(host.id) });
    }
    host.commit(run.complete("1")).await;
    assert_eq!(post(run.id, new_id()).await, Posted::Closed(RunStatus::Completed));
    // What was accepted before is found, by its host or, if that is dead, by anyone, and goes.
    let closed = [(run.id, RunStatus::Completed)];
    assert_eq!(unread(&ledger, host.id).await.closed, closed);
    let anyone = HostId(new_id());
    assert_eq!(unread(&ledger, anyone).await, Unread::default());
    ledger.declare_dead(host.id).await.unwrap();
    assert_eq!(unread(&ledger, anyone).await.closed, closed);
    ledger.clear_inbox(&[run.id]).await.unwrap();
    assert_eq!(unread(&ledger, host.id).await, Unread::default());
}

#[tokio::test]
async fn a_read_only_database_is_reported_and_loses_nothing() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;

    let mut admin = session(&cluster().url()).await;
    let name = ledger.options().url.split(['/', '?']).nth(3).unwrap().to_owned();
    let set = |to: &str| sqlx::AssertSqlSafe(format!("alter database {name} {to}"));
    sqlx::raw_sql(set("set default_transaction_read_only = on")).execute(&mut admin).await.unwrap();
    terminate_writers(&mut session(&ledger.options().url).await).await;
    host.send(run.step(1)).await;
    let down = tokio::time::timeout(
        TIMEOUT,
        host.health.wait_for(|health| match health {
            Health::Down { reason, .. } => reason.contains("read-only"),
            Health::Healthy => false,
        }),
    );
    down.await.unwrap().unwrap();
    assert!(host.acks.try_recv().is_err(), "nothing is acknowledged meanwhile");

    sqlx::raw_sql(set("reset default_transaction_read_only")).execute(&mut admin).await.unwrap();
    assert_eq!(host.outcomes(1).await[0].1, committed());
    assert!(host.health.borrow().is_healthy());
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 2);
}

#[tokio::test]
async fn a_writer_without_senders_finishes() {
    let ledger = ledger().await;
    let Host { items, task, mut acks, .. } = Host::new(&ledger).await;
    let item = backstitch_ledger::Item { ticket: 9, append: Grown::named("a").start() };
    items.send(item).await.unwrap();
    drop(items);
    assert_eq!(acks.recv().await.unwrap().tickets, [9]);
    assert_eq!(task.await.unwrap(), Stopped::Finished);
}

#[tokio::test]
async fn a_start_carries_its_parent_and_generation() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut old = Grown::named("a");
    host.commit(old.start()).await;
    let mut next = Grown::named("a");
    next.new.generation = 1;
    let mut child = Grown::named("c");
    child.new.parent = Some((old.id, Op(4)));
    let mut append = old.step(1);
    append.new_runs = vec![next.new.clone(), child.new.clone()];
    host.commit(append).await;

    let latest = ledger.run(SCOPE, RunRef::WorkflowId("a")).await.unwrap().unwrap();
    assert_eq!((latest.summary.run, latest.summary.generation), (next.id, 1));
    let children = ledger.children(SCOPE, old.id, 10).await.unwrap();
    assert_eq!(children.iter().map(|run| run.run).collect::<Vec<RunId>>(), [child.id]);
    assert_eq!(children[0].parent, Some((old.id, Op(4))));
}

#[tokio::test]
async fn what_is_known_of_a_run_is_written_with_the_rows_that_say_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    let id = run.id;
    let projection = |entity: &str, attributes: Vec<(&str, Option<Attribute>)>| NewProjection {
        run: id,
        entity: (!entity.is_empty()).then(|| entity.into()),
        attributes: attributes.into_iter().map(|(name, value)| (name.into(), value)).collect(),
    };
    let with = |append: Append, projection: NewProjection| Append { projections: vec![projection], ..append };
    let text = |text: &str| Some(Attribute::Text(text.into()));
    let known = async || {
        let info = ledger.run(SCOPE, RunRef::Id(id)).await.unwrap()?;
        Some((info.entity, info.summary.attributes))
    };
    let first = projection(r#"{"n":1}"#, vec![("who", text("ada")), ("n", Some(Attribute::Number(0.1)))]);
    host.commit(with(run.start(), first)).await;
    let attributes = Some(r#"{ "n" : 0.1, "who" : "ada" }"#.to_owned());
    assert_eq!(known().await.unwrap(), (Some(r#"{"n":1}"#.to_owned()), attributes));

    // In one burst the last word counts, for each name and for the whole entity.
    let burst = vec![
        with(run.step(1), projection(r#"{"n":2}"#, vec![("who", text("grace")), ("n", None)])),
        with(run.step(1), projection(r#"{"n":3}"#, vec![("at", Some(Attribute::TimeMs(1_000)))])),
        with(run.step(1), projection("", vec![("who", None), ("ok", Some(Attribute::Flag(true)))])),
    ];
    let outcomes = host.append_all(burst).await;
    assert!(outcomes.iter().all(|outcome| *outcome == committed()));
    let attributes = Some(r#"{ "at" : "1970-01-01T00:00:01.000Z", "ok" : true }"#.to_owned());
    assert_eq!(known().await.unwrap(), (Some(r#"{"n":3}"#.to_owned()), attributes.clone()));

    // A start that is refused leaves nothing behind of what would have been known.
    let rival = Grown::named("a");
    let theirs = NewProjection { run: rival.id, ..projection(r#"{"n":9}"#, vec![("who", text("eve"))]) };
    let refused = host.append_all(vec![with(rival.start(), theirs)]).await;
    assert_eq!(refused, [Outcome::Committed { refused: vec![rival.id] }]);
    let mut connection = session(&ledger.options().url).await;
    for table in ["entities", "attributes"] {
        let strays = format!("select count(*) from {table} where run_id <> '{id}'");
        let strays: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(strays)).fetch_one(&mut connection).await.unwrap();
        assert_eq!(strays, 0, "{table}");
    }
    // It outlives the run.
    host.commit(run.complete("1")).await;
    assert_eq!(known().await.unwrap().1, attributes);
}
