//! What becomes of requests, against small services on this machine's loopback network. Of it 127.0.0.2 is what
//! the operator allows, and 127.0.0.1 is not.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backstitch_core::{Op, RunId, limits};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::*;

/// A service that has heard something: the heads of requests and what of their bodies came with them.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Answers every connection on `address` with `answer`; gives the port.
async fn service(address: &str, answer: impl Into<Vec<u8>>) -> (u16, Heard) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let (port, heard, answer) = (listener.local_addr().unwrap().port(), Heard::default(), answer.into());
    let hears = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, hears.clone(), answer.clone()));
        }
    });
    (port, heard)
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, heard: Heard, answer: Vec<u8>) {
    let mut buffer = vec![0; 64 << 10];
    let read = stream.read(&mut buffer).await.unwrap_or(0);
    heard.0.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
    let _ = stream.write_all(&answer).await;
    // Takes what still comes, so that the answer is not lost in a reset.
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

fn config() -> EgressConfig {
    EgressConfig { networks: vec!["127.0.0.2".parse().unwrap()], ..EgressConfig::default() }
}

/// A manifest that allows everything that can be allowed of these hosts and this port.
fn manifest(hosts: &[&str], scheme: &str, port: u16, headers: &str) -> Arc<Manifest> {
    let rule = |host: &&str| {
        format!(
            r#"{{"host": "{host}", "scheme": "{scheme}", "ports": [{port}], "methods": ["GET", "POST"],
                "headers": {{{headers}}}}}"#
        )
    };
    let rules: Vec<String> = hosts.iter().map(rule).collect();
    let secrets = if headers.contains("secret:") { r#"["token"]"# } else { "[]" };
    Arc::new(
        Manifest::parse(&format!(r#"{{"egress": [{}], "secrets": {secrets}}}"#, rules.join(","))).unwrap(),
    )
}

fn attempt(egress: Egress, manifest: Option<Arc<Manifest>>) -> Http {
    let run = RunId("00000000-0000-7000-8000-000000000000".parse().unwrap());
    let caller = Caller { run, op: Op(0), attempt: 1, activity: "reserve".into() };
    Http::new(Arc::new(egress), manifest, Some(caller))
}

/// An egress whose resolver knows these names, and counts how often it is asked.
fn knowing(
    config: EgressConfig,
    answers: impl Fn(usize) -> Vec<IpAddr> + Send + Sync + 'static,
) -> (Egress, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    let mut egress = Egress::new(config).unwrap();
    let resolver = move |_: &str| Ok::<_, io::Error>(answers(counts.fetch_add(1, Ordering::Relaxed)));
    egress.connector = egress.connector.resolving(Arc::new(resolver));
    (egress, asked)
}

fn request(method: &str, uri: &str, body: WasiBody) -> Request<WasiBody> {
    Request::builder().method(method).uri(uri).body(body).unwrap()
}

fn empty() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body whose length nobody knows before its end.
fn endless(chunks: usize, chunk: usize) -> WasiBody {
    let chunk = Bytes::from(vec![b'x'; chunk]);
    let frames = (0..chunks).map(move |_| Ok(http_body::Frame::data(chunk.clone())));
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

async fn send(http: &mut Http, request: Request<WasiBody>) -> Result<Response<WasiBody>, Error> {
    let sent = http.hooks.send_request(request, None, Box::new(async { Ok(()) }));
    let (response, rest) = Pin::from(sent).await?;
    tokio::spawn(Pin::from(rest));
    Ok(response)
}

async fn get(http: &mut Http, uri: &str) -> Result<(u16, String), Error> {
    let response = send(http, request("GET", uri, empty())).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

/// What the guest is told, by its name.
fn told<T>(outcome: Result<T, Error>) -> String {
    outcome.map(|_| String::new()).unwrap_or_else(|error| format!("{error:?}"))
}

#[tokio::test]
async fn a_request_arrives_with_the_place_it_asked_for_and_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
    std::fs::write(dir.path().join("token.hosts"), "127.0.0.2\n").unwrap();
    let (port, heard) = service("127.0.0.2", OK).await;
    let reach = manifest(&["127.0.0.2"], "http", port, r#""authorization": "Bearer {{secret:token}}""#);
    let config = EgressConfig { secrets_dir: Some(dir.path().to_owned()), ..config() };
    assert_eq!(Egress::new(config.clone()).unwrap().obstacles(&reach), Vec::<String>::new());
    let mut http = attempt(Egress::new(config).unwrap(), Some(reach));

    let body = Full::new(Bytes::from_static(b"body")).map_err(|never| match never {}).boxed_unsync();
    let mut request = request("POST", &format!("http://127.0.0.2:{port}/a?b=c"), body);
    // A guest cannot set it; should it get here all the same, it counts for nothing.
    request.headers_mut().insert(header::HOST, "evil.example".parse().unwrap());
    request.headers_mut().insert("x-mine", "1".parse().unwrap());
    let response = send(&mut http, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let heard = heard.all().join("");
    assert!(heard.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{heard}");
    for line in [&format!("host: 127.0.0.2:{port}"), "authorization: Bearer s3cret", "x-mine: 1"] {
        assert!(heard.contains(&format!("{line}\r\n")), "{line}: {heard}");
    }
    assert!(!heard.contains("evil"), "{heard}");
}

#[tokio::test]
async fn without_a_manifest_or_a_rule_nothing_is_asked_of_anybody() {
    let (port, heard) = service("127.0.0.2", OK).await;
    let uri = format!("http://127.0.0.2:{port}/");
    let mut none = attempt(Egress::new(config()).unwrap(), None);
    assert_eq!(told(get(&mut none, &uri).await), "HttpRequestDenied");
    let reach = manifest(&["api.example.com"], "http", port, "");
    let (egress, asked) = knowing(config(), |_| panic!("a denied name is not resolved"));
    let mut other = attempt(egress, Some(reach));
    for uri in [&uri, "http://evil.example/", "https://api.example.com/"] {
        assert_eq!(told(get(&mut other, uri).await), "HttpRequestDenied", "{uri}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(heard.all(), Vec::<String>::new());
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_dialled_whatever_it_is_called() {
    // It listens everywhere, so whatever is dialled on this machine is heard.
    let (port, heard) = service("::", OK).await;
    let literals = [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "10.0.0.1",
        "[fd00:ec2::254]",
    ];
    let mut http = attempt(Egress::new(config()).unwrap(), Some(manifest(&literals, "http", port, "")));
    for host in literals {
        let told = told(get(&mut http, &format!("http://{host}:{port}/")).await);
        assert_eq!(told, "DestinationIpProhibited", "{host}");
    }
    // The system's own resolver: what it makes of a name is judged as a literal is.
    let mut http = attempt(Egress::new(config()).unwrap(), Some(manifest(&["localhost"], "http", port, "")));
    assert_eq!(told(get(&mut http, &format!("http://localhost:{port}/")).await), "DestinationIpProhibited");
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "192.168.1.1", "fe80::1"] {
        let (egress, _) = knowing(config(), move |_| vec![address.parse().unwrap()]);
        let mut http = attempt(egress, Some(manifest(&["api.example.com"], "http", port, "")));
        let told = told(get(&mut http, &format!("http://api.example.com:{port}/")).await);
        assert_eq!(told, "DestinationIpProhibited", "{address}");
    }
    assert_eq!(heard.all(), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_operator_denies_and_the_hosts_own_addresses_are_not_reached() {
    let (port, heard) = service("127.0.0.2", OK).await;
    let reach = manifest(&["api.example.com"], "http", port, "");
    let uri = format!("http://api.example.com:{port}/");
    // Denied is denied, although it is allowed as well.
    let denied = EgressConfig { denied: vec!["127.0.0.0/29".parse().unwrap()], ..config() };
    let (egress, _) = knowing(denied, |_| vec!["::ffff:127.0.0.2".parse().unwrap()]);
    assert_eq!(
        told(get(&mut attempt(egress, Some(Arc::clone(&reach))), &uri).await),
        "DestinationIpProhibited"
    );
    // A public address that this machine has, and one that is a platform's, in both guises.
    for address in ["1.1.1.1", "::ffff:1.1.1.1", "168.63.129.16", "::ffff:168.63.129.16"] {
        let (mut egress, _) = knowing(config(), move |_| vec![address.parse().unwrap()]);
        egress.connector = egress.connector.having(|address| address.to_canonical().to_string() == "1.1.1.1");
        let mut http = attempt(egress, Some(Arc::clone(&reach)));
        assert_eq!(told(get(&mut http, &uri).await), "DestinationIpProhibited", "{address}");
    }
    assert_eq!(heard.all(), Vec::<String>::new());
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_dialled() {
    let (port, allowed) = service("127.0.0.2", OK).await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let trap = tokio::spawn(async move { listener.accept().await.map(drop) });
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let reach = manifest(&["api.example.com"], "http", port, "");
    let uri = format!("http://api.example.com:{port}/");

    // The name means the allowed address when it is first asked for, and the host itself from then on.
    let (egress, asked) =
        knowing(config(), move |times| vec![ip(if times == 0 { "127.0.0.2" } else { "127.0.0.1" })]);
    let mut http = attempt(egress, Some(Arc::clone(&reach)));
    assert_eq!(get(&mut http, &uri).await.unwrap(), (200, "hi".into()));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "asked once, dialled what was said");
    assert_eq!(told(get(&mut http, &uri).await), "DestinationIpProhibited");

    // Of several addresses only those are dialled that may be.
    let (egress, _) = knowing(config(), move |_| vec![ip("127.0.0.1"), ip("::1"), ip("127.0.0.2")]);
    let mut http = attempt(egress, Some(reach));
    assert_eq!(get(&mut http, &uri).await.unwrap(), (200, "hi".into()));
    assert_eq!(allowed.all().len(), 2);
    assert!(!trap.is_finished(), "somebody was at 127.0.0.1");
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_is_judged_as_a_request() {
    let (inside, never) = service("127.0.0.1", OK).await;
    let moved =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{inside}/\r\ncontent-length: 0\r\n\r\n");
    let (port, heard) = service("127.0.0.2", moved).await;
    let both = Manifest::parse(&format!(
        r#"{{"egress": [{{"host": "127.0.0.2", "scheme": "http", "ports": [{port}], "methods": ["GET"]}},
                        {{"host": "127.0.0.1", "scheme": "http", "ports": [{inside}], "methods": ["GET"]}}]}}"#
    ));
    let mut http = attempt(Egress::new(config()).unwrap(), Some(Arc::new(both.unwrap())));
    let response =
        send(&mut http, request("GET", &format!("http://127.0.0.2:{port}/"), empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let location = response.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(told(get(&mut http, &location).await), "DestinationIpProhibited");
    assert_eq!((heard.all().len(), never.all().len()), (1, 0));
}

#[tokio::test]
async fn a_secret_goes_out_in_the_clear_to_an_allowed_network_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "s3cret").unwrap();
    std::fs::write(dir.path().join("token.hosts"), "api.example.com").unwrap();
    let config = EgressConfig { secrets_dir: Some(dir.path().to_owned()), ..config() };
    let (port, heard) = service("127.0.0.2", OK).await;
    let reach = manifest(&["api.example.com", "127.0.0.2"], "http", port, r#""x-key": "{{secret:token}}""#);

    let (egress, _) = knowing(config.clone(), |_| vec!["127.0.0.2".parse().unwrap()]);
    let mut http = attempt(egress, Some(Arc::clone(&reach)));
    assert_eq!(get(&mut http, &format!("http://api.example.com:{port}/")).await.unwrap().0, 200);
    // The operator lets the name have it, and not this address by itself.
    assert_eq!(told(get(&mut http, &format!("http://127.0.0.2:{port}/")).await), "ConfigurationError");
    assert_eq!(heard.all().iter().filter(|heard| heard.contains("s3cret")).count(), 1);

    let (egress, _) = knowing(config, |_| vec!["1.1.1.1".parse().unwrap()]);
    let mut http = attempt(egress, Some(reach));
    assert_eq!(told(get(&mut http, &format!("http://api.example.com:{port}/")).await), "HttpRequestDenied");
}

#[tokio::test]
async fn bodies_are_as_large_as_they_may_be_and_no_larger() {
    let max = usize::try_from(limits::HTTP_RESPONSE_BYTES_MAX).unwrap();
    let mut chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    chunked.extend(format!("{:x}\r\n", max + 1).bytes());
    chunked.resize(chunked.len() + max + 1, b'x');
    chunked.extend(b"\r\n0\r\n\r\n");
    let (endless_port, _) = service("127.0.0.2", chunked).await;
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", max + 1);
    let (announced_port, _) = service("127.0.0.2", announced).await;
    let fields =
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(4 * limits::HTTP_RESPONSE_HEADER_BYTES_MAX));
    let (fields_port, _) = service("127.0.0.2", fields).await;
    let (port, heard) = service("127.0.0.2", OK).await;
    let reaching =
        |port| attempt(Egress::new(config()).unwrap(), Some(manifest(&["127.0.0.2"], "http", port, "")));
    let uri = |port| format!("http://127.0.0.2:{port}/");

    let told_of = async |port| told(get(&mut reaching(port), &uri(port)).await);
    assert!(told_of(endless_port).await.starts_with("HttpResponseBodySize"));
    assert!(told_of(announced_port).await.starts_with("HttpResponseBodySize"));
    assert!(told_of(fields_port).await.starts_with("HttpResponseHeaderSectionSize"));

    let mut http = reaching(port);
    let chunks = usize::try_from(limits::HTTP_REQUEST_BYTES_MAX >> 20).unwrap();
    let mut request_of = |mut request: Request<WasiBody>, length: Option<u64>| {
        if let Some(length) = length {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        http.hooks.send_request(request, None, Box::new(async { Ok(()) }))
    };
    let announced =
        request_of(request("POST", &uri(port), empty()), Some(limits::HTTP_REQUEST_BYTES_MAX + 1));
    assert!(told(Pin::from(announced).await.map(drop)).starts_with("HttpRequestBodySize"));
    assert_eq!(heard.all().len(), 0, "what is announced is refused before anybody is asked");
    // Nobody answers before all of it has come.
    let (silent, _) = service("127.0.0.2", "").await;
    let sent = send(&mut reaching(silent), request("POST", &uri(silent), endless(chunks + 1, 1 << 20))).await;
    assert!(told(sent).starts_with("HttpRequestBodySize"));
}

#[tokio::test]
async fn an_attempt_makes_so_many_requests_and_so_many_at_once() {
    let mut http = attempt(Egress::new(config()).unwrap(), None);
    for _ in 0..limits::HTTP_REQUESTS_PER_ATTEMPT_MAX {
        assert_eq!(told(get(&mut http, "http://a.example/").await), "HttpRequestDenied");
    }
    assert_eq!(told(get(&mut http, "http://a.example/").await), "ConnectionLimitReached");

    // Nobody answers: each of them stays under way.
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let uri = format!("http://127.0.0.2:{port}/");
    let mut http = attempt(Egress::new(config()).unwrap(), Some(manifest(&["127.0.0.2"], "http", port, "")));
    let mut waiting: Vec<_> = (0..limits::HTTP_REQUESTS_OPEN_PER_ATTEMPT_MAX)
        .map(|_| http.hooks.send_request(request("GET", &uri, empty()), None, Box::new(pending())))
        .collect();
    assert_eq!(told(get(&mut http, &uri).await), "ConnectionLimitReached");
    waiting.pop();
    let options = RequestOptions {
        first_byte_timeout: Some(std::time::Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let sent = http.hooks.send_request(request("GET", &uri, empty()), Some(options), Box::new(pending()));
    assert_eq!(told(Pin::from(sent).await.map(drop)), "HttpResponseTimeout", "its place was free again");
}

#[tokio::test]
async fn a_header_that_says_how_a_message_travels_is_not_the_guests() {
    let forbidden = attempt(Egress::new(config()).unwrap(), None).hooks.forbidden_header_filter();
    for name in ["host", "connection", "transfer-encoding", "upgrade", "te", "proxy-authorization", "expect"]
    {
        assert!(forbidden(&HeaderName::from_static(name)), "{name}");
    }
    for name in ["authorization", "content-length", "content-type", "cookie"] {
        assert!(!forbidden(&HeaderName::from_static(name)), "{name}");
    }
}

/// An authority, and a service on 127.0.0.2 with a certificate of it for `name`.
async fn tls_service(name: &str) -> (u16, tempfile::NamedTempFile) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(converse(stream, Heard::default(), OK.into()));
            }
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    (port, file)
}

#[tokio::test]
async fn a_certificate_is_for_the_name_that_was_asked_for_and_from_a_trusted_authority() {
    let asked = async |port, name: &str, ca_file: Option<&Path>| {
        let config = EgressConfig { ca_file: ca_file.map(Path::to_owned), ..config() };
        let (egress, _) = knowing(config, |_| vec!["127.0.0.2".parse().unwrap()]);
        let mut http = attempt(egress, Some(manifest(&["*.example.com"], "https", port, "")));
        told(get(&mut http, &format!("https://{name}:{port}/")).await)
    };
    let (port, authority) = tls_service("api.example.com").await;
    assert_eq!(asked(port, "api.example.com", Some(authority.path())).await, "");
    assert_eq!(asked(port, "www.example.com", Some(authority.path())).await, "TlsCertificateError");
    assert_eq!(asked(port, "api.example.com", None).await, "TlsCertificateError");
    let (plain, _) = service("127.0.0.2", OK).await;
    assert_eq!(asked(plain, "api.example.com", Some(authority.path())).await, "TlsProtocolError");
}

#[test]
fn what_the_operator_names_and_is_not_there_is_told_when_a_host_starts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |path: &Path| {
        Egress::new(EgressConfig { ca_file: Some(path.to_owned()), ..EgressConfig::default() })
            .unwrap_err()
            .to_string()
    };
    assert!(with(file.path()).contains("there is no certificate in it"));
    assert!(with(Path::new("/nowhere/ca.pem")).contains("/nowhere/ca.pem"));
    let nowhere = EgressConfig { secrets_dir: Some("/nowhere".into()), ..EgressConfig::default() };
    assert!(Egress::new(nowhere).unwrap_err().to_string().contains("/nowhere, which is no directory"));
}
