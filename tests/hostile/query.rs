//! Questions to runs: answered in every state of a run, without a trace, and whatever a guest does
//! over one is told to whoever asked and to nobody else.

use std::time::Duration;

use backstitch::cli::exit::Exit;
use backstitch_client::{ClientError, SendUpdate};
use backstitch_core::{Json, RunStatus};
use futures::future::join_all;

use crate::program::{Said, rows_of_tables, tell};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, database, eventually};

const REQUEST: &str =
    r#"{"subject":"a desk","requester":"ada@example.com","manager":"grace@example.com","timeout":"3 days"}"#;

/// Asks for people and for programs; the text and the error's code.
async fn ask(host: &TestHost, id: &str, args: &[&str], exit: Exit) -> (Said, Option<String>) {
    let line = [&["run", "query", id], args].concat();
    let said = tell(host, &line).await.exits(exit);
    let documented = tell(host, &[&line[..], &["--json"]].concat()).await.exits(exit);
    if exit == Exit::Ok {
        let document = documented.json();
        assert_eq!(document["query"], args[0]);
        assert_eq!(said.stderr, "", "{line:?}");
        return (said, None);
    }
    assert_eq!(said.stdout, "", "{line:?}");
    let error = documented.error();
    assert_eq!(error["exit"], exit.code(), "{line:?}: {error}");
    (said, Some(error["code"].as_str().unwrap().to_owned()))
}

async fn answer(host: &TestHost, id: &str, name: &str) -> String {
    ask(host, id, &[name], Exit::Ok).await.0.stdout.trim_end().to_owned()
}

