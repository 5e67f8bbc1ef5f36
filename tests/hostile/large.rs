//! Runs whose ledgers are large, and a host that dies with all of them: whoever takes them over has some of them in
//! memory at a time, keeps its lease over it, and leads each to its end.

use backstitch_core::Json;

use crate::program::peak_mib;
use crate::quiet::heartbeats;
use crate::support::{Gates, HostOptions, TestHost, check_ledgers, connect, database, eventually};

/// Runs with outputs that their guests have had, and runs with signals that nobody has awaited.
const WITH_OUTPUTS: usize = 3;
const WITH_SIGNALS: usize = 7;
const RUNS: usize = WITH_OUTPUTS + WITH_SIGNALS;
/// Payloads of each, and the size of one.
const PAYLOADS: usize = 24;
const BYTES: usize = 1_000_000;
/// What a host may use for ledgers that it loads, and for its guests.
const LEDGERS_MIB: u64 = 48;
const GUESTS_MIB: u64 = 64;
/// What goes beyond: one page of a ledger and one guest more, the appends on their way, and what the allocator keeps.
const BEYOND_MIB: u64 = 112;

fn options(database: &str) -> HostOptions<'_> {
    HostOptions { lease_ms: "3000", ..HostOptions::new(database) }
        .arg("--ledger-memory-mib")
        .arg(LEDGERS_MIB.to_string())
        .arg("--guest-memory-mib")
        .arg(GUESTS_MIB.to_string())
}

/// Who holds a lease, or held one.
async fn hosts(database: &str) -> Vec<(String, i64, bool)> {
    sqlx::query_as("select host_id::text, epoch, dead from leases order by host_id")
        .fetch_all(&mut connect(database).await)
        .await
        .unwrap()
}

/// Starts the runs, and waits until their ledgers have all of it.
async fn grow(host: &TestHost, database: &str) -> Vec<String> {
    let mut runs = Vec::new();
    for number in 0..WITH_OUTPUTS {
        let input = format!("[{PAYLOADS},{BYTES}]");
        runs.push(host.start_run("hoards", &format!("outputs-{number}"), &input).await);
    }
    for number in 0..WITH_SIGNALS {
        runs.push(host.start_run("holds", &format!("signals-{number}"), "1").await);
    }
    let payload = Json::new(format!("\"{}\"", "s".repeat(BYTES))).unwrap();
    for number in 0..WITH_SIGNALS {
        for _ in 0..PAYLOADS {
            host.client.signal(&format!("signals-{number}"), "unawaited", &payload).await.unwrap();
        }
    }
    let mut connection = connect(database).await;
    eventually("the ledgers are large", async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from ledger where name in ('go', 'unawaited')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (rows as usize == RUNS + WITH_SIGNALS * PAYLOADS).then_some(())
    })
    .await;
    runs
}

#[tokio::test]
async fn large_runs_of_a_host_that_dies_are_taken_over_within_bounds_and_once() {
    let (database, gates) = (database().await, Gates::new());
    let mut first = TestHost::start(options(&database)).await;
    first.deploy(&["hostile-guest", "hostile-activities"]).await;
    let runs = grow(&first, &database).await;
    gates.shut("load-after");
    let heir = TestHost::start(options(&database).gates(&gates)).await;
    let idle = peak_mib(heir.pid());
    let before = hosts(&database).await;
    assert!(before.len() == 2 && before.iter().all(|(_, _, dead)| !dead), "{before:?}");

    // It reads what it has room for, as long as no guest can be led along any of it.
    first.kill();
    eventually("a ledger was read", async || gates.is_reached("load-after").then_some(())).await;
    heartbeats(&heir.client, 4).await;
    let (peak, bound) = (peak_mib(heir.pid()), idle + LEDGERS_MIB + BEYOND_MIB);
    assert!(peak < bound, "{peak} MiB of ledgers that were read, {idle} before; the bound is {bound}");

    // Then guests have what they have not awaited, as far as there is room for that.
    gates.open("load-after");
    eventually("each was led along its ledger", async || {
        let health = heir.client.health().await.ok()?;
        (health.activations as usize >= RUNS).then_some(())
    })
    .await;
    let (peak, bound) = (peak_mib(heir.pid()), bound + GUESTS_MIB);
    assert!(peak < bound, "{peak} MiB, {idle} before; the bound is {bound}");
    for id in &runs {
        heir.client.signal(id, "go", &Json::new("1").unwrap()).await.unwrap();
    }
    for id in &runs {
        assert_eq!(heir.output(id).await, "1", "{id}");
    }
    let peak = peak_mib(heir.pid());
    assert!(peak < bound, "{peak} MiB, {idle} before; the bound is {bound}");

    // One death, one takeover: nobody lost a lease over it, and nobody had to come back as somebody else.
    let after = hosts(&database).await;
    let same = |hosts: &[(String, i64, bool)]| -> Vec<(String, i64)> {
        hosts.iter().map(|(host, epoch, _)| (host.clone(), *epoch)).collect()
    };
    assert_eq!(same(&after), same(&before), "hosts have registered anew\n{}", heir.log());
    assert_eq!(after.iter().filter(|(_, _, dead)| *dead).count(), 1, "{after:?}");
    assert_eq!(heir.client.health().await.unwrap().runs_taken_over, runs.len() as u64);
    check_ledgers(&database).await;
}
