//! A database that has lost what it had committed: nothing is written behind a gap, and nothing is told before it is
//! as safe as a commit can be.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use backstitch_core::{Op, Seq};
use backstitch_ledger::{
    Append, Cluster, ClusterOptions, Head, NewTimer, Outcome, PoisonKind, Posted, RunRef, StatusChange,
};
use common::*;

async fn execute(url: &str, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut session(url).await).await.unwrap();
}

/// Takes rows away as a failover to a replica that lags does.
async fn lose_rows(url: &str, run: &Grown, from: u32) {
    execute(url, format!("delete from ledger where run_id = '{}' and seq >= {from}", run.id)).await;
}

fn is_behind(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Poisoned { kind: PoisonKind::Behind, .. })
}

#[tokio::test]
async fn nothing_is_written_behind_a_row_that_the_database_has_lost() {
    let ledger = ledger().await;
    let url = ledger.options().url.clone();
    let mut host = Host::new(&ledger).await;
    let (mut hurt, mut well) = (Grown::named("hurt"), Grown::named("well"));
    host.append_all(vec![hurt.start(), well.start()]).await;
    host.append_all(vec![hurt.step(3), well.step(3)]).await;
    lose_rows(&url, &hurt, 3).await;

    let timers = vec![NewTimer { run: hurt.id, op: Op(7), due_ms: 0, purpose: 1 }];
    let gap = Append { timers, ..hurt.step(1) };
    let outcomes =
        host.append_all(vec![well.step(1), gap, hurt.step(1), hurt.complete("1"), well.step(1)]).await;
    assert_eq!([&outcomes[0], &outcomes[4]], [&committed(), &committed()]);
    for outcome in &outcomes[1..3] {
        assert!(is_behind(outcome), "{outcome:?}");
    }
    // It went with the next statement, when what it follows was known to be lost.
    assert!(matches!(outcomes[3], Outcome::Poisoned { kind: PoisonKind::Gap, .. }), "{:?}", outcomes[3]);
    assert_eq!(ledger.rows(hurt.id, Seq(0), 10).await.unwrap().len(), 3);
    assert_eq!(checked_rows(&ledger, well.id).await.len(), 6);
    let timers: i64 =
        sqlx::query_scalar("select count(*) from timers").fetch_one(&mut session(&url).await).await.unwrap();
    assert_eq!(timers, 0);
    assert!(ledger.run(SCOPE, RunRef::Id(hurt.id)).await.unwrap().unwrap().summary.status.is_open());
}

#[tokio::test]
async fn a_run_whose_last_row_is_another_than_its_host_knows_takes_nothing() {
    let ledger = ledger().await;
    let url = ledger.options().url.clone();
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    host.commit(run.step(1)).await;
    let pause = |after| Append { after, status: Some(StatusChange::Pause), ..Append::new(SCOPE, run.id) };
    let head = run.head();
    execute(&url, format!("update ledger set chain = chain + 1 where run_id = '{}' and seq = 1", run.id))
        .await;
    assert!(is_behind(&host.append(pause(Some(head))).await), "an append without rows");
    lose_rows(&url, &run, 0).await;
    execute(&url, format!("delete from runs where run_id = '{}'", run.id)).await;
    assert!(is_behind(&host.append(pause(Some(head))).await), "a run that is gone altogether");
    assert!(is_behind(&host.append(run.step(1)).await));
    assert!(ledger.rows(run.id, Seq(0), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_whose_claim_the_database_has_lost_is_not_written() {
    let ledger = ledger().await;
    let url = ledger.options().url.clone();
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    host.commit(run.step(1)).await;
    for owner in ["null".to_owned(), format!("'{}'", new_id())] {
        execute(&url, format!("update runs set owner = {owner} where run_id = '{}'", run.id)).await;
        let mut as_it_was = run.clone();
        assert!(is_behind(&host.append(as_it_was.complete("1")).await), "its end, as {owner}'s");
        assert!(is_behind(
            &host.append(Append { after: Some(run.head()), ..Append::new(SCOPE, run.id) }).await
        ));
    }
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 2);
    assert!(ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().unwrap().summary.status.is_open());
}

#[tokio::test]
async fn rows_that_do_not_say_what_they_follow_are_refused() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    let step = run.step(1);
    let elsewhere = Head { seq: Seq(5), ..step.after.unwrap() };
    for after in [None, Some(elsewhere)] {
        let outcome = host.append(Append { after, ..step.clone() }).await;
        assert!(matches!(outcome, Outcome::Poisoned { kind: PoisonKind::Gap, .. }), "{outcome:?}");
    }
    host.commit(step).await;
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 2);
}