#[tokio::test]
async fn a_run_is_asked_while_it_waits_after_its_host_died_and_when_it_has_ended() {
    let database = database().await;
    let guests = ["approval-workflow", "example-activities", "bare-workflow"];
    let mut host = TestHost::with(&database, &guests).await;
    let approvals = ["approved", "cancelled", "terminated"];
    for id in approvals {
        host.start_run("approval", id, REQUEST).await;
    }
    host.start_run("two_steps", "bare", "\"said twice\"").await;
    host.output("bare").await;
    let waiting = "\"waiting for the manager\"";
    for id in approvals {
        waits(&host, id).await;
    }
    for id in approvals {
        let before = rows_of_tables(&database).await;
        assert_eq!(answer(&host, id, "state").await, waiting);
        assert_eq!(rows_of_tables(&database).await, before);
    }
    // A guest without an SDK keeps its state in its own way.
    assert_eq!(answer(&host, "bare", "step").await, "null");

    host.kill();
    let host = TestHost::start(HostOptions::new(&database)).await;
    for id in approvals {
        assert_eq!(answer(&host, id, "state").await, waiting);
    }
    let approval = Json::new(r#"{"approved":true}"#).unwrap();
    host.client.signal("approved", "manager-approval", &approval).await.unwrap();
    host.client.cancel("cancelled", "no longer wanted").await.unwrap();
    host.client.terminate("terminated", "out of patience").await.unwrap();
    for (id, status, state) in [
        ("approved", RunStatus::Completed, "\"approved\""),
        ("cancelled", RunStatus::Cancelled, waiting),
        ("terminated", RunStatus::Terminated, waiting),
    ] {
        let rows = host.ended_run(id).await;
        assert_eq!(rows.status, status, "{rows:#?}");
        assert_eq!(answer(&host, id, "state").await, state, "{id}");
        let view = host.client.query(id, "state", &Json::null()).await.unwrap();
        assert_eq!((view.run_id, view.rows as usize), (rows.run_id, host.rows(id).await.len()));
    }
    check_ledgers(&database).await;
}

async fn waits(host: &TestHost, id: &str) {
    eventually("the run waits for its manager", async || {
        let waits_for = host.client.run(id).await.unwrap().waits_for;
        waits_for.iter().any(|wait| wait.kind == "signal").then_some(())
    })
    .await;
}

/// Of a run of `hostile-guest`: the question, how it ends, the code, and words of the message.
const QUESTIONS: [(&str, Exit, &str, &str); 5] = [
    ("command", Exit::Faulted, "query-faulted", "sleep 1 ms: a command where only reading is allowed"),
    ("loop", Exit::Faulted, "query-faulted", "used up its units of fuel"),
    ("panic", Exit::Faulted, "query-faulted", "a panic in a query"),
    ("invalid-json", Exit::Faulted, "query-faulted", "the query's output: not JSON"),
    ("nobody-knows", Exit::NotFound, "unknown-query", "its component describes none"),
];

/// Questions at once, several times as many as are worked on at once.
const CROWD: usize = 24;

/// Threads of a process. Those that computed for somebody are still there for a while.
fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[tokio::test]
async fn a_question_that_breaks_its_guest_is_told_and_does_no_harm() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest", "approval-workflow"]).await;
    host.start_run("waits_for_ever", "waits", "1").await;
    eventually("the run waits", async || (host.rows("waits").await.len() == 2).then_some(())).await;
    // Nobody serves its first activity: it has shown nothing yet.
    host.start_run("approval", "early", REQUEST).await;
    eventually("it has called it", async || (host.rows("early").await.len() == 2).then_some(())).await;
    let before = rows_of_tables(&database).await;

    for (name, exit, code, words) in QUESTIONS {
        let (said, found) = ask(&host, "waits", &[name], exit).await;
        assert_eq!(found.as_deref(), Some(code), "{name}: {said:?}");
        assert!(said.stderr.contains(words), "{name}: {said:?}");
    }
    let (said, code) = ask(&host, "early", &["stat"], Exit::NotFound).await;
    assert!(code.as_deref() == Some("unknown-query") && said.stderr.contains("describes: state"), "{said:?}");
    let (said, code) = ask(&host, "early", &["state"], Exit::Invalid).await;
    assert!(code.as_deref() == Some("query-failed"), "{said:?}");
    assert!(said.stderr.contains("nothing has been shown as `state`"), "{said:?}");
    let long = "q".repeat(257);
    for (args, exit, code) in [
        (["waits", long.as_str(), "1"], Exit::Invalid, "invalid-name"),
        (["waits", "ok", "{bad"], Exit::Invalid, "input-invalid"),
        (["nobody", "ok", "1"], Exit::NotFound, "unknown-run"),
    ] {
        assert_eq!(ask(&host, args[0], &args[1..], exit).await.1.as_deref(), Some(code), "{args:?}");
    }

    // The host has its hands full, but not more than full, and goes on.
    let (nothing, threads) = (Json::null(), threads(host.pid()));
    let spins = join_all((0..CROWD).map(|_| host.client.query("waits", "loop", &nothing))).await;
    for spin in spins {
        assert_eq!(spin.unwrap_err().code(), Some("query-faulted"));
    }
    let more = self::threads(host.pid()).saturating_sub(threads);
    assert!(more < CROWD / 2, "{more} more threads");
    let odd = r#"{"b":1.0,"a":[ ],"a":1e400,"s":"\ud800"}"#;
    let said = tell(&host, &["run", "query", "waits", "echo", odd]).await.exits(Exit::Ok);
    assert_eq!((said.stdout.trim_end(), said.stderr.as_str()), (odd, ""));
    let json = tell(&host, &["run", "query", "waits", "echo", odd, "--json"]).await.exits(Exit::Ok);
    assert!(json.stdout.contains(&format!("\"output\": {odd}")), "{json:?}");
    assert_eq!(rows_of_tables(&database).await, before);
    for id in ["waits", "early"] {
        assert_eq!(host.client.run(id).await.unwrap().run.status, RunStatus::Running);
    }
    assert!(!host.log().contains("ERROR"), "{}", host.log());
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_led_along_its_ledger_says_why_it_does_not_answer() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    for (id, workflow, ends) in [
        ("panics", "panics", RunStatus::Parked),
        ("nondeterministic", "nondeterministic", RunStatus::Completed),
        ("cut", "nondeterministic", RunStatus::Completed),
    ] {
        host.start_run(workflow, id, "1").await;
        assert_eq!(host.ended_run(id).await.status, ends);
    }
    host.start_run("waits_for_ever", "damaged", "1").await;
    eventually("the run waits", async || (host.rows("damaged").await.len() == 2).then_some(())).await;
    let mut connection = connect(&database).await;
    for edit in [
        "update ledger set name = 'another' where shard = 0 and seq = 1 and run_id =
             (select run_id from runs where shard = 0 and workflow_id = 'damaged')",
        "delete from ledger where shard = 0 and (run_id, seq) =
             (select run_id, rows - 1 from runs where shard = 0 and workflow_id = 'cut')",
    ] {
        assert_eq!(sqlx::query(edit).execute(&mut connection).await.unwrap().rows_affected(), 1);
    }
    for (id, exit, code, words) in [
        ("panics", Exit::Faulted, "run-faulted", "misdeeds.rs:"),
        ("nondeterministic", Exit::Diverged, "run-diverged", "the ledger holds sleep 50 ms"),
        ("damaged", Exit::Faulted, "ledger-damaged", "row 1 does not match its checksum"),
        ("cut", Exit::Faulted, "ledger-damaged", "closed with"),
    ] {
        let (said, found) = ask(&host, id, &["ok"], exit).await;
        assert_eq!(found.as_deref(), Some(code), "{said:?}");
        assert!(said.stderr.contains(words), "{id}: {said:?}");
    }
}

#[tokio::test]
async fn a_validator_that_computes_for_ever_is_ended_and_its_run_has_heard_nothing() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database).arg("--event-ms-max").arg("10")).await;
    host.deploy(&["hostile-guest"]).await;
    let id = host.start_run("waits_for_ever", "validated", "1").await;
    waits(&host, &id).await;
    let before = rows_of_tables(&database).await;
    let update = |name: &str| SendUpdate {
        name: name.to_owned(),
        input: Json::null(),
        id: Some(format!("{name}-1")),
        wait: Duration::ZERO,
    };
    match host.client.update(&id, update("loop")).await.unwrap_err() {
        ClientError::Problem { status, code, detail, .. } => {
            assert_eq!((status, code.as_str()), (409, "query-faulted"), "{detail}");
            // Whichever it meets first, as in any question.
            let ended = ["computed for more than 10 ms over one event", "used up its units of fuel"];
            assert!(ended.iter().any(|how| detail.contains(how)), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rows_of_tables(&database).await, before);
    // The guest that was asked was another one: the run goes on, and takes what its validator takes.
    assert!(!host.client.update(&id, update("ok")).await.unwrap().answered);
    eventually("the update is heard", async || {
        host.rows(&id).await.iter().any(|row| row.kind == "signal-received").then_some(())
    })
    .await;
    assert_eq!(host.client.run(&id).await.unwrap().run.status, RunStatus::Running);
    check_ledgers(&database).await;
}
