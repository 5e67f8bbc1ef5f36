//! A database that loses what it had committed, or what follows from it: no gap is written, no run sleeps for ever.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use backstitch_client::tasks::{AnswerTask, PollTasks, TaskFailure};
use backstitch_client::{ResetRun, StartOptions, StartRun};
use backstitch_core::{Json, RunStatus};
use backstitch_ledger::{Cluster, ClusterOptions};
use sqlx::PgConnection;

use crate::load::{count, deployed_database, options};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, eventually, refusal};

/// Looks for runs without timers every two seconds.
fn alert(database: &str) -> HostOptions<'_> {
    HostOptions { lease_ms: "500", ..options(database) }
}

fn word(word: &str) -> Json {
    Json::of(&word).unwrap()
}

async fn until(host: &TestHost, id: &str, kind: &str) {
    eventually(&format!("{id} has {kind}"), async || {
        host.rows(id).await.iter().any(|row| row.kind == kind).then_some(())
    })
    .await;
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// Takes the rows of a run away from the first of a kind on.
async fn lose_from(connection: &mut PgConnection, id: &str, kind: i16) {
    let sql = format!(
        "delete from ledger l using runs r, (select run_id, min(seq) as seq from ledger where kind = {kind} group by run_id) f
         where r.workflow_id = '{id}' and l.run_id = r.run_id and f.run_id = r.run_id and l.seq >= f.seq"
    );
    execute(connection, &sql).await;
}

async fn lost_rows(connection: &mut PgConnection) -> i64 {
    count(connection, "select coalesce(sum(rows_committed - rows_kept), 0)::bigint from losses").await
}

const ACTIVITY_COMPLETED: i16 = 20;

#[tokio::test]
async fn a_run_whose_last_rows_are_gone_goes_on_from_what_is_left() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    for id in ["told", "found"] {
        host.start_run("deliberate", id, "null").await;
        host.client.signal(id, "word", &word("one")).await.unwrap();
        until(&host, id, "timer-fired").await;
        eventually("it waits again", async || {
            (host.rows(id).await.iter().filter(|row| row.kind == "signal-awaited").count() == 2).then_some(())
        })
        .await;
        lose_from(&mut connection, id, ACTIVITY_COMPLETED).await;
    }
    // The one hears of it by its next append.
    host.client.signal("told", "word", &word("two")).await.unwrap();
    assert!(host.output("told").await.contains(" two "), "{}", host.log());
    // The other has none: its host looks when its connection is gone.
    let writers = "select pg_terminate_backend(pid) from pg_stat_activity
                   where application_name = 'backstitch writer' and datname = current_database()";
    execute(&mut connection, writers).await;
    eventually("the host finds out", async || {
        (host.client.health().await.ok()?.runs_rewound == 2).then_some(())
    })
    .await;
    until(&host, "found", "timer-fired").await;
    host.client.signal("found", "word", &word("two")).await.unwrap();
    host.output("found").await;
    // Four rows each: the outcome, the sleep and its end, the wait.
    eventually("what is gone is noted down", async || (lost_rows(&mut connection).await == 8).then_some(()))
        .await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_timer_that_is_gone_is_set_again_by_the_host_that_owns_its_run_and_by_the_next_one() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    let asleep = r#"{"customer":"a@example.com","after":"3 seconds"}"#;
    dead.start_run("follow_up", "asleep", asleep).await;
    let bound = StartOptions { run_timeout_ms: Some(3_000), ..StartOptions::default() };
    let bounded = StartRun::new("collect", Some("bounded".to_owned()), Json::new("1").unwrap());
    dead.client.start(StartRun { options: bound, ..bounded }).await.unwrap();
    until(&dead, "asleep", "timer-started").await;
    dead.kill();
    execute(&mut connection, "delete from timers").await;
    let mut heir = TestHost::start(alert(&database)).await;
    assert!(heir.output("asleep").await.contains("mail-"));
    assert_eq!(heir.ended_run("bounded").await.status, RunStatus::TimedOut);

    heir.start_run("follow_up", "asleep again", asleep).await;
    until(&heir, "asleep again", "timer-started").await;
    execute(&mut connection, "delete from timers").await;
    assert!(heir.output("asleep again").await.contains("mail-"));
    assert!(heir.is_running());
    check_ledgers(&database).await;
}

