//! The API as programs in other languages meet it: its document, its types, its streams, its repeats.

use std::collections::BTreeMap;

use backstitch::api::openapi;
use backstitch_client::StartRun;
use backstitch_client::problem::ProblemDocument;
use backstitch_client::views::{RowView, StartedView};
use backstitch_core::{Json, RunStatus};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{DEADLINE, HostOptions, TestHost, database, eventually};

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn the_document_and_the_router_have_the_same_routes() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let served: Value = serde_json::from_slice(
        &http().get(format!("{}/v1/openapi.json", host.url)).send().await.unwrap().bytes().await.unwrap(),
    )
    .unwrap();
    assert_eq!(&served, openapi::document());
    for (path, item) in served["paths"].as_object().unwrap() {
        let filled =
            path.replace("{id}", "nobody").replace("{name}", "x").replace("{op}", "1").replace("{seq}", "0");
        for method in ["get", "put", "post", "delete", "patch"] {
            let request = http()
                .request(method.to_uppercase().parse::<Method>().unwrap(), format!("{}{filled}", host.url));
            let answer = request.timeout(DEADLINE).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap();
            match item.get(method) {
                Some(operation) => {
                    let answers = operation["responses"].as_object().unwrap();
                    assert!(answers.contains_key(&status.to_string()), "{method} {filled}: {status}");
                    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let unknown = document["code"] == "unknown-route";
                    assert!(status != 405 && !unknown, "{method} {filled}: {status}");
                }
                None => {
                    assert_eq!(status, 405, "{method} {filled} is served, and the document does not say so");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    host.start_run("panics", "closed", "1").await;
    for path in ["openapi.json", "reference", "deployments", "runs/closed"] {
        let url = format!("{}/v1/{path}", host.url);
        // A run that is just being parked has another tag a moment later.
        eventually("the answer has settled", async || {
            let first = http().get(&url).send().await.unwrap();
            assert_eq!(first.status(), 200, "{path}");
            let tag = header(&first, "etag").to_owned();
            let again = http().get(&url).header("if-none-match", &tag).send().await.unwrap();
            (again.status() == StatusCode::NOT_MODIFIED).then_some(())
        })
        .await;
        let other = http().get(&url).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.status(), 200, "{path}");
    }
    // A deploy changes what serves which name, and so the tag.
    let url = format!("{}/v1/deployments", host.url);
    let before = header(&http().get(&url).send().await.unwrap(), "etag").to_owned();
    host.deploy(&["order-workflow"]).await;
    let after = http().get(&url).header("if-none-match", &before).send().await.unwrap();
    assert_eq!(after.status(), 200);
}

#[tokio::test]
async fn the_reference_is_one_page_that_loads_nothing() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let page = http().get(format!("{}/v1/reference", host.url)).send().await.unwrap();
    assert_eq!((page.status().as_u16(), header(&page, "content-type")), (200, "text/html; charset=utf-8"));
    assert!(header(&page, "content-security-policy").starts_with("default-src 'none'; "));
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    let page = page.text().await.unwrap();
    for path in openapi::document()["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&**path), "{path}");
    }
}

/// Starts a run under a key.
async fn start(host: &TestHost, key: &str, body: &Value) -> Result<(u16, StartedView), ProblemDocument> {
    let request = http().post(format!("{}/v1/runs", host.url)).header("idempotency-key", key);
    let answer = request.header("content-type", "application/json").body(body.to_string());
    let answer = answer.timeout(DEADLINE).send().await.unwrap();
    let status = answer.status();
    let text = answer.bytes().await.unwrap();
    if status.is_success() {
        let Value::Object(mut fields) = serde_json::from_slice(&text).unwrap() else { panic!("{text:?}") };
        let created = fields.remove("created").unwrap().as_bool().unwrap();
        let run = serde_json::from_value(fields.into()).unwrap();
        Ok((status.as_u16(), StartedView { run, created }))
    } else {
        Err(serde_json::from_slice(&text).unwrap())
    }
}

#[tokio::test]
async fn a_start_under_a_key_is_one_start_on_whatever_host() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    let other = TestHost::start(HostOptions::new(&database)).await;
    let body =
        json!({ "workflow": "waits_for_ever", "input": 1, "options": { "memo": "m", "delay_ms": 60_000 } });

    // All at once, on two hosts, in both forms of the header.
    let starts = (0..8).map(|n| {
        let (host, key) = ([&host, &other][n % 2], ["\"k-1\"", "k-1"][n / 2 % 2]);
        let body = &body;
        async move { start(host, key, body).await.unwrap() }
    });
    let mut started = Vec::new();
    for answer in futures::future::join_all(starts).await {
        started.push(answer);
    }
    let created = started.iter().filter(|(status, started)| *status == 201 && started.created).count();
    assert_eq!(created, 1, "{started:#?}");
    let run = started[0].1.run.run_id;
    assert!(started.iter().all(|(_, started)| started.run.run_id == run), "{started:#?}");
    assert_eq!(started[0].1.run.workflow_id, "idempotency-key:k-1");

    // The same key for something else.
    for (field, value) in [
        ("workflow", json!("panics")),
        ("input", json!(2)),
        ("options", json!({ "memo": "other", "delay_ms": 60_000 })),
        ("options", json!({ "memo": "m" })),
    ] {
        let mut changed = body.clone();
        changed[field] = value;
        let problem = start(&other, "k-1", &changed).await.unwrap_err();
        assert_eq!(
            (problem.status, &*problem.code),
            (422, "idempotency-key-reused"),
            "{changed}: {problem:?}"
        );
    }
    // Another key is another start, and a workflow id stands above the key.
    let second = start(&host, "k-2", &body).await.unwrap().1;
    assert_ne!(second.run.run_id, run);
    let mut named = body.clone();
    named["workflow_id"] = json!("named");
    assert_eq!(start(&host, "k-1", &named).await.unwrap().1.run.workflow_id, "named");

    for wrong in ["", "\"\"", "\"open", "\"a\\x\"", &"x".repeat(201)] {
        let problem = start(&host, wrong, &body).await.unwrap_err();
        assert_eq!((problem.status, &*problem.code), (400, "invalid-idempotency-key"), "{wrong:?}");
    }
    assert_eq!(host.client.count(Default::default()).await.unwrap().runs, 3);
}

