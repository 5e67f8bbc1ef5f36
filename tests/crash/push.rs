//! Tasks that a host pushes to an endpoint, which says all that an endpoint can say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::Listener;
use backstitch_client::tasks::{AnswerTask, TaskView};
use backstitch_core::{Json, RunStatus};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::hmac;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, rustls};

use crate::load::{deployed_database, options};
use crate::support::{TestHost, check_ledgers, eventually};

const KEY: [u8; 32] = [42; 32];

/// What the endpoint has been sent, and the second of it, by the number that each task is about.
type Seen = Arc<Mutex<HashMap<u64, Vec<(u64, TaskView)>>>>;

/// An endpoint that looks at the signature first, and then answers in one of all ways.
async fn endpoint(State(seen): State<Seen>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let signed = [header("webhook-id"), header("webhook-timestamp")].join(".") + ".";
    let signed = [signed.as_bytes(), &body].concat();
    let signature = header("webhook-signature");
    let signature = BASE64.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &KEY);
    if hmac::verify(&key, &signed, &signature).is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let task: TaskView = serde_json::from_slice(&body).unwrap();
    assert_eq!(header("webhook-id"), format!("{}:{}", task.idempotency_key, task.attempt));
    let [n] = serde_json::from_str::<[u64; 1]>(task.input.as_str()).unwrap();
    let attempt = task.attempt;
    let at_s: u64 = header("webhook-timestamp").parse().unwrap();
    seen.lock().unwrap().entry(n).or_default().push((at_s, task));
    let later = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at_s + 3));
    let refusal = r#"{"code":"no-such-thing","message":"there is none"}"#;
    match (n, attempt) {
        (1, 1) => (StatusCode::SERVICE_UNAVAILABLE, "later").into_response(),
        (2, _) => StatusCode::ACCEPTED.into_response(),
        (3, 1) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        (4, 1) => panic!("the connection breaks off"),
        (5, 1) => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", later)]).into_response(),
        (7, _) => (StatusCode::UNPROCESSABLE_ENTITY, refusal).into_response(),
        _ => n.to_string().into_response(),
    }
}

fn router(seen: &Seen) -> Router {
    Router::new().route("/tasks", post(endpoint)).with_state(Arc::clone(seen))
}

/// A file with the key.
fn keys() -> tempfile::NamedTempFile {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), format!("whsec_{}\n", BASE64.encode(KEY))).unwrap();
    keys
}

/// Connections with a certificate for `localhost`.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    /// The listener, and a file with the authority that its certificate is of.
    async fn new() -> (Self, tempfile::NamedTempFile) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        (Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }, file)
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust the certificate hangs up.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

