//! Schedules on the command line and over HTTP: what is wrong is told with its own code and leaves nothing
//! behind, what is right can be looked at.

use backstitch::cli::exit::Exit;
use backstitch_client::schedules::{CreateSchedule, ReplaceSchedule};
use backstitch_core::Json;
use backstitch_core::schedule::{Every, Policy, Spec, Terms, What, When};
use serde_json::{Value, json};

use crate::program::{Said, rows_of_tables, tell};
use crate::support::{DEADLINE, TestHost, database, eventually};

/// A year in which nothing happens by itself.
const LATER: [&str; 2] = ["--start-at", "2999-01-01T00:00:00Z"];

/// A command with an error in it; words in `'…'` stay together. Exit code, code, and part of the message.
const MISTAKES: [(&str, Exit, &str, &str); 21] = [
    ("create new approval", Exit::Invalid, "invalid-times", "give it a cron expression or an interval"),
    ("create new approval --cron '0 9 * *'", Exit::Invalid, "invalid-cron", "write five fields"),
    (
        "create new approval --cron '0 9 * * 8'",
        Exit::Invalid,
        "invalid-cron",
        "must be in range 0..=7; found 8",
    ),
    ("create new approval --cron '0 0 30 2 *'", Exit::Invalid, "invalid-cron", "no day is ever such a day"),
    (
        "create new approval --cron '0 9 * * *' --time-zone Europe/Bärlin",
        Exit::Invalid,
        "unknown-time-zone",
        "such as Europe/Berlin",
    ),
    ("create new approval --every 0s", Exit::Invalid, "invalid-times", "it is 100 ms to 100 years"),
    ("create new approval --every 1s+1s", Exit::Invalid, "invalid-times", "less than the interval"),
    (
        "create new approval --every 1s --start-at 2026-01-02T00:00:00Z --end-at 2026-01-01T00:00:00Z",
        Exit::Invalid,
        "invalid-times",
        "ends before it starts",
    ),
    (
        "create new approval --every 1s --remaining-starts 0",
        Exit::Invalid,
        "invalid-policy",
        "no starts remain",
    ),
    ("create new approval --every 1s --priority 6", Exit::Invalid, "invalid-start", "1 is served first"),
    ("create new approval --every 1s --input x", Exit::Usage, "", "unexpected argument"),
    ("create new approval {bad --every 1s", Exit::Invalid, "input-invalid", "write JSON text"),
    ("create new nobody --every 1s", Exit::NotFound, "unknown-workflow", "deployed are: approval"),
    ("create taken approval --every 1s", Exit::Conflict, "schedule-exists", "choose another name"),
    ("update nobody --every 1s", Exit::NotFound, "unknown-schedule", "backstitch schedule list"),
    ("update taken --every 1ms", Exit::Invalid, "invalid-times", "it is 100 ms to 100 years"),
    ("show nobody", Exit::NotFound, "unknown-schedule", "backstitch schedule list"),
    ("pause nobody", Exit::NotFound, "unknown-schedule", "backstitch schedule list"),
    ("delete nobody", Exit::NotFound, "unknown-schedule", "backstitch schedule list"),
    (
        "backfill taken --from 2026-01-02T00:00:00Z --to 2026-01-01T00:00:00Z",
        Exit::Invalid,
        "invalid-backfill",
        "ends before it begins",
    ),
    (
        "backfill taken --from 2026-01-02T00:00:00Z --to 2998-01-01T00:00:00Z",
        Exit::Invalid,
        "invalid-backfill",
        "ends in the future",
    ),
];

fn words(line: &str) -> Vec<&str> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(index, part)| if index % 2 == 0 { part.split_whitespace().collect() } else { vec![part] })
        .collect()
}

async fn schedule(host: &TestHost, args: &[&str]) -> Said {
    tell(host, &[&["schedule"], args].concat()).await
}

/// A host that serves one workflow, with a schedule that does nothing for centuries.
async fn host_with_a_schedule(database: &str) -> TestHost {
    let host = TestHost::with(database, &["approval-workflow"]).await;
    let made = ["create", "taken", "approval", "1", "--every", "1h"];
    schedule(&host, &[&made[..], &LATER].concat()).await.exits(Exit::Ok);
    // The host has had its look at it: from here on the row stays as it is.
    eventually("the schedule is at rest", async || {
        let due: i64 = sqlx::query_scalar("select count(*) from schedules where due_at < now()")
            .fetch_one(&mut crate::support::connect(database).await)
            .await
            .unwrap();
        (due == 0).then_some(())
    })
    .await;
    host
}