/// The Rust client's word for it, with a key that has to be quoted on its way.
#[tokio::test]
async fn a_client_that_starts_once_finds_its_run_on_whatever_host() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    let other = TestHost::start(HostOptions::new(&database)).await;
    let start = |input| StartRun::new("waits_for_ever", None, Json::new(input).unwrap());
    let key = r#"the "seventh" \ order"#;
    let (one, two) =
        tokio::join!(host.client.start_once(key, start("1.0")), other.client.start_once(key, start("1.0")));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.created != two.created, "{one:?} {two:?}");
    assert_eq!(one.run.run_id, two.run.run_id);
    assert_eq!(one.run.workflow_id, format!("idempotency-key:{key}"));

    let code = async |key, input| {
        let refused = other.client.start_once(key, start(input)).await.unwrap_err();
        refused.code().map(str::to_owned)
    };
    assert_eq!(code(key, "2").await.as_deref(), Some("idempotency-key-reused"));
    for wrong in ["", "clé", "k\tk"] {
        assert_eq!(code(wrong, "1.0").await.as_deref(), Some("invalid-idempotency-key"), "{wrong:?}");
    }
    let named = StartRun { workflow_id: Some("named".to_owned()), ..start("1.0") };
    assert_eq!(host.client.start_once(key, named).await.unwrap().run.workflow_id, "named");
    assert_eq!(host.client.count(Default::default()).await.unwrap().runs, 2);
}

#[tokio::test]
async fn a_key_stands_for_the_run_that_was_started_also_when_that_goes_on_as_a_new_one() {
    let database = database().await;
    let host = TestHost::with(&database, &["verbs-guest"]).await;
    let body = json!({ "workflow": "rolling", "input": 0 });
    let first = start(&host, "k", &body).await.unwrap().1.run;
    let one = Json::new("1").unwrap();
    eventually("the run goes on as a new one", async || {
        host.client.signal(&first.workflow_id, "add", &one).await.unwrap();
        (host.client.run(&first.workflow_id).await.unwrap().run.generation > 0).then_some(())
    })
    .await;
    let again = start(&host, "k", &body).await.unwrap().1;
    assert_eq!((again.created, again.run.run_id), (false, first.run_id));
    let other = json!({ "workflow": "rolling", "input": 1 });
    assert_eq!(start(&host, "k", &other).await.unwrap_err().code, "idempotency-key-reused");
}

