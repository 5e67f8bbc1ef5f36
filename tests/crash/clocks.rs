//! Hosts whose machines have other times than the database: runs, timers, messages and schedules have the database's.

use std::path::PathBuf;

use backstitch_client::StartRun;
use backstitch_client::schedules::CreateSchedule;
use backstitch_core::Json;
use backstitch_core::schedule::{Every, Policy, Spec, Terms, What, When};
use sqlx::PgConnection;

use crate::load::{deployed_database, options, owner};
use crate::support::{HostOptions, PROGRAM, TestHost, check_ledgers, connect, eventually};

/// A file that says by how much a clock is wrong.
struct Skew {
    dir: tempfile::TempDir,
}

impl Skew {
    fn of(ms: i64) -> Self {
        let skew = Self { dir: tempfile::tempdir().unwrap() };
        skew.set(ms);
        skew
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("skew")
    }

    fn set(&self, ms: i64) {
        // Whole or not at all.
        let new = self.dir.path().join("new");
        std::fs::write(&new, ms.to_string()).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }
}

const MINUTE_MS: i64 = 60_000;

/// The database's time.
async fn now_ms(connection: &mut PgConnection) -> i64 {
    let now = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    sqlx::query_scalar(now).fetch_one(connection).await.unwrap()
}

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[tokio::test]
async fn a_clock_that_is_minutes_off_leaves_nothing_of_it_in_a_run() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    for skew_ms in [4 * MINUTE_MS, -4 * MINUTE_MS] {
        let skew = Skew::of(skew_ms);
        let host = TestHost::start(options(&database).clock(skew.file())).await;
        let begun_ms = now_ms(&mut connection).await;
        let id = format!("asleep {skew_ms}");
        host.start_run("follow_up", &id, r#"{"customer":"a@example.com","after":"1s"}"#).await;
        host.output(&id).await;
        let ended_ms = now_ms(&mut connection).await;
        let rows = host.rows(&id).await;
        let times: Vec<i64> = rows.iter().map(|row| ms(&row.at)).collect();
        // A reading of the database's clock is as exact as its answer is quick.
        assert!(
            times.iter().all(|at| (begun_ms - 100..=ended_ms + 100).contains(at)),
            "{begun_ms} {times:?}"
        );
        let at = |kind: &str| ms(&rows.iter().find(|row| row.kind == kind).unwrap().at);
        assert!(at("timer-fired") - at("timer-started") >= 1_000, "it slept too short");
        let run = host.client.run(&id).await.unwrap().run;
        let born = run.run_id.0.get_timestamp().unwrap().to_unix();
        let born_ms = i64::try_from(born.0).unwrap() * 1_000 + i64::from(born.1 / 1_000_000);
        assert!((begun_ms - 100..=ended_ms + 100).contains(&born_ms), "the identity has another time");
        assert!(host.log().contains("clock differs from the database's"), "{}", host.log());
        assert!((host.client.ready().await.unwrap().clock_skew_ms - skew_ms).abs() < MINUTE_MS);
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_schedule_has_no_runs_of_times_that_are_not_yet() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let skew = Skew::of(4 * MINUTE_MS);
    let host = TestHost::start(options(&database).clock(skew.file())).await;
    let spec = Spec {
        what: What {
            workflow: "collect".into(),
            input: Json::new("0").unwrap(),
            id_prefix: None,
            terms: Terms::default(),
        },
        when: When { every: vec![Every { every_ms: 1_000, offset_ms: 0 }], ..When::default() },
        policy: Policy::default(),
    };
    let create = CreateSchedule { name: "early".to_owned(), spec, paused: false, note: String::new() };
    host.client.create_schedule(&create).await.unwrap();
    eventually("it starts runs", async || {
        (host.client.schedule("early").await.ok()?.started >= 3).then_some(())
    })
    .await;
    host.client.pause_schedule("early", "enough").await.unwrap();
    let now_ms = now_ms(&mut connection).await;
    let ids: Vec<String> =
        sqlx::query_scalar("select workflow_id from runs where starts_with(workflow_id, 'early:')")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(ids.len() >= 3);
    for id in ids {
        assert!(ms(id.strip_prefix("early:").unwrap()) <= now_ms + 100, "{id}");
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn signals_that_hosts_of_different_times_accept_keep_their_order() {
    let database = deployed_database().await;
    let (early, late) = (Skew::of(-2 * MINUTE_MS), Skew::of(2 * MINUTE_MS));
    let hosts = [
        TestHost::start(options(&database).clock(early.file())).await,
        TestHost::start(options(&database).clock(late.file())).await,
    ];
    let owning = TestHost::start(HostOptions { lease_ms: "600000", ..options(&database) }).await;
    owning.start_run("collect", "collects", "60").await;
    // Stopped, so that they meet in the inbox.
    owning.signal("-STOP");
    for number in 0..60_u64 {
        // The late one first: with the hosts' own times its signals would come last.
        let host = &hosts[usize::from(number % 2 == 0)];
        host.client.signal("collects", "item", &Json::new(number.to_string()).unwrap()).await.unwrap();
    }
    owning.signal("-CONT");
    let expected: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    assert_eq!(hosts[0].output("collects").await, format!("[{}]", expected.join(",")));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_host_whose_clock_is_an_hour_off_does_not_serve() {
    let database = deployed_database().await;
    let skew = Skew::of(60 * MINUTE_MS);
    let dir = tempfile::tempdir().unwrap();
    let mut serve = std::process::Command::new(PROGRAM);
    serve
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .env("DATABASE_URL", &database)
        .env("BACKSTITCH_CLOCK", skew.file());
    let said = tokio::task::spawn_blocking(move || serve.output().unwrap()).await.unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success(), "{text}");
    assert!(text.contains("ahead of the database's") && text.contains("NTP"), "{text}");
}

#[tokio::test]
async fn a_host_whose_clock_steps_an_hour_gives_its_runs_up_until_it_is_right() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let skew = Skew::of(0);
    let host = TestHost::start(options(&database).clock(skew.file())).await;
    host.start_run("collect", "waits", "1").await;
    let before = owner(&mut connection, "waits").await.unwrap();
    skew.set(60 * MINUTE_MS);
    eventually("it is not ready", async || {
        let problem = host.client.ready().await.err()?.to_string();
        problem.contains("ahead of the database's").then_some(())
    })
    .await;
    let heir = TestHost::start(options(&database)).await;
    eventually("its runs move", async || (owner(&mut connection, "waits").await? != before).then_some(()))
        .await;
    skew.set(0);
    eventually("it is ready again", async || host.client.ready().await.ok()).await;
    host.client.signal("waits", "item", &Json::new("7").unwrap()).await.unwrap();
    assert_eq!(heir.output("waits").await, "[7]");
    let rows = heir.rows("waits").await;
    let now_ms = now_ms(&mut connection).await;
    assert!(rows.iter().all(|row| ms(&row.at) <= now_ms + 100), "{rows:#?}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_delayed_start_whose_timer_fired_begins_although_the_clock_stepped_back() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    let mut start = StartRun::new("collect", Some("delayed".to_owned()), Json::new("0").unwrap());
    start.options.delay_ms = Some(3_600_000);
    host.client.start(start).await.unwrap();
    // As if the clock had been an hour ahead when the host looked, and had stepped back since.
    let early = "update timers set due_at = now() where purpose = 3";
    assert_eq!(sqlx::query(early).execute(&mut connection).await.unwrap().rows_affected(), 1);
    // What it sleeps for has it look.
    host.start_run("follow_up", "asleep", r#"{"customer":"a@example.com","after":"50ms"}"#).await;
    assert_eq!(host.output("delayed").await, "[]");
    check_ledgers(&database).await;
}
