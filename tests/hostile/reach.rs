//! Activities that reach out: what the worked example does with a service that is busy, what becomes of a
//! secret, and how far those come who want more than they may have. Of this machine's loopback network the
//! operator allows 127.0.0.2, where the tests' services are; 127.0.0.1 is what must not be reached.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use backstitch::cli::exit::Exit;
use backstitch_core::{FailureKind, RunStatus, limits};
use serde_json::{Value, json};

use crate::program::tell;
use crate::support::{HostOptions, TestHost, check_ledgers, component, database};

/// What a service was asked, and when.
type Asked = Arc<Mutex<Vec<(Instant, String, axum::http::HeaderMap)>>>;

/// What a service answers to its requests, counted from 0.
type Answers = fn(usize) -> Response;

#[derive(Clone)]
struct Service {
    asked: Asked,
    answers: Answers,
}

async fn answer(State(service): State<Service>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let number = {
        let mut asked = service.asked.lock().unwrap();
        asked.push((Instant::now(), parts.uri.path().to_owned(), parts.headers));
        asked.len() - 1
    };
    // Whatever it is: an answer before the end of a request could be lost.
    let _ = axum::body::to_bytes(body, usize::MAX).await;
    (service.answers)(number)
}

/// Starts a service; gives its port and what it hears.
async fn service(address: &str, answers: Answers) -> (u16, Asked) {
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Asked::default());
    let service = Service { asked: Arc::clone(&asked), answers };
    let app = Router::new().fallback(answer).with_state(service);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (port, asked)
}

const TOKEN: &str = "s3cret-token-of-the-operator";

/// The operator's secrets.
fn secrets(hosts: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("inventory_token"), format!("{TOKEN}\n")).unwrap();
    std::fs::write(dir.path().join("inventory_token.hosts"), hosts).unwrap();
    dir
}

fn options<'a>(database: &'a str, secrets: &Path) -> HostOptions<'a> {
    HostOptions::new(database)
        .arg("--allow-network")
        .arg("127.0.0.2/32")
        .arg("--secrets-dir")
        .arg(secrets.display().to_string())
}

fn rule(host: &str, port: u16) -> Value {
    json!({ "host": host, "scheme": "http", "ports": [port], "methods": ["GET", "POST"] })
}

fn inventory_manifest(port: u16) -> String {
    let mut rule = rule("127.0.0.2", port);
    rule["headers"] = json!({ "authorization": "Bearer {{secret:inventory_token}}" });
    json!({ "egress": [rule], "secrets": ["inventory_token"] }).to_string()
}

