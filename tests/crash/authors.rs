//! What authors build on top of commands, when the host dies in the middle of it: interceptors, hooks,
//! changes of code, loops that continue as new.

use backstitch_client::StartRun;
use backstitch_core::{Json, RunStatus};

use crate::load::{deployed_database, options};
use crate::support::{TestHost, check_ledgers, eventually};

/// A workflow and its input.
const CASES: [(&str, &str); 4] = [
    ("payment", r#"{"order_id":"o-1","customer":"ada@example.com","amount_cents":1990}"#),
    ("perspectives", r#""rain""#),
    ("changed", "null"),
    ("poll", r#"{"job_id":"job-5","every":"20ms","looks_per_run":2}"#),
];

/// What the last run of a workflow id came to, its own name left out.
async fn last(host: &TestHost, id: &str) -> String {
    eventually(&format!("{id} is over"), async || {
        let view = host.ended_run(id).await;
        assert!([RunStatus::Completed, RunStatus::Continued].contains(&view.status), "{view:#?}");
        view.output.map(|output| output.as_str().replace(&view.run_id.to_string(), "RUN"))
    })
    .await
}

#[tokio::test]
async fn what_authors_build_is_finished_by_the_next_host() {
    for point in
        ["append-after:3", "append-sent:5", "activation-middle:4", "activation-middle:7", "append-before:8"]
    {
        let database = deployed_database().await;
        let host = TestHost::start(options(&database)).await;
        host.deploy(&["payment-workflow", "perspectives-workflow", "poll-workflow"]).await;
        // What they come to when nothing happens to their host.
        let mut expected = Vec::new();
        for (workflow, input) in CASES {
            let id = host.start_run(workflow, &format!("quiet-{workflow}"), input).await;
            expected.push(last(&host, &id).await);
        }
        drop(host);
        let mut dying = TestHost::start(options(&database).crash(point)).await;
        for (workflow, input) in CASES {
            let start = StartRun::new(workflow, Some(workflow.to_owned()), Json::new(input).unwrap());
            // The host may die over it: the heir is asked again.
            let _ = dying.client.start(start).await;
        }
        dying.crashed().await;
        let heir = TestHost::start(options(&database)).await;
        for ((workflow, input), expected) in CASES.into_iter().zip(expected) {
            heir.start_run(workflow, workflow, input).await;
            assert_eq!(last(&heir, workflow).await, expected, "{workflow} with {point}");
        }
        check_ledgers(&database).await;
    }
}
