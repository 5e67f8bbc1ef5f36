//! Runs that wait when their host dies: for a time, for the next attempt, for an operator, for a child.

use std::collections::BTreeSet;

use backstitch_core::RunStatus;

use crate::load::{ASKED, approve, attempts, check_attempts, count, deployed_database, options, order};
use crate::support::{TestHost, check_ledgers, connect, eventually};

#[tokio::test]
async fn a_sleep_outlives_its_host() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("follow_up", "asleep", r#"{"customer":"a@example.com","after":"2 seconds"}"#).await;
    let timers = "select count(*) from timers";
    eventually("the timer is set", async || (count(&mut connection, timers).await == 1).then_some(())).await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    assert!(heir.output("asleep").await.starts_with("\"mail-"));
    let early = "select count(*) from ledger fired join ledger started using (run_id, op)
                 where fired.kind = 23 and started.kind = 3 and fired.at < started.at + interval '2 seconds'";
    assert_eq!(count(&mut connection, early).await, 0);
    let fired = "select count(*) from ledger where kind = 23";
    assert_eq!(count(&mut connection, fired).await, 1);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_retry_outlives_its_host() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    // Between two attempts there is a timer, and nothing runs. The pause is short, so look until it is hit.
    let mut caught = None;
    for number in 0.. {
        let id = dead.start_run("order_workflow", &format!("order-{number}"), order!("LEG-3374")).await;
        let failed = "select count(*) from timers";
        let ended = async |id: &str| dead.client.run(id).await.unwrap().run.status != RunStatus::Running;
        let hit = eventually("an attempt fails", async || match count(&mut connection, failed).await {
            0 if ended(&id).await => Some(false),
            0 => None,
            _ => Some(true),
        })
        .await;
        dead.signal("-STOP");
        if hit && count(&mut connection, failed).await == 1 {
            caught = Some(id);
            break;
        }
        dead.signal("-CONT");
        dead.output(&id).await;
    }
    let id = caught.unwrap();
    let made = attempts(&dead).len();
    let begun: BTreeSet<_> = crate::load::done(&mut connection).await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    assert!(heir.output(&id).await.contains("reserved"));
    let rows = heir.rows(&id).await;
    let tries: Vec<_> = rows
        .iter()
        .filter(|row| row.op.is_some_and(|op| op.0 == 2))
        .map(|row| (&*row.kind, row.attempt))
        .collect();
    assert_eq!(
        tries,
        [
            ("activity-scheduled", None),
            ("activity-attempt-failed", Some(1)),
            ("activity-attempt-failed", Some(2)),
            ("activity-completed", Some(3)),
        ],
        "{made} attempts were made before"
    );
    assert!(attempts(&heir).iter().all(|attempt| attempt.attempt > 1), "a failed attempt is made again");
    check_attempts(&database, &[(&dead, BTreeSet::new()), (&heir, begun)]).await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_parked_run_stays_parked_until_somebody_retries_it() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("panics", "panics", "null").await;
    dead.start_run("approval", "damaged", ASKED).await;
    let fault = dead.ended_run("panics").await.fault.unwrap();
    let sent = "select count(*) from ledger where kind = 20";
    eventually("the letter is sent", async || (count(&mut connection, sent).await == 1).then_some(())).await;
    dead.kill();
    // A hand in the table: the ledger of the other run no longer adds up, so its heir parks it.
    let write = async |name: &str| {
        let edit = "update ledger set name = $1 where kind = 2 and op = 0 and run_id = (select run_id from runs where workflow_id = 'damaged')";
        sqlx::query(edit).bind(name).execute(&mut connect(&database).await).await.unwrap();
    };
    write("send_male").await;

    let mut second = TestHost::start(options(&database)).await;
    let damage = second.ended_run("damaged").await;
    assert_eq!(damage.status, RunStatus::Parked, "{damage:#?}");
    second.kill();
    let third = TestHost::start(options(&database)).await;
    let moved =
        "select count(*) from runs join leases on owner = host_id where not leases.dead and status = 2";
    let overdue = "select count(*) from leases where not dead and heartbeat_at + lease_ms * interval '1 millisecond' < now()";
    eventually("both have moved", async || {
        (count(&mut connection, moved).await == 2
            && count(&mut connection, overdue).await == 0
            && third.client.health().await.ok()?.runs_taken_over == 2)
            .then_some(())
    })
    .await;
    let view = third.client.run("panics").await.unwrap().run;
    assert_eq!((view.status, view.fault), (RunStatus::Parked, Some(fault)));
    let view = third.client.run("damaged").await.unwrap().run;
    assert_eq!((view.status, view.fault), (RunStatus::Parked, damage.fault));

    write("send_mail").await;
    third.client.retry("damaged").await.unwrap();
    approve(&third, "damaged").await.unwrap();
    eventually("the run goes on", async || {
        (third.client.run("damaged").await.unwrap().run.status == RunStatus::Completed).then_some(())
    })
    .await;
    // The other one does again what it did before, and says so.
    third.client.retry("panics").await.unwrap();
    let unread = "select count(*) from inbox";
    eventually("the retry is taken", async || (count(&mut connection, unread).await == 0).then_some(()))
        .await;
    eventually("it is parked again", async || {
        (third.client.run("panics").await.unwrap().run.status == RunStatus::Parked).then_some(())
    })
    .await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_child_that_could_not_be_started_is_known_after_a_crash() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let first = TestHost::start(options(&database)).await;
    let order = r#"{"order_id":"x","sku":"SKU-1","quantity":1}"#;
    first.start_run("validate_order", "validate-x", order).await;
    first.output("validate-x").await;
    drop(first);
    // The id of the child is taken. Its host dies between the row of the start and that of the refusal.
    let mut dead = TestHost::start(options(&database).crash("append-after:2")).await;
    dead.start_run("validate_batch", "batch", &format!("[{order}]")).await;
    dead.crashed().await;
    let (commanded, refused) =
        ("select count(*) from ledger where kind = 5", "select count(*) from ledger where kind in (25, 26)");
    assert_eq!((count(&mut connection, commanded).await, count(&mut connection, refused).await), (1, 0));
    let heir = TestHost::start(options(&database)).await;
    assert_eq!(heir.output("batch").await, r#"{"valid":[],"refused":[["x","workflow-id-taken"]]}"#);
    check_ledgers(&database).await;
}
