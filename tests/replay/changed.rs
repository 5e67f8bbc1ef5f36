//! Other code led along a ledger: what `backstitch replay` is for before a deployment.

use backstitch_client::ClientError;
use backstitch_client::views::{ReplayVerdict, ReplayView};
use backstitch_core::{Op, RunStatus, Seq};

use crate::examples::history;
use crate::prefixes;
use crate::support::{TestHost, component, database};

struct Case {
    run: &'static str,
    package: &'static str,
    /// Where, what the ledger holds, what the guest asked for, who asked; none: identical.
    diverges: Option<(u32, u32, &'static str, &'static str, &'static str)>,
}

const CASES: &[Case] = &[
    Case { run: "reserved", package: "order-workflow", diverges: None },
    Case { run: "backordered", package: "order-workflow", diverges: None },
    Case {
        run: "reserved",
        package: "order-v2-workflow",
        diverges: Some((
            1,
            3,
            r#"activity charge(["o-1",995])"#,
            r#"activity reserve_item(["SKU-1",1])"#,
            "order_v2_workflow.wasm: backstitch_sdk::command::call_activity",
        )),
    },
    Case {
        run: "backordered",
        package: "order-v2-workflow",
        diverges: Some((
            1,
            3,
            r#"activity notify_backorder(["SKU-1"])"#,
            r#"activity reserve_item(["SKU-1",1000])"#,
            "order_v2_workflow.wasm: backstitch_sdk::command::call_activity",
        )),
    },
    // Such a component starts no run of that name; it ends at once, and says why.
    Case {
        run: "reserved",
        package: "approval-workflow",
        diverges: Some((0, 1, r#"activity check_inventory(["SKU-1"])"#, "unknown-workflow", "")),
    },
];

fn order(quantity: u32) -> String {
    format!(
        r#"{{"order_id":"o-1","customer":{{"name":"A","email":"a@example.com","city":"Cork"}},"item_id":"SKU-1","quantity":{quantity},"unit_price_cents":995}}"#
    )
}

#[tokio::test]
async fn another_component_diverges_where_it_first_asks_for_something_else() {
    let database = database().await;
    let host = TestHost::with(&database, &["order-workflow", "order-activities"]).await;
    for (id, quantity) in [("reserved", 1), ("backordered", 1000)] {
        host.start_run("order_workflow", id, &order(quantity)).await;
        host.output(id).await;
        let own = host.client.replay(id, None).await.unwrap();
        assert!(matches!(own.verdict, ReplayVerdict::Identical), "{own:?}");
        assert_eq!(own.rows as usize, host.rows(id).await.len());
        assert!(own.commands > 1 && own.fuel > 0, "{own:?}");
        assert_eq!(host.cli(&["replay", id]).await.code, 0);
    }
    let files = tempfile::tempdir().unwrap();
    for Case { run, package, diverges } in CASES {
        let file = files.path().join(package).with_extension("wasm");
        std::fs::write(&file, component(package)).unwrap();
        let replayed = host.client.replay(run, Some(component(package))).await.unwrap();
        let said = host.cli(&["replay", run, "--component", file.to_str().unwrap()]).await;
        let json = host.cli(&["--json", "replay", run, "--component", file.to_str().unwrap()]).await;
        let same: ReplayView = serde_json::from_str(&json.stdout).unwrap();
        match (replayed.verdict, same.verdict, diverges) {
            (ReplayVerdict::Identical, ReplayVerdict::Identical, None) => {
                assert_eq!((said.code, json.code), (0, 0), "{said:?}");
                assert!(said.stdout.starts_with("identical\n"), "{said:?}");
            }
            (
                ReplayVerdict::Diverged { divergence },
                ReplayVerdict::Diverged { divergence: same },
                Some((op, seq, ledger, guest, function)),
            ) => {
                assert_eq!(divergence, same);
                assert_eq!((divergence.op, divergence.seq), (Op(*op), Some(Seq(*seq))), "{divergence}");
                assert_eq!(divergence.ledger, *ledger);
                assert!(divergence.guest.contains(guest), "{divergence}");
                let backtrace = divergence.backtrace.unwrap_or_default();
                assert!(backtrace.contains(function), "{package}: {backtrace}");
                assert_eq!((said.code, json.code), (20, 20), "{said:?}");
                for text in [&format!("diverged at op {op}, row {seq}"), *ledger, *guest, *function] {
                    assert!(said.stdout.contains(text), "{text}: {said:?}");
                }
            }
            (verdict, ..) => panic!("{run} with {package}: {verdict:?}"),
        }
    }
    // A question, not a deed.
    assert_eq!(host.client.deployments().await.unwrap().len(), 5);
    assert!(!host.log().contains("ERROR"), "{}", host.log());
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_with_a_reason() {
    let database = database().await;
    let host = TestHost::with(&database, &["bare-workflow"]).await;
    host.start_run("two_steps", "open", "1").await;
    let files = tempfile::tempdir().unwrap();
    for (name, bytes, code, exit, reason) in [
        ("activities", component("example-activities"), "wrong-kind", 3, "an activity component"),
        ("text", b"not wasm".to_vec(), "not-a-component", 8, "not WebAssembly"),
    ] {
        let file = files.path().join(name);
        std::fs::write(&file, &bytes).unwrap();
        let refused = host.client.replay("open", Some(bytes)).await.unwrap_err();
        assert!(matches!(refused, ClientError::Problem { .. }), "{refused:?}");
        assert_eq!(refused.code(), Some(code), "{refused}");
        let said = host.cli(&["replay", "open", "--component", file.to_str().unwrap()]).await;
        assert_eq!(said.code, exit, "{said:?}");
        assert!(said.stderr.contains(reason) && said.stdout.is_empty(), "{said:?}");
    }
    assert_eq!(host.cli(&["replay", "nobody"]).await.code, 4);
    assert_eq!(host.cli(&["replay", "open", "--component", "/nowhere.wasm"]).await.code, 3);
}

/// Its live run is well; whoever asks, or `--check-activations`, is told.
#[tokio::test]
async fn a_guest_that_is_not_deterministic_is_told_by_its_replay() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    let id = host.start_run("nondeterministic", "nondeterministic", "1").await;
    assert_eq!(host.ended_run(&id).await.status, RunStatus::Completed);
    let replayed = host.client.replay(&id, None).await.unwrap();
    let ReplayVerdict::Diverged { divergence } = replayed.verdict else { panic!("{replayed:?}") };
    assert_eq!((divergence.op, divergence.ledger.as_str()), (Op(1), "sleep 50 ms"), "{divergence}");
    assert_eq!(divergence.guest, "sleep 49 ms");

    let history = history(&host, &id, "hostile-guest", RunStatus::Completed).await;
    let program = prefixes::program("hostile-guest").await;
    // It is what it was live as long as it is given one event at a time, and in no other way.
    prefixes::one_at_a_time(&program, &history).unwrap();
    for check in [prefixes::check, prefixes::in_random_batches] {
        let problem = check(&program, &history).unwrap_err();
        assert!(
            problem.contains("the ledger holds sleep") || problem.contains("ledger goes on"),
            "{problem}"
        );
    }
}
