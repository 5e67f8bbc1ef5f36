//! A synchronous standby that is not there: nobody is told that something is done only because it is found.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use backstitch_client::schedules::CreateSchedule;
use backstitch_client::tasks::{AnswerTask, PollTasks};
use backstitch_client::{IdReuse, SendUpdate, StartRun};
use backstitch_core::Json;
use backstitch_core::schedule::{Every, Policy, Spec, Terms, What, When};
use backstitch_ledger::{Cluster, ClusterOptions};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use crate::load::{ASKED, PACKAGES, approve, count, options};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, eventually, refusal};

/// Which standbys commits wait for.
async fn standbys(connection: &mut PgConnection, names: &str) {
    let set = format!("alter system set synchronous_standby_names = '{names}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select pg_reload_conf()").execute(connection).await.unwrap();
}

/// Waits until the server heeds that, by commits of its own.
async fn until_commits_wait(database: &str, connection: &mut PgConnection) -> JoinHandle<()> {
    let mut probe = connect(database).await;
    let probing = tokio::spawn(async move {
        for _ in 0..1_000_000 {
            sqlx::raw_sql("select pg_logical_emit_message(true, 'test', '')")
                .execute(&mut probe)
                .await
                .unwrap();
            tokio::task::yield_now().await;
        }
    });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    eventually("a commit waits", async || (count(connection, waiting).await > 0).then_some(())).await;
    probing
}

fn schedule(name: &str) -> CreateSchedule {
    let what = What {
        workflow: "collect".into(),
        input: Json::new("0").unwrap(),
        id_prefix: None,
        terms: Terms::default(),
    };
    let when = When { every: vec![Every { every_ms: 3_600_000, offset_ms: 0 }], ..When::default() };
    let spec = Spec { what, when, policy: Policy::default() };
    CreateSchedule { name: name.to_owned(), spec, paused: true, note: String::new() }
}

fn asked() -> StartRun {
    let start = StartRun::new("approval", Some("there".to_owned()), Json::new(ASKED).unwrap());
    StartRun { reuse: IdReuse::UseExisting, ..start }
}

fn buy() -> SendUpdate {
    SendUpdate {
        name: "buy".into(),
        input: Json::of(&2).unwrap(),
        id: Some("once".to_owned()),
        wait: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn nobody_is_told_that_something_is_there_before_a_standby_has_it() {
    // The server's user must be able to reach its folder.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let cluster = Cluster::start(ClusterOptions::new(dir.path().join("pg"))).unwrap();
    let database = cluster.create_database("waiting").await.unwrap();
    let mut connection = connect(&database).await;
    let patient = || HostOptions { lease_ms: "60000", ..options(&database) };
    let host = TestHost::start(patient()).await;
    host.deploy(&PACKAGES).await;
    let other = TestHost::start(patient()).await;
    host.client.start(asked()).await.unwrap();
    host.start_run("shop", "shop", "10").await;
    host.client.update("shop", buy()).await.unwrap();
    host.client.create_schedule(&schedule("there")).await.unwrap();
    host.start_run("outside", "called", "1").await;
    let poll = PollTasks { wait_ms: 20_000, lease_ms: Some(120_000), ..PollTasks::new("outside") };
    let task =
        eventually("there is a task", async || host.client.poll_tasks(&poll).await.unwrap().pop()).await;
    let answer = AnswerTask::completed(&*task.token, Json::new("1").unwrap());
    host.client.answer_task(&answer).await.unwrap();
    host.output("called").await;

    standbys(&mut connection, "nope").await;
    let probing = until_commits_wait(&database, &mut connection).await;
    // All of this is there, and whoever says it again would be told so at once.
    let started = other.client.start(asked());
    let updated = other.client.update("shop", buy());
    let answered = other.client.answer_task(&answer);
    let (taken, there) = (schedule("there"), schedule("not there"));
    let made = other.client.create_schedule(&taken);
    let deleted = other.client.delete_schedule(&there.name);
    let signalled = approve(&other, "there");
    let mut all = Box::pin(async { tokio::join!(started, updated, answered, made, deleted, signalled) });
    let waiting = "select count(*) from pg_stat_activity
                   where wait_event = 'SyncRep' and application_name = 'backstitch clients'";
    let wait = eventually("all six wait for a commit", async || {
        (count(&mut connection, waiting).await == 6).then_some(())
    });
    tokio::select! {
        () = wait => {}
        told = all.as_mut() => panic!("told, though no standby has it: {told:?}"),
    }
    standbys(&mut connection, "").await;
    let (started, updated, answered, made, deleted, signalled) = all.await;
    assert!(!started.unwrap().created);
    assert_eq!(updated.unwrap().output, Some(Json::of(&8).unwrap()));
    answered.unwrap();
    assert_eq!(refusal(made), (409, "schedule-exists".to_owned()));
    assert_eq!(refusal(deleted), (404, "unknown-schedule".to_owned()));
    signalled.unwrap();
    probing.abort();
    assert_eq!(host.output("there").await, r#""approved""#);
    check_ledgers(&database).await;
    drop((host, other));
    cluster.stop(false);
}
