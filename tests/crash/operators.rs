//! What operators do to runs: hold them, begin another from an earlier row, or go back; and hosts that die
//! over it.

use backstitch_client::views::RunView;
use backstitch_client::{ForkRun, IdReuse, ResetRun, StartRun};
use backstitch_core::{Json, RunStatus, Seq};

use crate::load::{attempts, count, deployed_database, options};
use crate::support::{DEADLINE, TestHost, check_ledgers, connect, eventually};

fn word(word: &str) -> Json {
    Json::of(&word).unwrap()
}

/// The place of the first row of this kind.
async fn place(host: &TestHost, id: &str, kind: &str) -> Seq {
    let rows = host.rows(id).await;
    rows.iter().find(|row| row.kind == kind).unwrap_or_else(|| panic!("no {kind} in {rows:#?}")).seq
}

/// Waits until the run has a row of this kind.
async fn until(host: &TestHost, id: &str, kind: &str) {
    eventually(&format!("{id} has {kind}"), async || {
        host.rows(id).await.iter().any(|row| row.kind == kind).then_some(())
    })
    .await;
}

async fn closed(host: &TestHost, run: &RunView) -> RunView {
    host.client.handle(run.run_id).result(DEADLINE).await.unwrap()
}

#[tokio::test]
async fn a_paused_run_stands_still_on_every_host_until_it_is_resumed() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("deliberate", "held", "null").await;
    dead.client.signal("held", "word", &word("one")).await.unwrap();
    until(&dead, "held", "timer-started").await;
    dead.client.pause("held", "lunch").await.unwrap();
    until(&dead, "held", "run-paused").await;
    dead.client.signal("held", "word", &word("two")).await.unwrap();
    // What this one waits for comes while it is held.
    dead.start_run("deliberate", "deaf", "null").await;
    until(&dead, "deaf", "signal-awaited").await;
    dead.client.pause("deaf", "lunch").await.unwrap();
    until(&dead, "deaf", "run-paused").await;
    dead.client.signal("deaf", "word", &word("one")).await.unwrap();
    dead.kill();
    let mut second = TestHost::start(options(&database)).await;
    // Its sleep of a second is over by the clock of the database, and its second word is there.
    let over = "select count(*) from timers where due_at < now() and purpose = 1";
    eventually("the sleep is over", async || (count(&mut connection, over).await == 1).then_some(())).await;
    let read = "select count(*) from ledger where kind = 24";
    eventually("the words are there", async || (count(&mut connection, read).await == 3).then_some(())).await;
    assert_eq!(second.client.run("held").await.unwrap().run.status, RunStatus::Paused);
    // A pause is one pause, and a run that is not paused cannot be resumed.
    for id in ["held", "deaf"] {
        second.client.pause(id, "again").await.unwrap();
    }
    let unread = "select count(*) from inbox";
    eventually("nothing is unread", async || (count(&mut connection, unread).await == 0).then_some(())).await;
    let kinds: Vec<String> = second.rows("deaf").await.into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, ["run-started", "signal-awaited", "run-paused", "signal-received"]);
    assert_eq!(second.cli(&["run", "resume", "held", "--reason", "back"]).await.code, 0);
    until(&second, "held", "run-resumed").await;
    second.kill();
    let heir = TestHost::start(options(&database)).await;
    let output = heir.output("held").await;
    assert!(output.contains(" two "), "{output}");
    let kinds: Vec<String> = heir.rows("held").await.into_iter().map(|row| row.kind).collect();
    let (paused, resumed) = (&kinds.iter().position(|kind| kind == "run-paused"), "run-resumed");
    let resumed = kinds.iter().position(|kind| kind == resumed).unwrap();
    let between: Vec<&str> = kinds[paused.unwrap() + 1..resumed].iter().map(String::as_str).collect();
    assert_eq!(between, ["signal-received"], "{kinds:?}");
    heir.client.resume("deaf", "").await.unwrap();
    heir.client.signal("deaf", "word", &word("two")).await.unwrap();
    assert!(heir.output("deaf").await.contains(" two "));
    let error = heir.client.resume("held", "").await.unwrap_err();
    assert_eq!(error.code(), Some("run-closed"));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn attempts_wait_while_their_run_is_paused() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("order_workflow", "held", crate::load::order!("LEG-4474")).await;
    // It fails once, and is tried again later.
    let failed = "select count(*) from ledger where kind = 22";
    eventually("an attempt fails", async || (count(&mut connection, failed).await == 1).then_some(())).await;
    host.client.pause("held", "").await.unwrap();
    eventually("it is held or over", async || {
        (host.client.run("held").await.ok()?.run.status != RunStatus::Running).then_some(())
    })
    .await;
    let status = host.client.run("held").await.unwrap().run.status;
    let before = attempts(&host).len();
    if status == RunStatus::Paused {
        let due = "select count(*) from timers where due_at < now()";
        let tried_again = "select count(*) from ledger where kind in (20, 22) and attempt > 1";
        eventually("its time has come", async || {
            (count(&mut connection, due).await == 1 || count(&mut connection, tried_again).await == 1)
                .then_some(())
        })
        .await;
        assert!(attempts(&host).len() <= before + 1, "an attempt began that was not under way");
        host.client.resume("held", "").await.unwrap();
    }
    assert!(host.output("held").await.contains("reserved"));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_fork_repeats_the_rows_it_was_given_and_goes_its_own_way() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("deliberate", "original", "null").await;
    host.client.signal("original", "word", &word("one")).await.unwrap();
    until(&host, "original", "timer-started").await;
    host.client.signal("original", "word", &word("two")).await.unwrap();
    let output = host.output("original").await;
    let original = host.client.run("original").await.unwrap().run;
    assert!(output.ends_with(&format!(" two {}\"", original.run_id)), "{output}");

    // Before the call: it is made again, under the fork's own key. After the sleep began: its time is past.
    let places = [("activity-scheduled", "call"), ("timer-started", "sleep"), ("run-started", "start")];
    for (kind, id) in places {
        let at_seq = place(&host, "original", kind).await;
        let fork = ForkRun { at_seq, workflow_id: Some(id.into()), deployed: false };
        let begun = host.client.fork("original", &fork).await.unwrap();
        assert!(begun.created && begun.run.workflow_id == id, "{begun:#?}");
        host.kill();
        host = TestHost::start(options(&database)).await;
        if kind == "run-started" {
            host.client.signal(id, "word", &word("one")).await.unwrap();
        }
        host.client.signal(id, "word", &word("three")).await.unwrap();
        assert_eq!(host.output(id).await, output.replace(" two ", " three "), "{id}");
    }
    let calls: Vec<String> = attempts(&host).into_iter().map(|attempt| attempt.call.0).collect();
    assert!(calls.iter().all(|run| *run != original.run_id.to_string()), "the original's call is made again");
    let rows = host.rows("call").await;
    assert!(
        rows[0].detail.as_ref().unwrap().as_str().contains(&original.run_id.to_string()),
        "{:?}",
        rows[0]
    );

    // What cannot be: a row that is not there, one that closes, a name that is taken.
    let last = Seq(u32::try_from(host.rows("original").await.len()).unwrap() - 1);
    for (at_seq, id, code) in [
        (Seq(last.0 + 1), None, "no-such-row"),
        (last, None, "no-such-row"),
        (Seq(0), Some("call".to_owned()), "workflow-id-taken"),
    ] {
        let fork = ForkRun { at_seq, workflow_id: id, deployed: false };
        let error = host.client.fork("original", &fork).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
    }
    assert_eq!(count(&mut connection, "select count(*) from runs").await, 4);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn every_run_draws_from_bytes_of_its_own() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("feed_child", "feeds", "3").await;
    host.output("feeds").await;
    let at_seq = place(&host, "feeds", "child-started").await;
    let fork = ForkRun { at_seq, workflow_id: Some("feeds-again".into()), deployed: true };
    host.client.fork("feeds", &fork).await.unwrap();
    host.output("feeds-again").await;
    let (original, forked) = (host.seeds("feeds").await, host.seeds("feeds-again").await);
    assert_eq!((original.len(), original[0].0, forked.len()), (1, 0, 2), "{original:?} {forked:?}");
    assert_eq!((&forked[0], forked[1].0), (&original[0], u64::from(at_seq.0) + 1));
    let mut seeds = vec![forked[1].1.clone()];
    for id in ["feeds", "feeds-again"] {
        for child in host.client.children(id).await.unwrap() {
            seeds.push(host.seeds(&child.run_id.to_string()).await[0].1.clone());
        }
    }
    seeds.push(original[0].1.clone());
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4, "two runs, and a child of each");
    assert!(seeds.iter().all(|seed| seed.len() == 64), "{seeds:?}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_fork_has_children_of_its_own() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("feed_child", "feeds", "3").await;
    assert_eq!(host.output("feeds").await, "[0,1,2]");
    // The child is started and nothing is sent yet: the fork's child has to be fed by the fork.
    let at_seq = place(&host, "feeds", "child-started").await;
    let fork = ForkRun { at_seq, workflow_id: Some("feeds-again".into()), deployed: true };
    let begun = host.client.fork("feeds", &fork).await.unwrap();
    host.kill();
    let heir = TestHost::start(options(&database)).await;
    assert_eq!(heir.output("feeds-again").await, "[0,1,2]");
    let children = heir.client.children(&begun.run.run_id.to_string()).await.unwrap();
    assert_eq!(children.len(), 1, "{children:#?}");
    assert_eq!(children[0].status, RunStatus::Completed);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_reset_stops_the_run_and_goes_on_from_an_earlier_row() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("deliberate", "again", "null").await;
    // In this order: the row of the wait is below that of the word.
    until(&host, "again", "signal-awaited").await;
    host.client.signal("again", "word", &word("one")).await.unwrap();
    until(&host, "again", "timer-started").await;
    let first = host.client.run("again").await.unwrap().run;

    // To the first wait: the word that came later comes again.
    let to_seq = place(&host, "again", "signal-awaited").await;
    let reset = ResetRun { to_seq: Some(to_seq), reason: "a typo".into(), ..ResetRun::default() };
    let second = host.client.reset("again", &reset).await.unwrap().run;
    host.kill();
    host = TestHost::start(options(&database)).await;
    assert_eq!((second.generation, &*second.workflow_id), (1, "again"));
    let stopped = closed(&host, &first).await;
    assert_eq!(stopped.status, RunStatus::Terminated);
    assert_eq!(stopped.failure.unwrap().message, format!("reset to row {to_seq}: a typo"));
    host.client.signal("again", "word", &word("two")).await.unwrap();
    let output = closed(&host, &second).await.output.unwrap();
    assert!(output.as_str().contains("one ") && output.as_str().contains(" two "), "{output}");

    // A run that has closed is reset as well, and signals may be left behind.
    let said = host.cli(&["run", "reset", "again", "--to-seq", &to_seq.to_string(), "--drop-signals"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for text in ["three", "four"] {
        host.client.signal("again", "word", &word(text)).await.unwrap();
    }
    let output = host.output("again").await;
    assert!(output.contains("three ") && output.contains(" four "), "{output}");
    assert_eq!(host.client.run("again").await.unwrap().run.generation, 2);

    // Not while a later run of the workflow id is open: two would answer to one name.
    let start = StartRun::new("deliberate", Some("again".into()), Json::null());
    host.client.start(StartRun { reuse: IdReuse::AllowClosed, ..start }).await.unwrap();
    let error = host.client.reset(&first.run_id.to_string(), &reset).await.unwrap_err();
    assert_eq!(error.code(), Some("later-run-open"), "{error}");
    check_ledgers(&database).await;
}
