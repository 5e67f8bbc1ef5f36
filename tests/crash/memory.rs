//! What runs know of themselves and are found by, when their host dies in between.

use backstitch_client::StartRun;
use backstitch_core::{Json, RunStatus};

use crate::load::{count, deployed_database, options};
use crate::support::{DEADLINE, TestHost, check_ledgers, connect, eventually};

#[tokio::test]
async fn an_entity_and_attributes_are_as_durable_as_the_edits_that_made_them() {
    const NOTES: u32 = 30;
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut host = TestHost::start(options(&database)).await;
    let start = StartRun::new("notebook", Some("notebook".into()), Json::new(NOTES.to_string()).unwrap());
    let first = host.client.start(start).await.unwrap();
    for number in 0..NOTES {
        if number % 10 == 5 {
            host.kill();
            host = TestHost::start(options(&database)).await;
        }
        host.client.signal("notebook", "note", &Json::of(&format!("n{number}")).unwrap()).await.unwrap();
    }
    let handle = host.client.handle(first.run.run_id);
    let last = handle.result(DEADLINE).await.unwrap();
    assert_eq!(last.status, RunStatus::Completed, "{last:#?}");
    let notes: Vec<String> = serde_json::from_str(last.output.unwrap().as_str()).unwrap();
    // One that comes for a run which has gone on as new is passed on, and may be overtaken.
    let mut sorted = notes.clone();
    sorted.sort_by_key(|note| note[1..].parse::<u32>().unwrap());
    assert_eq!(sorted, (0..NOTES).map(|number| format!("n{number}")).collect::<Vec<_>>());
    let known: (String, String) = sqlx::query_as(
        "select entity::text, attributes::text from run_memory
         where workflow_id = 'notebook' and status = 'completed'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let entity = serde_json::json!({ "count": NOTES, "notes": notes });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&known.0).unwrap(), entity);
    let attributes = serde_json::json!({ "full": true, "latest": notes.last() });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&known.1).unwrap(), attributes);
    let detail = host.client.run("notebook").await.unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(detail.entity.unwrap().as_str()).unwrap(), entity);
    let runs = "select count(*) from runs where workflow_id = 'notebook' and status = 14";
    assert!(count(&mut connection, runs).await >= 2, "it never went on as new");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_is_found_from_its_start_by_what_its_starter_said() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    let said = dead
        .cli(&[
            "run",
            "start",
            "collect",
            "1",
            "--id",
            "c",
            "--attribute",
            "customer=acme",
            "--attribute",
            "amount=12.5",
            "--attribute",
            "vip=true",
            "--attribute",
            "due=time:2026-12-24T18:00:00Z",
            "--attribute",
            "text=\"5\"",
            "--memo",
            r#"{"b":1,"a":[ ]}"#,
        ])
        .await;
    assert_eq!(said.code, 0, "{said:?}");
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    let known: String = sqlx::query_scalar("select attributes::text from run_memory where workflow_id = 'c'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let expected = serde_json::json!({
        "customer": "acme", "amount": 12.5, "vip": true, "due": "2026-12-24T18:00:00.000Z", "text": "5",
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&known).unwrap(), expected);
    let detail = heir.client.run("c").await.unwrap();
    assert!(detail.start.unwrap().as_str().contains(r#""memo":{"b":1,"a":[ ]}"#), "the memo keeps its bytes");
    eventually("the run is taken over", async || {
        (heir.client.health().await.ok()?.runs_taken_over == 1).then_some(())
    })
    .await;
    heir.client.signal("c", "item", &Json::new("7").unwrap()).await.unwrap();
    assert_eq!(heir.output("c").await, "[7]");
    check_ledgers(&database).await;
}
