//! What a workflow gets of Rust's standard library where the world has nothing to offer.

use backstitch_client::views::ReplayVerdict;
use backstitch_core::{FaultKind, RunStatus};

use crate::support::{HostOptions, TestHost, database};

#[tokio::test]
async fn the_standard_library_does_what_the_specification_says() {
    let database = database().await;
    let start = async || TestHost::start(HostOptions::new(&database).arg("--check-activations")).await;
    let mut host = start().await;
    host.deploy(&["verbs-guest"]).await;
    let ask = async |host: &TestHost, what: &str, id: &str| {
        host.start_run("borrows", id, &format!("{what:?}")).await;
        host.ended_run(id).await
    };
    for what in ["thread", "file", "socket", "environment"] {
        let view = ask(&host, what, what).await;
        assert_eq!(view.output.unwrap().as_str(), r#""none""#, "{what}");
    }
    // The clock of the standard library is no clock: the run is parked, with the place in its code.
    for what in ["time", "instant"] {
        let view = ask(&host, what, what).await;
        assert_eq!(view.status, RunStatus::Parked, "{view:#?}");
        let fault = view.fault.unwrap();
        assert_eq!(fault.kind, FaultKind::Panic, "{fault:?}");
        assert!(fault.message.contains("time not implemented"), "{fault:?}");
    }
    // A set has one order in one build: from run to run, before and after a sleep, and on every replay.
    let order = ask(&host, "order", "one").await.output.unwrap();
    host.kill();
    let host = start().await;
    assert_eq!(ask(&host, "order", "two").await.output.unwrap().as_str(), order.as_str());
    for id in ["one", "two"] {
        let replayed = host.client.replay(id, None).await.unwrap();
        assert!(matches!(replayed.verdict, ReplayVerdict::Identical), "{replayed:?}");
    }
}