#[tokio::test]
async fn an_endpoint_completes_fails_and_defers_what_is_pushed_to_it() {
    let database = deployed_database().await;
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("outside=http://{}/tasks", listener.local_addr().unwrap());
    let serving = tokio::spawn(axum::serve(listener, router(&seen)).into_future());
    let keys = keys();
    let options = options(&database).arg("--push").arg(&target);
    let host = TestHost::start(options.arg("--push-keys").arg(keys.path().to_str().unwrap())).await;

    host.start_run("outside", "pushed", "6").await;
    let deferred = eventually("the endpoint will answer later", async || {
        let list = host.client.activities(&Default::default()).await.ok()?;
        list.activities.iter().any(|activity| activity.state == "held").then_some(())?;
        seen.lock().unwrap().get(&2).map(|tasks| tasks[0].1.token.clone())
    })
    .await;
    host.client.answer_task(&AnswerTask::completed(deferred, Json::new("2").unwrap())).await.unwrap();
    assert_eq!(host.output("pushed").await, "15");
    let attempts = |n| seen.lock().unwrap()[&n].len();
    assert_eq!([0, 1, 2, 3, 4, 5].map(attempts), [1, 2, 1, 2, 2, 2]);
    let pause_s = |n| {
        let seen = seen.lock().unwrap();
        let [(first, _), (second, _)] = &seen[&n][..] else { panic!("{seen:?}") };
        second - first
    };
    assert!(pause_s(3) >= 1 && pause_s(5) >= 3, "{} s and {} s", pause_s(3), pause_s(5));
    let rows = host.rows("pushed").await;
    let failed = rows.iter().filter(|row| row.kind == "activity-attempt-failed");
    let mut failed: Vec<String> =
        failed.map(|row| row.payload.as_ref().unwrap().as_str().to_owned()).collect();
    failed.sort();
    let codes = ["http-429", "http-503", "http-503", "push-unreachable"];
    assert_eq!(failed.len(), codes.len(), "{failed:?}");
    for (failure, code) in failed.iter().zip(codes) {
        assert!(failure.contains(&format!(r#""code":"{code}""#)), "{failed:?}");
    }

    host.start_run("outside", "refused", "8").await;
    let run = host.ended_run("refused").await;
    assert_eq!((run.status, run.failure.unwrap().code.as_str()), (RunStatus::Failed, "no-such-thing"));
    assert_eq!(attempts(7), 1, "the refusal is final");
    assert!(!host.log().contains(&BASE64.encode(KEY)), "the key is in the log");
    serving.abort();
    check_ledgers(&database).await;
}

/// The operator names the authority; the certificate is for the name in the URL.
#[tokio::test]
async fn tasks_go_to_the_endpoint_of_the_url_and_to_nobody_else() {
    let seen = Seen::default();
    let (listener, authority) = TlsListener::new().await;
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(axum::serve(listener, router(&seen)).into_future());
    let (keys, authority) = (keys(), authority.path().to_str().unwrap());
    let pushing = async |name: &str, ca_file: Option<&str>| {
        let database = deployed_database().await;
        let options = options(&database).arg("--push").arg(format!("outside=https://{name}:{port}/tasks"));
        let options = options.arg("--push-keys").arg(keys.path().to_str().unwrap());
        let options = ca_file.into_iter().fold(options, |options, file| options.arg("--ca-file").arg(file));
        let host = TestHost::start(options).await;
        host.start_run("outside", "secret", "1").await;
        host
    };
    for (name, ca_file) in [("localhost", None), ("127.0.0.1", Some(authority))] {
        let host = pushing(name, ca_file).await;
        let failure = eventually("the first attempt has failed", async || {
            let rows = host.rows("secret").await;
            let failed = rows.into_iter().find(|row| row.kind == "activity-attempt-failed")?;
            Some(failed.payload.unwrap().as_str().to_owned())
        })
        .await;
        assert!(failure.contains("push-unreachable") && failure.contains("certificate"), "{failure}");
        assert!(seen.lock().unwrap().is_empty(), "{name} was sent a task");
    }
    let host = pushing("localhost", Some(authority)).await;
    assert_eq!(host.output("secret").await, "0");
    assert_eq!(seen.lock().unwrap()[&0].len(), 1);
    serving.abort();
}

#[tokio::test]
async fn a_host_that_cannot_sign_does_not_start() {
    let database = deployed_database().await;
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "hunter2").unwrap();
    let said = |args: &[&str]| {
        let data = tempfile::tempdir().unwrap();
        let output = std::process::Command::new(crate::support::PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--database-url", &database, "--data-dir"])
            .arg(data.path())
            .args(args)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let target = "q=https://example.com/tasks";
    let (code, stderr) = said(&["--push", target, "--push-keys", keys.path().to_str().unwrap()]);
    assert!(code == 3 && stderr.contains("line 1 is no key") && !stderr.contains("hunter2"), "{stderr}");
    let (code, stderr) = said(&["--push", target]);
    assert!(code == 2 && stderr.contains("--push-keys"), "{stderr}");
    let (code, stderr) = said(&["--push", "q=http://example.com", "--push-keys", "x"]);
    assert!(code == 2 && stderr.contains("in the clear"), "{stderr}");
}