/// Server-sent events as they come.
struct Events {
    answer: Response,
    text: String,
}

impl Events {
    async fn of(host: &TestHost, run: &str, last: Option<u32>) -> Self {
        let request =
            http().get(format!("{}/v1/runs/{run}/ledger", host.url)).header("accept", "text/event-stream");
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "text/event-stream"));
        assert_eq!(header(&answer, "x-accel-buffering"), "no", "a proxy does not gather them");
        Self { answer, text: String::new() }
    }

    /// The fields of the next event; none: the stream has ended.
    async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let fields = event.lines().filter_map(|line| line.split_once(": "));
                let event: BTreeMap<_, _> =
                    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                self.text = rest.to_owned();
                if event.contains_key("event") {
                    return Some(event);
                }
                continue;
            }
            let chunk =
                tokio::time::timeout(DEADLINE, self.answer.chunk()).await.expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }

    async fn row(&mut self) -> RowView {
        let event = self.next().await.expect("a row");
        assert_eq!(event["event"], "row", "{event:?}");
        let row: RowView = serde_json::from_str(&event["data"]).unwrap();
        assert_eq!(event["id"], row.seq.to_string());
        row
    }
}

#[tokio::test]
async fn a_ledger_is_followed_across_connections_and_hosts_until_its_run_closes() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["approval-workflow"]).await;
    // Line breaks between values are the starter's, and an event has none.
    let input = "{\"subject\":\r\n\"s\",\"requester\":\"r\",\"manager\":\"m\",\n\"timeout\":\"3 days\"}";
    host.start_run("approval", "a", input).await;
    let mut events = Events::of(&host, "a", None).await;
    let first = events.row().await;
    assert_eq!((first.seq.0, &*first.kind), (0, "run-started"));
    let second = events.row().await;
    assert_eq!(second.seq.0, 1);

    // The host goes; the client goes on where it was, on another one.
    host.kill();
    while let Ok(Some(_)) = events.answer.chunk().await {}
    let other = TestHost::start(HostOptions::new(&database)).await;
    let mut events = Events::of(&other, "a", Some(second.seq.0)).await;
    other.client.terminate("a", "enough").await.unwrap();
    let mut seq = second.seq.0;
    let closed = loop {
        let event = events.next().await.expect("a stream ends with `closed`");
        if event["event"] == "closed" {
            break event;
        }
        seq += 1;
        assert_eq!((&*event["event"], &*event["id"]), ("row", &*seq.to_string()));
    };
    let run: backstitch_client::views::RunView = serde_json::from_str(&closed["data"]).unwrap();
    assert_eq!(run.status, RunStatus::Terminated);
    assert!(events.next().await.is_none(), "nothing follows `closed`");
    assert_eq!(other.rows("a").await.len(), seq as usize + 1, "every row, once");

    // Whoever comes later has it all at once, and whoever has had it all only the end.
    let mut late = Events::of(&other, "a", None).await;
    for place in 0..=seq {
        assert_eq!(late.row().await.seq.0, place);
    }
    assert_eq!(late.next().await.unwrap()["event"], "closed");
    let mut over = Events::of(&other, "a", Some(seq)).await;
    assert_eq!(over.next().await.unwrap()["event"], "closed");

    let request = http().get(format!("{}/v1/runs/a/ledger", other.url)).header("accept", "text/event-stream");
    let refused = request.header("last-event-id", "x").send().await.unwrap();
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn a_stream_ends_when_its_host_stops() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["hostile-guest"]).await;
    host.start_run("waits_for_ever", "w", "1").await;
    let mut events = Events::of(&host, "w", None).await;
    events.row().await;
    events.row().await;
    let stopping = std::time::Instant::now();
    host.signal("-TERM");
    assert!(events.next().await.is_none());
    host.ended().await;
    // Well before the time that a host gives requests that do not end.
    assert!(stopping.elapsed() < std::time::Duration::from_secs(8), "{:?}", stopping.elapsed());
}