#[tokio::test]
async fn an_idle_writer_notices_that_its_connection_is_gone() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    host.connections.wait_for(|made| *made == 1).await.unwrap();
    let mut session = session(&ledger.options().url).await;
    assert_eq!(terminate_writers(&mut session).await, 1);
    tokio::time::timeout(TIMEOUT, host.connections.wait_for(|made| *made == 2)).await.unwrap().unwrap();
}

/// Which standbys commits wait for.
async fn standbys(url: &str, names: &str) {
    execute(url, format!("alter system set synchronous_standby_names = '{names}'")).await;
    execute(url, "select pg_reload_conf()".to_owned()).await;
}

/// Whether a writer waits for a synchronous standby, and as which process.
async fn waiting_writer(url: &str) -> Option<i32> {
    waiting(url, "writer").await.pop()
}

/// Sessions that wait for a synchronous standby.
async fn waiting(url: &str, role: &str) -> Vec<i32> {
    sqlx::query_scalar(
        "select pid from pg_stat_activity where application_name = $1 and wait_event = 'SyncRep'",
    )
    .bind(format!("backstitch {role}"))
    .fetch_all(&mut session(url).await)
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_said_again_is_told_only_when_a_standby_has_what_was_said_before() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(ClusterOptions::new(dir.path().join("pg"))).unwrap();
    let url = database(&cluster).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let run = Grown::named("a");
    host.commit(run.start()).await;
    standbys(&url, "nope").await;
    let post = |item| {
        let (ledger, run) = (ledger.clone(), run.id);
        let message = backstitch_core::Message::Retry.to_row();
        tokio::spawn(async move { ledger.post(SCOPE, run, item, 1, &message).await })
    };
    // The server takes a moment to heed it.
    let (item, first, sent) = loop {
        let item = new_id();
        let sent = post(item);
        let waits = async || (sent.is_finished() || !waiting(&url, "pool").await.is_empty()).then_some(());
        eventually("it is told, or waits", waits).await;
        if let Some(first) = waiting(&url, "pool").await.pop() {
            break (item, first, sent);
        }
    };
    execute(&url, format!("select pg_terminate_backend({first})")).await;
    sent.await.unwrap().unwrap_err();
    // It is there for everybody, and would be lost with this server.
    let there = ledger.items_there(&[(run.id, item)]).await.unwrap();
    assert_eq!(there, [(run.id, item)]);
    let again = post(item);
    let confirmed = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.confirm().await }
    });
    eventually("both wait", async || (waiting(&url, "pool").await.len() == 2).then_some(())).await;
    assert!(!again.is_finished() && !confirmed.is_finished(), "told, though no standby has it");
    standbys(&url, "").await;
    assert!(matches!(again.await.unwrap().unwrap(), Posted::Accepted { .. }));
    confirmed.await.unwrap().unwrap();
    cluster.stop(true);
}

#[tokio::test]
async fn a_commit_that_was_cut_short_while_it_waited_for_a_standby_is_not_told_before_one_has_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(ClusterOptions::new(dir.path().join("pg"))).unwrap();
    let url = database(&cluster).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    standbys(&url, "nope").await;
    // The server takes a moment to heed it: until then commits are told at once.
    let mut sent = 1;
    host.send(run.step(1)).await;
    let first = loop {
        if let Some(first) = waiting_writer(&url).await {
            break first;
        }
        if host.acks.try_recv().is_ok() {
            sent += 1;
            host.send(run.step(1)).await;
        }
        tokio::task::yield_now().await;
    };
    execute(&url, format!("select pg_terminate_backend({first})")).await;
    // The row is there for everybody, and would be lost with this server.
    eventually("the next connection waits in its place", async || {
        waiting_writer(&url).await.filter(|pid| *pid != first)
    })
    .await;
    assert_eq!(ledger.rows(run.id, Seq(sent), 10).await.unwrap().len(), 1);
    assert!(host.acks.try_recv().is_err(), "told, though no standby has it");
    standbys(&url, "").await;
    assert_eq!(host.outcomes(1).await.remove(0).1, committed());
    assert_eq!(checked_rows(&ledger, run.id).await.len(), 1 + sent as usize);
    cluster.stop(true);
}

#[tokio::test]
async fn commits_are_as_safe_as_on_unless_the_url_says_otherwise() {
    let url = database(cluster()).await;
    let setting = async |url: String| -> String {
        let ledger = ledger_at(&url).await;
        let mut host = Host::new(&ledger).await;
        host.connections.wait_for(|made| *made == 1).await.unwrap();
        ledger.options().synchronous_commit.clone().unwrap()
    };
    for (database, wanted) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply"), ("on", "on")]
    {
        let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
        execute(&url, format!("alter database {name} set synchronous_commit = {database}")).await;
        assert_eq!(setting(url.clone()).await, wanted, "a database that says {database}");
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    assert_eq!(setting(format!("{url}{joint}options[synchronous_commit]=off")).await, "off");
}