fn busy_at_first(number: usize) -> Response {
    match number {
        0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        1 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response(),
        2 => (StatusCode::CREATED, r#"{"reservation":"r-1"}"#).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test]
async fn an_activity_asks_a_busy_service_again_and_its_secret_is_nobody_elses() {
    let (database, secrets) = (database().await, secrets("127.0.0.2\n"));
    let (port, asked) = service("127.0.0.2", busy_at_first).await;
    // Everything is logged that could be.
    let host = TestHost::start(options(&database, secrets.path()).arg("--log").arg("trace")).await;
    host.deploy(&["inventory-workflow"]).await;
    let manifest = inventory_manifest(port);
    let deployed =
        host.client.deploy_with_manifest(component("inventory-activities"), &manifest).await.unwrap();
    assert_eq!(deployed.warnings, Vec::<String>::new());

    let input = json!({ "service": format!("http://127.0.0.2:{port}"), "items": [["desk", 2]] }).to_string();
    let id = host.start_run("reserve_items", "busy", &input).await;
    assert_eq!(host.output(&id).await, r#"["r-1"]"#);
    let failures: Vec<String> = host
        .rows(&id)
        .await
        .into_iter()
        .filter(|row| row.kind == "activity-attempt-failed")
        .map(|row| {
            let failure: Value = serde_json::from_str(row.payload.unwrap().as_str()).unwrap();
            failure["code"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(failures, ["http-503", "http-429"]);
    let heard = asked.lock().unwrap().clone();
    let [first, second, third] = &heard[..] else { panic!("{heard:?}") };
    assert!(third.0 - second.0 >= Duration::from_secs(1), "the service asked for a second");
    for (_, path, headers) in [first, second, third] {
        assert_eq!(path, "/reservations");
        assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(headers["host"], format!("127.0.0.2:{port}"));
        assert_eq!(headers["idempotency-key"], first.2["idempotency-key"], "the same for every attempt");
    }

    // What no other attempt could change is final.
    let id = host.start_run("reserve_items", "unknown", &input).await;
    let view = host.ended_run(&id).await;
    assert_eq!((view.status, view.failure.unwrap().code.as_str()), (RunStatus::Failed, "unknown-article"));
    assert_eq!(asked.lock().unwrap().len(), 4);

    for id in ["busy", "unknown"] {
        let exported = tell(&host, &["run", "export", id]).await.exits(Exit::Ok).stdout;
        assert!(exported.contains("http-503") == (id == "busy") && !exported.contains(TOKEN), "{exported}");
    }
    let shown = tell(&host, &["deployments", "--json"]).await.exits(Exit::Ok).stdout;
    assert!(shown.contains("{{secret:inventory_token}}") && !shown.contains(TOKEN), "{shown}");
    let log = host.log();
    assert!(log.contains("an HTTP request was answered"), "the log is one of everything");
    assert!(!log.contains(TOKEN), "the log has the secret");
    check_ledgers(&database).await;
}

/// What an activity of `reaching-activities` is told, by the code of its failure; empty: it had what it wanted.
async fn told(host: &TestHost, name: &str, args: Value) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let id = format!("{name}-{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let call = json!({ "name": name, "args": args, "attempts": 1, "start_to_close_ms": 60_000 });
    host.start_run("calls", &id, &call.to_string()).await;
    let view = host.ended_run(&id).await;
    match view.failure {
        Some(failure) => {
            assert_eq!(failure.kind, FailureKind::Application, "{failure}");
            failure.code
        }
        None => String::new(),
    }
}

fn moves_inside(_: usize) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1/latest/meta-data/")]).into_response()
}

fn too_much(_: usize) -> Response {
    let bytes = usize::try_from(limits::HTTP_RESPONSE_BYTES_MAX).unwrap() + 1;
    vec![b'x'; bytes].into_response()
}

fn fine(_: usize) -> Response {
    "fine".into_response()
}

#[tokio::test]
async fn an_activity_reaches_what_its_manifest_and_its_operator_allow_and_nothing_else() {
    let (database, secrets) = (database().await, secrets("# nobody yet\n"));
    let (open, heard) = service("127.0.0.2", fine).await;
    let (moved, _) = service("127.0.0.2", moves_inside).await;
    let (large, _) = service("127.0.0.2", too_much).await;
    let (inside, never) = service("127.0.0.1", fine).await;
    let host = TestHost::start(options(&database, secrets.path())).await;
    host.deploy(&["hostile-guest", "reaching-activities"]).await;

    let uri = |host: &str, port: u16| format!("http://{host}:{port}/");
    let fetch = |uri: &str| json!([uri, null]);
    assert_eq!(told(&host, "fetch", fetch(&uri("127.0.0.2", open))).await, "http-request-denied");
    assert!(host.log().contains("deployed without a manifest"), "{}", host.log());

    let with_secret = json!({ "host": "127.0.0.2", "scheme": "http", "ports": [large], "methods": ["POST"],
        "headers": { "x-signed": "{{secret:inventory_token}}" } });
    let manifest = json!({
        "egress": [
            rule("127.0.0.2", open), rule("127.0.0.2", moved), rule("127.0.0.1", inside), rule("localhost", inside),
            rule("169.254.169.254", 80), rule("[::ffff:127.0.0.1]", inside), rule("127.0.0.1", 80),
            { "host": "127.0.0.2", "scheme": "http", "ports": [large], "methods": ["GET"],
              "headers": { "x-plain": "set by the manifest" } },
            with_secret,
        ],
        "secrets": ["inventory_token"],
    });
    let deployed = host
        .client
        .deploy_with_manifest(component("reaching-activities"), &manifest.to_string())
        .await
        .unwrap();
    assert!(deployed.warnings[0].contains("does not let 127.0.0.2 have"), "{:?}", deployed.warnings);

    assert_eq!(told(&host, "fetch", fetch(&uri("127.0.0.2", open))).await, "");
    assert_eq!(told(&host, "upload", json!([uri("127.0.0.2", open), 100_000])).await, "");
    let refused = [
        ("fetch", fetch(&uri("127.0.0.1", inside)), "http-address-prohibited"),
        ("fetch", fetch(&uri("localhost", inside)), "http-address-prohibited"),
        ("fetch", fetch(&uri("[::ffff:127.0.0.1]", inside)), "http-address-prohibited"),
        ("fetch", fetch("http://169.254.169.254/"), "http-address-prohibited"),
        ("fetch", fetch(&uri("2130706433", inside)), "http-request-invalid"),
        ("fetch", fetch(&uri("0x7f.1", inside)), "http-request-invalid"),
        ("fetch", fetch(&uri("127.0.0.2", inside)), "http-request-denied"),
        ("fetch", fetch("https://example.com/"), "http-request-denied"),
        ("fetch", fetch(&format!("http://127.0.0.2@127.0.0.1:{inside}/")), "http-request-denied"),
        ("follow", json!([uri("127.0.0.2", moved)]), "http-address-prohibited"),
        ("fetch", json!([uri("127.0.0.2", open), ["host", "evil.example"]]), "http-request-invalid"),
        ("fetch", json!([uri("127.0.0.2", open), ["Transfer-Encoding", "chunked"]]), "http-request-invalid"),
        ("fetch", json!([uri("127.0.0.2", large), ["X-Plain", "by hand"]]), "http-request-denied"),
        ("fetch", fetch(&uri("127.0.0.2", large)), "http-too-large"),
        ("upload", json!([uri("127.0.0.2", open), limits::HTTP_REQUEST_BYTES_MAX + 1]), "http-too-large"),
        ("upload", json!([uri("127.0.0.2", large), 1]), "http-not-configured"),
    ];
    for (name, args, code) in refused {
        assert_eq!(told(&host, name, args.clone()).await, code, "{name} {args}");
    }
    let flood = json!([uri("127.0.0.1", inside), limits::HTTP_REQUESTS_PER_ATTEMPT_MAX + 1]);
    let call = json!({ "name": "flood", "args": flood, "attempts": 1, "start_to_close_ms": 60_000 });
    let id = host.start_run("calls", "flood", &call.to_string()).await;
    assert_eq!(host.output(&id).await, r#""http-limit""#);

    assert_eq!(never.lock().unwrap().len(), 0, "somebody was at 127.0.0.1");
    assert_eq!(heard.lock().unwrap().len(), 2);
    assert!(!host.log().contains(TOKEN));

    // A deployment without a manifest takes the reach away.
    host.deploy(&["reaching-activities"]).await;
    assert_eq!(told(&host, "fetch", fetch(&uri("127.0.0.2", open))).await, "http-request-denied");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_manifest_is_looked_at_when_it_is_deployed_and_known_to_every_host() {
    let (database, secrets) = (database().await, secrets("127.0.0.2"));
    let (port, _) = service("127.0.0.2", fine).await;
    let host = TestHost::start(options(&database, secrets.path())).await;
    let other = TestHost::start(options(&database, secrets.path())).await;
    host.deploy(&["hostile-guest"]).await;

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(file("a.wasm"), component("reaching-activities")).unwrap();
    std::fs::write(file("w.wasm"), component("hostile-guest")).unwrap();
    let wrong = json!({ "egress": [{ "host": "*.com", "methods": ["TRACE"] }], "secrets": ["a/b"] });
    std::fs::write(file("wrong.json"), wrong.to_string()).unwrap();
    std::fs::write(file("a.manifest.json"), json!({ "egress": [rule("127.0.0.2", port)] }).to_string())
        .unwrap();

    let refused = tell(&host, &["deploy", &file("a.wasm"), "--manifest", &file("wrong.json")]).await;
    let refused = refused.exits(Exit::Refused).stderr;
    for place in ["the manifest is refused", "egress[0].host", "egress[0].methods", "secrets[0]"] {
        assert!(refused.contains(place), "{place}: {refused}");
    }
    let refused = tell(&host, &["deploy", &file("w.wasm"), "--manifest", &file("a.manifest.json")]).await;
    assert!(refused.exits(Exit::Refused).stderr.contains("a workflow reaches nothing"));

    // The one beside the component is found.
    tell(&host, &["deploy", &file("a.wasm")]).await.exits(Exit::Ok);
    let listed = tell(&other, &["deployments"]).await.exits(Exit::Ok).stdout;
    assert!(listed.contains("REACHES") && listed.contains("http://127.0.0.2"), "{listed}");
    let args = json!([format!("http://127.0.0.2:{port}/"), null]);
    assert_eq!(told(&other, "fetch", args).await, "");
}
