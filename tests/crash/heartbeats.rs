//! Activities that send heartbeats, or fall silent, or ask for more time, when their host dies or their run is cancelled.

use std::time::Duration;

use backstitch_client::views::RowView;
use backstitch_core::RunStatus;

use crate::load::{attempts, count, deployed_database, options};
use crate::support::{TestHost, check_ledgers, component, connect, eventually};

const FAILED_ATTEMPTS: &str = "select count(*) from ledger where kind = 22";

/// What a row of a failed attempt says of the next one.
fn next(row: &RowView) -> serde_json::Value {
    serde_json::from_str(row.detail.as_ref().unwrap().as_str()).unwrap()
}

fn failed_attempts(rows: &[RowView]) -> Vec<&RowView> {
    rows.iter().filter(|row| row.kind == "activity-attempt-failed").collect()
}

#[tokio::test]
async fn what_a_silent_attempt_said_is_told_to_the_next_one_on_another_host() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("patient", "silent", r#""falls_silent""#).await;
    eventually("it is silent for too long", async || {
        (count(&mut connection, FAILED_ATTEMPTS).await == 1).then_some(())
    })
    .await;
    let waits = dead.client.run("silent").await.unwrap().waits_for;
    dead.kill();
    assert_eq!(attempts(&dead).len(), 1);
    let failed = "attempt 2 (1 failed, the last with heartbeat: the attempt gave no heartbeat for 300 ms)";
    assert!(waits[0].what.ends_with(failed), "{waits:?}");
    assert!(waits[0].due_at.is_some());

    let heir = TestHost::start(options(&database)).await;
    assert_eq!(heir.output("silent").await, r#""Some(17)""#);
    assert_eq!(attempts(&heir).iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [2]);
    let rows = heir.rows("silent").await;
    let [failed] = failed_attempts(&rows)[..] else { panic!("{rows:#?}") };
    assert_eq!(next(failed)["heartbeat"], 17);
    let failure = failed.payload.as_ref().unwrap().as_str();
    assert!(failure.contains(r#""timeout""#) && failure.contains(r#""heartbeat""#), "{failure}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_activity_hears_that_its_run_was_stopped_and_has_the_last_word() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let running = async |number: u64| {
        eventually("so many attempts run", async || {
            (host.client.health().await.ok()?.activities_running == number).then_some(())
        })
        .await;
    };
    let last_words = || host.log().matches(r#""code":"heard""#).count();
    host.start_run("patient", "cancelled", r#""until_told""#).await;
    running(1).await;
    host.client.cancel("cancelled", "enough").await.unwrap();
    assert_eq!(host.ended_run("cancelled").await.status, RunStatus::Cancelled);
    eventually("it hears of it", async || (last_words() == 1).then_some(())).await;
    running(0).await;

    host.start_run("patient", "terminated", r#""until_told""#).await;
    running(1).await;
    host.client.terminate("terminated", "enough").await.unwrap();
    assert_eq!(host.ended_run("terminated").await.status, RunStatus::Terminated);
    eventually("it hears of that, too", async || (last_words() == 2).then_some(())).await;
    running(0).await;
    // What it said then is nowhere but in the log.
    for id in ["cancelled", "terminated"] {
        let rows = host.rows(id).await;
        assert!(
            rows.iter().all(|row| !row.kind.starts_with("activity-") || row.kind == "activity-scheduled")
        );
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_activity_says_itself_when_it_is_tried_again() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("patient", "busy", r#""asks_for_patience""#).await;
    eventually("an attempt fails", async || {
        (count(&mut connection, FAILED_ATTEMPTS).await == 1).then_some(())
    })
    .await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    assert_eq!(heir.output("busy").await, r#""busy after 3 attempts""#);
    let rows = heir.rows("busy").await;
    let failed = failed_attempts(&rows);
    assert_eq!(failed.len(), 2, "{rows:#?}");
    for row in failed {
        let at = row.at.parse::<jiff::Timestamp>().unwrap();
        let retry_at_ms = next(row)["retry_at_ms"].as_i64().unwrap();
        let pause = Duration::from_millis(u64::try_from(retry_at_ms - at.as_millisecond()).unwrap());
        // The row is made a moment after the decision.
        assert!((Duration::from_millis(1_900)..=Duration::from_secs(2)).contains(&pause), "{pause:?}");
    }
    check_ledgers(&database).await;
}

#[test]
fn only_a_component_that_beats_imports_heartbeats() {
    let imports = |package: &str| {
        let component = component(package);
        component.windows(27).any(|bytes| bytes == b"backstitch:workflow/attempt")
    };
    assert!(imports("beating-activities"));
    assert!(!imports("example-activities"));
}