#[tokio::test]
async fn a_schedule_that_cannot_be_is_told_and_leaves_nothing_behind() {
    let database = database().await;
    let host = host_with_a_schedule(&database).await;
    let before = (rows_of_tables(&database).await, text_of(&database).await);
    for (line, exit, code, message) in MISTAKES {
        let args = words(line);
        let said = schedule(&host, &args).await.exits(exit);
        assert!(said.stderr.contains(message) && said.stdout.is_empty(), "{line}: {said:?}");
        if exit != Exit::Usage {
            let error = schedule(&host, &[&args[..], &["--json"]].concat()).await.exits(exit).error();
            assert_eq!(error["code"], code, "{line}: {error:#}");
        }
    }
    assert_eq!((rows_of_tables(&database).await, text_of(&database).await), before);
}

async fn text_of(database: &str) -> String {
    sqlx::query_scalar("select string_agg(s::text, ' ' order by name) from schedules s")
        .fetch_one(&mut crate::support::connect(database).await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_request_about_schedules_with_an_error_has_its_own_problem() {
    let database = database().await;
    let host = host_with_a_schedule(&database).await;
    let before = text_of(&database).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let spec = json!({ "what": { "workflow": "approval" }, "when": { "every": [{ "every_ms": 1000 }] } });
    let misspelt = json!({ "what": { "workflow": "approval" }, "wen": {} });
    let unknown_overlap =
        json!({ "what": { "workflow": "approval" }, "when": {}, "policy": { "overlap": "x" } });
    let stale = json!({ "spec": spec, "spec_revision": "0" });
    let named = |name: &str, spec: &Value| json!({ "name": name, "spec": spec });
    let cases = [
        ("POST", "", named("new", &misspelt), 400, "invalid-body", "unknown field `wen`"),
        ("POST", "", named("new", &unknown_overlap), 400, "invalid-body", "unknown variant `x`"),
        ("POST", "", named("", &spec), 400, "invalid-name", "an empty schedule name"),
        ("POST", "", named(&"x".repeat(201), &spec), 400, "invalid-start", "the longest is 200"),
        ("POST", "", named("taken", &spec), 409, "schedule-exists", "choose another name"),
        ("POST", "", json!({ "spec": spec }), 400, "invalid-body", "missing field `name`"),
        ("PUT", "/nobody", json!({ "spec": spec }), 404, "unknown-schedule", "schedule list"),
        ("PUT", "/taken", stale, 409, "schedule-changed", "look at it again"),
        ("DELETE", "/nobody", Value::Null, 404, "unknown-schedule", "schedule list"),
        ("GET", "?limit=0", Value::Null, 400, "invalid-limit", "1 to 1000"),
        ("GET", "?limits=1", Value::Null, 400, "invalid-query", "unknown field `limits`"),
        ("PATCH", "/taken", Value::Null, 405, "method-not-allowed", "does not take PATCH"),
        ("POST", "/nobody/resume", json!({}), 404, "unknown-schedule", "schedule list"),
        ("POST", "/nobody/trigger", json!({}), 404, "unknown-schedule", "schedule list"),
        ("POST", "/taken/trigger", json!({ "overlap": "x" }), 400, "invalid-body", "unknown variant `x`"),
        ("POST", "/taken/backfill", json!({ "from_ms": 1 }), 400, "invalid-body", "missing field `to_ms`"),
    ];
    for (method, path, body, status, code, words) in cases {
        let url = format!("{}/v1/schedules{path}", host.url);
        let mut request = http.request(method.parse().unwrap(), url).timeout(DEADLINE);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let got = answer.status().as_u16();
        let document: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!((got, document["code"].as_str()), (status, Some(code)), "{method} {path}: {document:#}");
        assert!(document["detail"].as_str().unwrap().contains(words), "{method} {path}: {document:#}");
    }
    assert_eq!(text_of(&database).await, before);
}

#[tokio::test]
async fn a_schedule_is_made_looked_at_changed_and_forgotten() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow"]).await;
    let asked = r#"{"subject":"b","requester":"a@example.com","manager":"b@example.com","timeout":"1 hour"}"#;
    let create =
        ["create", "nightly", "approval", asked, "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin"];
    let made = schedule(&host, &[&create[..], &LATER].concat()).await.exits(Exit::Ok);
    assert_eq!(made.stdout, "nightly\n");
    assert!(made.stderr.contains("next time: 2999-01-01T01:30:00.000Z"), "{made:?}");
    let shown = schedule(&host, &["show", "nightly"]).await.exits(Exit::Ok).stdout;
    assert!(
        shown.contains("30 2 * * * (Europe/Berlin)") && shown.contains("2999-01-05T01:30:00.000Z"),
        "{shown}"
    );
    let listed = schedule(&host, &["list"]).await.exits(Exit::Ok).stdout;
    assert!(listed.contains("nightly") && listed.contains("active"), "{listed}");

    schedule(&host, &["pause", "nightly", "--reason", "holidays"]).await.exits(Exit::Ok);
    let paused = schedule(&host, &["show", "nightly", "--json"]).await.exits(Exit::Ok).json();
    assert_eq!((&paused["paused"]["note"], &paused["next_times"]), (&"holidays".into(), &json!([])));
    let triggered = schedule(&host, &["trigger", "nightly"]).await.exits(Exit::Ok).stdout;
    let run = eventually("the run is started", async || host.client.run(triggered.trim()).await.ok()).await;
    assert_eq!(run.input.unwrap().as_str(), asked, "the bytes are kept");
    assert!(triggered.starts_with("nightly:") && triggered.ends_with(":trigger\n"), "{triggered}");
    schedule(&host, &["resume", "nightly"]).await.exits(Exit::Ok);
    let resumed = schedule(&host, &["show", "nightly", "--json"]).await.exits(Exit::Ok).json();
    assert_eq!((&resumed["paused"], &resumed["started"]), (&Value::Null, &1.into()));
    assert_eq!(resumed["running"][0]["workflow_id"], triggered.trim());

    let update = ["update", "nightly", "--every", "1h+15m", "--overlap", "allow-all", "--json"];
    let changed = schedule(&host, &update).await.exits(Exit::Ok).json();
    assert_eq!(changed["next_times"][0], "2999-01-01T00:15:00.000Z");
    assert_eq!(changed["spec"]["what"], resumed["spec"]["what"]);
    let start =
        ["update", "nightly", "--start-at", "2026-01-01T00:00:00Z", "--end-at", "2026-01-01T03:00:00Z"];
    schedule(&host, &start).await.exits(Exit::Ok);
    let backfill = ["backfill", "nightly", "--from", "2026-01-01T00:15:00Z", "--to", "2026-01-01T01:15:00Z"];
    schedule(&host, &backfill).await.exits(Exit::Ok);
    for time in ["00:15", "01:15"] {
        let id = format!("nightly:2026-01-01T{time}:00.000Z");
        eventually("the backfill is made", async || host.client.run(&id).await.ok()).await;
    }
    let gone = schedule(&host, &["delete", "nightly"]).await.exits(Exit::Ok);
    assert!(gone.stdout.is_empty() && gone.stderr.contains("its runs go on"), "{gone:?}");
    let empty = schedule(&host, &["list", "--json"]).await.exits(Exit::Ok).json();
    assert_eq!(empty["schedules"], json!([]));
    assert!(host.client.run(triggered.trim()).await.is_ok());
}

/// A schedule of a time that comes in a moment, whose start then waits for ten minutes at least: so much jitter it has.
fn jittered(now_ms: u64) -> (CreateSchedule, u64) {
    const HOUR_MS: u64 = 3_600_000;
    let at_ms = now_ms + 1_000;
    let every = vec![Every { every_ms: HOUR_MS, offset_ms: at_ms % HOUR_MS }];
    let what = What {
        workflow: "approval".into(),
        input: Json::new("1").unwrap(),
        id_prefix: None,
        terms: Terms::default(),
    };
    let when = When { every, jitter_ms: HOUR_MS, ..When::default() };
    let spec = Spec { what, when, policy: Policy::default() };
    let is_late = |name: &String| spec.jitter_ms(name, at_ms, Some(at_ms + HOUR_MS)) > HOUR_MS / 6;
    let name = (0..).map(|n| format!("late-{n}")).find(is_late).unwrap();
    (CreateSchedule { name, spec, paused: false, note: String::new() }, at_ms)
}

#[tokio::test]
async fn an_update_does_not_lose_a_start_that_waits_for_its_jitter() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow"]).await;
    let (create, at_ms) = jittered(backstitch::ambient::wall_ms());
    let name = &create.name;
    host.client.create_schedule(&create).await.unwrap();
    eventually("its time comes", async || (backstitch::ambient::wall_ms() > at_ms + 100).then_some(())).await;
    let view = host.client.schedule(name).await.unwrap();
    assert_eq!((view.started, view.waiting), (0, 0), "it waits: {view:#?}");

    // From now on in a thousand years.
    let mut spec = view.spec;
    spec.when.start_at_ms =
        Some("2999-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64);
    spec.when.jitter_ms = 0;
    let replace = ReplaceSchedule { spec, spec_revision: Some(view.spec_revision) };
    host.client.replace_schedule(name, &replace).await.unwrap();
    let time = jiff::Timestamp::from_millisecond(at_ms as i64).unwrap();
    let id = format!("{name}:{time:.3}");
    let started = eventually("what was promised is started", async || {
        let view = host.client.schedule(name).await.ok()?;
        (view.started > 0).then_some(view)
    })
    .await;
    assert_eq!((started.started, started.waiting, started.missed), (1, 0, 0), "{started:#?}");
    assert_eq!(started.recent[0].workflow_id, id);
    assert!(started.next_times[0].starts_with("2999-"), "{started:#?}");
    assert_eq!(host.client.run(&id).await.unwrap().run.workflow_id, id);
}