#[tokio::test]
async fn what_follows_from_a_ledger_is_made_anew_when_its_run_is_taken_over_or_an_operator_asks() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("notebook", "noted", "2").await;
    dead.client.signal("noted", "note", &word("first")).await.unwrap();
    dead.start_run("awaits", "parent", r#""child""#).await;
    dead.start_run("queues", "calling", r#""x""#).await;
    dead.client.signal("parent/child", "go", &word("on")).await.unwrap();
    assert_eq!(dead.output("parent").await, "\"on\"");
    let known = "select count(*) from attributes where text is not null or flag is not null";
    let offered = "select count(*) from tasks";
    eventually("all of it is there", async || {
        let known = count(&mut connection, known).await == 3;
        let documents = count(&mut connection, "select count(*) from entities").await == 1;
        (known && documents && count(&mut connection, offered).await == 1).then_some(())
    })
    .await;
    dead.kill();
    // As if the parent had not heard of its child, and never would.
    execute(
        &mut connection,
        "delete from ledger where kind in (25, 40) and run_id = (select run_id from runs where workflow_id = 'parent');
         update runs set status = 1, closed_at = null, output = null, rows = null, chain = null where workflow_id = 'parent';
         delete from tasks; delete from entities; delete from attributes where name = 'latest';
         update attributes set text = 'wrong' where name = 'kind'",
    )
    .await;
    let heir = TestHost::start(options(&database)).await;
    assert_eq!(heir.output("parent").await, "\"on\"");
    let right = "select count(*) from attributes where name = 'kind' and text = 'notebook'
                                                    or name = 'latest' and text = 'first'";
    let mut mended = async |how: &str| {
        eventually(how, async || {
            let all = count(&mut connection, right).await == 2
                && count(&mut connection, "select count(*) from entities").await == 1
                && count(&mut connection, offered).await == 1;
            all.then_some(())
        })
        .await;
        execute(&mut connection, "delete from tasks; delete from entities; delete from attributes").await;
    };
    mended("the taker makes it anew").await;
    let said = heir.cli(&["doctor", "--repair", "--json"]).await;
    assert_eq!((said.code, said.stdout.contains("\"runs\": 2")), (0, true), "{said:?}");
    mended("the operator has it made anew").await;
    heir.client.pause("noted", "").await.unwrap();
    until(&heir, "noted", "run-paused").await;
    heir.client.pause("calling", "").await.unwrap();
    until(&heir, "calling", "run-paused").await;
    heir.client.resume("noted", "").await.unwrap();
    heir.client.resume("calling", "").await.unwrap();
    mended("a run that is resumed makes it anew").await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn every_kind_of_timer_that_is_gone_is_set_again_while_its_host_lives() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(alert(&database)).await;
    let collect = async |id: &str, options: StartOptions| {
        let start = StartRun::new("collect", Some(id.to_owned()), Json::new("1").unwrap());
        host.client.start(StartRun { options, ..start }).await.unwrap();
    };
    let terms = StartOptions::default;
    collect("bounded", StartOptions { run_timeout_ms: Some(3_000), ..terms() }).await;
    collect("held", StartOptions { execution_timeout_ms: Some(3_000), ..terms() }).await;
    collect("delayed", StartOptions { delay_ms: Some(3_000), ..terms() }).await;
    host.client.pause("held", "").await.unwrap();
    until(&host, "held", "run-paused").await;
    // An attempt that failed, of a call that is to be tried again later.
    host.start_run("queues", "retried", r#""x""#).await;
    let poll = PollTasks { wait_ms: 20_000, ..PollTasks::new("default") };
    let take = async || {
        eventually("there is a task", async || host.client.poll_tasks(&poll).await.unwrap().pop()).await
    };
    let task = take().await;
    let failure = TaskFailure { retry_after_ms: Some(3_000), ..TaskFailure::default() };
    host.client.answer_task(&AnswerTask::failed(&*task.token, failure)).await.unwrap();
    until(&host, "retried", "activity-attempt-failed").await;
    let there = "select count(*) from timers";
    eventually("all of them are set", async || (count(&mut connection, there).await == 4).then_some(()))
        .await;
    execute(&mut connection, "delete from timers").await;
    let again = take().await;
    assert_eq!(again.attempt, 2);
    host.client.answer_task(&AnswerTask::completed(&*again.token, word("done"))).await.unwrap();
    host.output("retried").await;
    assert_eq!(host.ended_run("bounded").await.status, RunStatus::TimedOut);
    let held =
        async || (host.client.run("held").await.unwrap().run.status == RunStatus::TimedOut).then_some(());
    eventually("the one that is held is over too", held).await;
    until(&host, "delayed", "signal-awaited").await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn what_has_closed_is_compared_with_its_ledger_when_an_operator_asks() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    for id in ["noted", "hurt"] {
        host.start_run("notebook", id, "1").await;
        host.client.signal(id, "note", &word("first")).await.unwrap();
        host.output(id).await;
    }
    host.start_run("awaits", "parent", r#""child""#).await;
    eventually("there is a child", async || host.client.signal("parent/child", "go", &word("on")).await.ok())
        .await;
    host.output("parent").await;
    let known = "select count(*) from runs r
                 join entities e using (run_id) join attributes a using (run_id)
                 where r.workflow_id = 'noted' and e.document::text like '%first%' and a.text = 'first'";
    eventually("what is known is there", async || (count(&mut connection, known).await == 1).then_some(()))
        .await;
    execute(
        &mut connection,
        "delete from entities; update attributes set text = 'wrong' where name = 'latest';
         delete from attributes where name = 'full';
         delete from ledger where seq = 1 and run_id = (select run_id from runs where workflow_id = 'hurt');
         insert into timers (shard, tenant, run_id, op, due_at, purpose)
         select 0, 1, run_id, 0, now(), 1 from runs where workflow_id = 'noted';
         insert into tasks (shard, tenant, run_id, op, seq, attempt, task_queue, name, priority, offered_at, lease)
         select 0, 1, run_id, 0, 1, 1, 'q', 'n', 3, now(),
                case when workflow_id = 'parent/child' then run_id end
         from runs where workflow_id in ('noted', 'parent/child');
         delete from ledger where kind in (25, 40) and run_id = (select run_id from runs where workflow_id = 'parent');
         update runs set status = 1, closed_at = null, output = null, rows = null, chain = null where workflow_id = 'parent'",
    )
    .await;
    let said = host.cli(&["doctor", "--repair", "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}\n{}", host.log());
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let numbers =
        ["runs", "closed", "amended", "leftovers", "damaged"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(numbers, [1, 3, 1, 2, 1], "{said:?}");
    assert_eq!(count(&mut connection, known).await, 1, "the entity and the attribute are right again");
    assert_eq!(count(&mut connection, "select count(*) from attributes where name = 'full'").await, 1);
    assert_eq!(count(&mut connection, "select count(*) from timers").await, 0);
    let left = "select count(*) from tasks where not given_up or lease is null";
    assert_eq!(count(&mut connection, left).await, 0, "who has a task is told, and the other is gone");
    assert_eq!(host.output("parent").await, "\"on\"", "an open run hears of a child that closed");

    // What is right is not written again, and who asks behind the last run asks for nothing.
    let page = host.client.repair_all(None).await.unwrap();
    assert_eq!((page.closed, page.amended, page.leftovers, page.next), (4, 0, 0, None), "{page:?}");
    let last = host.client.run("parent/child").await.unwrap().run.run_id;
    let page = host.client.repair_all(Some(last)).await.unwrap();
    assert_eq!((page.runs, page.closed), (0, 0), "{page:?}");
}

#[tokio::test]
async fn a_run_with_a_damaged_ledger_goes_on_from_its_sound_rows_as_another() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("deliberate", "hurt", "null").await;
    let sound = refusal(host.client.repair("hurt", &ResetRun::default()).await);
    assert_eq!(sound, (409, "ledger-sound".to_owned()));
    for said in ["one", "two"] {
        host.client.signal("hurt", "word", &word(said)).await.unwrap();
    }
    let before = host.ended_run("hurt").await;
    // A run that an older host had closed over a gap.
    let gap = "delete from ledger where kind = 20 and run_id = (select run_id from runs where workflow_id = 'hurt')";
    execute(&mut connection, gap).await;
    let said = host.cli(&["run", "repair", "hurt", "--to-seq", "9"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains("the last row to go on from is"), "{said:?}");
    let said = host.cli(&["run", "repair", "hurt", "--reason", "failover"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let after = host.ended_run("hurt").await;
    assert_eq!(after.status, RunStatus::Completed);
    assert_ne!(after.run_id, before.run_id);
    // It drew the same number, made the call again, and got both words.
    assert!(host.output("hurt").await.ends_with(&format!(" two {}\"", before.run_id)));
    execute(&mut connection, &format!("delete from ledger where run_id = '{}'", before.run_id)).await;
    execute(&mut connection, &format!("delete from runs where run_id = '{}'", before.run_id)).await;
    check_ledgers(&database).await;
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn hosts_of_a_database_that_was_put_back_to_an_earlier_state_finish_what_it_knows_without_a_gap() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let (home, kept) = (dir.path().join("pg"), dir.path().join("kept"));
    let server = || Cluster::start(ClusterOptions::new(&home)).unwrap();
    let cluster = server();
    let database = cluster.create_database("restored").await.unwrap();
    // A lease that outlives the restart, so that the same host goes on.
    let host = TestHost::start(HostOptions { lease_ms: "60000", ..options(&database) }).await;
    host.deploy(&["verbs-guest", "example-activities", "follow-up-workflow"]).await;
    let ids: Vec<String> = (0..12).map(|n| format!("run {n}")).collect();
    for id in &ids {
        host.start_run("deliberate", id, "null").await;
    }
    for id in &ids[..6] {
        host.client.signal(id, "word", &word("one")).await.unwrap();
        until(&host, id, "timer-started").await;
    }
    cluster.stop(true);
    copy(&home, &kept);
    let cluster = server();
    // All of this is lost: sleeps that end, words that are said, a run that begins.
    for id in &ids[..6] {
        until(&host, id, "timer-fired").await;
    }
    for id in &ids[6..] {
        eventually("it takes the word", async || host.client.signal(id, "word", &word("early")).await.ok())
            .await;
        until(&host, id, "timer-started").await;
    }
    host.start_run("deliberate", "unknown", "null").await;
    until(&host, "unknown", "signal-awaited").await;
    cluster.stop(false);
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::rename(&kept, &home).unwrap();

    let cluster = server();
    let mut connection = connect(&database).await;
    for id in &ids[6..] {
        eventually("it takes the word again", async || {
            host.client.signal(id, "word", &word("one")).await.ok()
        })
        .await;
    }
    for id in &ids {
        eventually("it takes the last word", async || {
            host.client.signal(id, "word", &word("two")).await.ok()
        })
        .await;
    }
    for id in &ids {
        let output = host.output(id).await;
        assert!(output.starts_with("\"one ") && output.contains(" two "), "{id}: {output}");
    }
    check_ledgers(&database).await;
    assert_eq!(count(&mut connection, "select count(*) from runs where workflow_id = 'unknown'").await, 0);
    eventually("what is gone is noted down", async || {
        let of_unknown = "select count(*) from losses where workflow_id = 'unknown' and rows_kept = 0";
        (count(&mut connection, of_unknown).await == 1).then_some(())
    })
    .await;
    drop(host);
    cluster.stop(false);
}
