//! JSON whose bytes a careless host would change: a guest reads on replay what it read live.
//!
//! `json_relay` passes a document on as input, activity input and output, signal, result; a replay
//! compares each with the ledger. Between its first two activities and the signal, the host is killed.

use backstitch_client::history::{History, Part};
use backstitch_core::{Json, Run, RunStatus, limits};
use sqlx::PgConnection;

use crate::support::{HostOptions, TestHost, check_ledgers, connect, database, eventually};

/// Each with what must not be lost of it.
fn documents() -> Vec<(&'static str, String)> {
    let large =
        format!(r#"{{"z":"{}","a":[1.0,1e400],"a":"\u0000\ud800é"}}"#, r#"x y\"é"#.repeat((1 << 20) / 8));
    [
        ("key-order", r#"{"zebra":1,"ant":2,"10":3,"9":4,"":5}"#),
        ("duplicate-keys", r#"{"a":1,"b":2,"a":3,"a":{"a":4,"a":5}}"#),
        ("huge-number", "1e400"),
        ("small-number", "[-0,-0.0,1e-400,5E+2,1E2]"),
        ("long-number", "123456789012345678901234567890.000"),
        ("nul-escape", r#"{"\u0000":"\u0000a\u0000"}"#),
        ("lone-surrogates", r#"["\ud800","\udfff","\ud800\u0041","\udc00\ud800"]"#),
        ("escapes", r#""\/\b\f\n\r\t\\\"\u0041\u00e9\ud83d\ude00\u001F""#),
        ("whitespace", "{ \"b\" :\t1 ,\r\n  \"a\" : [ ] ,\"c\":{\n}}"),
        ("unicode", "{\"größe\":\"\u{1f600}\u{202e}\u{2028}\u{feff}\u{7f}\u{10ffff}e\u{301}\"}"),
        ("scalars", "null"),
        ("empty-string", r#""""#),
        ("nested", "[[[[[[[[[[[[[[[[[[[[{\"a\":[{}]}]]]]]]]]]]]]]]]]]]]]"),
    ]
    .map(|(name, text)| (name, text.to_owned()))
    .into_iter()
    .chain([("a-megabyte", large)])
    .collect()
}

const GUESTS: [&str; 2] = ["hostile-guest", "hostile-activities"];

#[tokio::test]
async fn json_keeps_its_bytes_live_and_on_replay_and_wherever_it_is_shown() {
    let database = database().await;
    let mut host = TestHost::with(&database, &GUESTS).await;
    for (name, text) in documents() {
        for id in [live(name), killed(name)] {
            started(&host, &id, &text).await;
        }
        host.client.signal(&live(name), "bytes", &Json::new(text.as_str()).unwrap()).await.unwrap();
        same(name, &host.output(&live(name)).await, &text);
    }
    host.kill();

    let host = TestHost::start(HostOptions::new(&database)).await;
    let files = tempfile::tempdir().unwrap();
    for (name, text) in documents() {
        let file = files.path().join(name);
        std::fs::write(&file, &text).unwrap();
        let payload = format!("@{}", file.display());
        let said = host.cli(&["run", "signal", &killed(name), "bytes", &payload]).await;
        assert_eq!(said.code, 0, "{said:?}");
        same(name, &host.output(&killed(name)).await, &text);
    }
    let mut connection = connect(&database).await;
    for (name, text) in documents() {
        for id in [live(name), killed(name)] {
            shown_everywhere(&host, &mut connection, &id, &text).await;
        }
    }
    check_ledgers(&database).await;
}

/// `json_echo` tells the characters that it was given, instead of giving them back.
#[tokio::test]
async fn a_guest_that_spells_out_what_it_reads_spells_the_same_after_a_replay() {
    let database = database().await;
    let mut host = TestHost::with(&database, &GUESTS).await;
    for (name, text) in documents() {
        for id in [live(name), killed(name)] {
            host.start_run("json_echo", &id, &text).await;
            at_rest(&host, &id, 4).await;
        }
        host.client.signal(&live(name), "bytes", &Json::new(text.as_str()).unwrap()).await.unwrap();
    }
    let mut spelt = Vec::new();
    for (name, text) in documents() {
        let output = host.output(&live(name)).await;
        same(name, &serde_json::from_str::<String>(&output).unwrap(), &text);
        spelt.push(output);
    }
    host.kill();
    let host = TestHost::start(HostOptions::new(&database)).await;
    for ((name, text), spelt) in documents().iter().zip(spelt) {
        host.client.signal(&killed(name), "bytes", &Json::new(text.as_str()).unwrap()).await.unwrap();
        same(name, &host.output(&killed(name)).await, &spelt);
    }
}

fn live(name: &str) -> String {
    format!("{name}-live")
}

fn killed(name: &str) -> String {
    format!("{name}-killed")
}

/// Not `assert_eq`, which would print megabytes.
fn same(name: &str, found: &str, expected: &str) {
    if found != expected {
        let differ = found.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
        let part = |text: &str| {
            String::from_utf8_lossy(&text.as_bytes()[differ..]).chars().take(80).collect::<String>()
        };
        panic!("{name}, byte {differ}: {:?} instead of {:?}", part(found), part(expected));
    }
}

async fn started(host: &TestHost, id: &str, text: &str) {
    host.start_run("json_relay", id, text).await;
    at_rest(host, id, 6).await;
}

/// An export has the very text, wherever it stands, under the chain that was computed over it.
async fn exported(host: &TestHost, id: &str, text: &str) {
    let mut history = History::read(&host.client.history(id, &Part::ALL).await.unwrap()).unwrap();
    let data = history.data.clone().unwrap();
    for found in [data.input, data.output] {
        same(id, &found.unwrap(), text);
    }
    let rows = history.rows().unwrap();
    let payloads: Vec<_> = rows.iter().filter_map(|row| row.payload.as_deref()).collect();
    assert_eq!(payloads.len(), 9, "{id}");
    payloads.into_iter().for_each(|payload| same(id, payload, text));
    Run::load_closed(history.run_id, &rows, history.head()).unwrap();
}

async fn at_rest(host: &TestHost, id: &str, rows: u32) {
    eventually("the run waits for its signal", async || {
        let view = host.client.run(id).await.unwrap();
        assert_eq!(view.run.status, RunStatus::Running, "{id}: {:?}", view.run.fault);
        (view.rows == rows).then_some(())
    })
    .await;
}

async fn shown_everywhere(host: &TestHost, connection: &mut PgConnection, id: &str, text: &str) {
    let kept: Vec<Option<String>> = sqlx::query_scalar(
        "select payload::text from ledger where shard = 0 and run_id =
             (select run_id from runs where shard = 0 and tenant = 1 and workflow_id = $1)
         order by seq",
    )
    .bind(id)
    .fetch_all(connection)
    .await
    .unwrap();
    // Input, two calls with their outcomes, the signal, a third call with its outcome, the result; the
    // wait for the signal carries none.
    assert_eq!(kept.iter().filter(|payload| payload.is_some()).count(), 9, "{id}");
    let leaves_its_row = text.len() > limits::PAYLOAD_INLINE_BYTES_MAX;
    for payload in kept.iter().flatten() {
        if leaves_its_row {
            assert!(payload.starts_with(r#"{"backstitch.payload":{"stored":"#), "{id}");
        } else {
            same(id, payload, text);
        }
    }
    for row in host.rows(id).await {
        assert_eq!(row.stored.is_some(), leaves_its_row && kept[row.seq.0 as usize].is_some(), "{id}");
        if row.stored.is_some() || row.payload.is_some() {
            let payload = host.client.payload(id, row.seq).await.unwrap();
            same(id, payload.as_str(), text);
            assert!(row.payload.is_none_or(|shown| shown == payload), "{id}");
        }
    }
    exported(host, id, text).await;
    let view = host.client.run(id).await.unwrap();
    same(id, view.input.unwrap().as_str(), text);
    same(id, view.run.output.unwrap().as_str(), text);
    let said = host.cli(&["run", "result", id]).await;
    same(id, said.stdout.strip_suffix('\n').unwrap(), text);
    let said = host.cli(&["--json", "run", "result", id]).await;
    assert!(said.stdout.contains(&format!("\"output\": {text}")), "{id}");
    let said = host.cli(&["--json", "run", "ledger", id]).await;
    let shown = if leaves_its_row { "\"stored\":".to_owned() } else { format!("\"payload\": {text}") };
    assert_eq!(said.stdout.matches(&shown).count(), 9, "{id}");
    let said = host.cli(&["run", "payload", id, "0"]).await;
    same(id, &said.stdout, text);
    let replayed = host.cli(&["replay", id]).await;
    assert_eq!(replayed.code, 0, "{id}: {replayed:?}");
    let body = reqwest::get(format!("{}/v1/runs/{id}", host.url)).await.unwrap().text().await.unwrap();
    for field in ["input", "output"] {
        assert!(body.contains(&format!("\"{field}\":{text}")), "{id}: {field}");
    }
}
