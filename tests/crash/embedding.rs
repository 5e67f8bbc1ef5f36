//! A host inside another program, whose closures are activities: this test is that program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstitch::embed::Failure;
use backstitch::host::Host;
use backstitch_client::StartRun;
use backstitch_client::tasks::ListActivities;
use backstitch_core::{Json, Scope};
use tokio::sync::Notify;

use crate::load::{deployed_database, options};
use crate::support::{TestHost, check_ledgers, component, database};

fn start(workflow: &str, id: &str, input: &str) -> StartRun {
    StartRun::new(workflow, Some(id.to_owned()), Json::new(input).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_serves_the_activities_of_its_own_host() {
    let (database_url, workflows) = (database().await, component("verbs-guest"));
    // ANCHOR: embedded
    let host = Host::builder(database_url)
        .component(workflows)
        .worker(|worker| {
            worker.task_queue("outside").concurrency(8).activity("work", async |context, (n,): (u64,)| {
                if context.task.attempt == 1 && n == 3 {
                    return Err(Failure::retryable("busy", "try again"));
                }
                Ok(n * n)
            })
        })
        .start()
        .await
        .unwrap();
    let service = host.service();
    service.start(Scope::DEFAULT, start("outside", "squares", "10")).await.unwrap();
    let run = service.result(Scope::DEFAULT, "squares", Duration::from_secs(60)).await.unwrap();
    assert_eq!(run.output.unwrap().as_str(), "285");
    host.shutdown().await;
    // ANCHOR_END: embedded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_serves_runs_of_other_hosts_and_gives_back_what_it_has_not_done_when_it_stops() {
    let database = deployed_database().await;
    let other = TestHost::start(options(&database)).await;
    let begun = Arc::new((AtomicU64::new(0), Notify::new()));
    let embedded = async |answers: bool| {
        let begun = Arc::clone(&begun);
        let host = Host::builder(database.as_str()).worker(move |worker| {
            let worker = worker.task_queue("outside").grace(Duration::ZERO).lease(Duration::from_secs(600));
            worker.activity("work", move |_, (n,): (u64,)| {
                let begun = Arc::clone(&begun);
                async move {
                    begun.0.fetch_add(1, Ordering::Relaxed);
                    begun.1.notify_one();
                    if answers { Ok::<_, Failure>(n) } else { std::future::pending().await }
                }
            })
        });
        host.start().await.unwrap()
    };
    let stuck = embedded(false).await;
    other.start_run("outside", "sum", "5").await;
    while begun.0.load(Ordering::Relaxed) < 5 {
        begun.1.notified().await;
    }
    let leased = other.client.activities(&ListActivities::default()).await.unwrap().activities;
    assert!(leased.iter().all(|activity| activity.state == "leased"), "{leased:?}");
    stuck.shutdown().await;
    // Its leases would have ten minutes to go.
    let next = embedded(true).await;
    assert_eq!(other.output("sum").await, "10");
    let rows = other.rows("sum").await;
    assert!(rows.iter().all(|row| row.kind != "activity-attempt-failed"), "{rows:#?}");
    assert_eq!(begun.0.load(Ordering::Relaxed), 10);
    next.shutdown().await;
    check_ledgers(&database).await;
}
