//! Push: tasks of a queue are POSTed to an endpoint that the operator names, instead of waiting for a poll.
//!
//! A pusher is a worker in this process whose attempts are requests. The body is the task as a poll would give it;
//! the signature is that of the [Standard Webhooks](https://www.standardwebhooks.com) specification, version 1.
//!
//! | the endpoint answers | the attempt |
//! |---|---|
//! | 200, 201, 203 to 299 | completed, with the body as its output; an empty one is `null` |
//! | 202 | to be answered later, with the token in the task |
//! | 408, 425, 429 | failed, another may succeed; `retry-after` is heeded |
//! | other 4xx, 3xx | failed for good: no redirect is followed |
//! | 5xx, nothing | failed, another may succeed; `retry-after` is heeded |
//!
//! A failure has the code `http-STATUS`, or those of a body `{"code", "message"}` or problem document.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backstitch_core::{Json, limits, printable};
use backstitch_engine::ambient;
use backstitch_engine::tenure::Tenure;
use backstitch_sandbox::EgressError;
use backstitch_worker::{Context, Ending, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ring::hmac;
use serde::Deserialize;

use crate::api::trim;
use crate::local::LocalWorker;

/// Where tasks of a queue go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushTarget {
    /// The queue.
    pub task_queue: String,
    /// The endpoint.
    pub url: Uri,
}

/// A target that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoTarget(String);

impl std::str::FromStr for PushTarget {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let Some((task_queue, url)) = text.split_once('=') else {
            return Err(NoTarget("write it as QUEUE=URL".to_owned()));
        };
        backstitch_core::names::check_name("task queue", task_queue).map_err(NoTarget)?;
        let url: Uri = url.parse().map_err(|error| NoTarget(format!("{url:?} is no URL: {error}")))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_local = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match url.scheme_str() {
            Some("https") if !host.is_empty() => {}
            Some("http") if is_local => {}
            Some("http") => {
                let why = "tasks would go out in the clear; use https, or http with a loopback address such as \
                           127.0.0.1";
                return Err(NoTarget(why.to_owned()));
            }
            _ => return Err(NoTarget("tasks are pushed to a URL that begins with https://".to_owned())),
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(NoTarget("a URL is shown in logs: leave user and password out of it".to_owned()));
        }
        Ok(Self { task_queue: task_queue.to_owned(), url })
    }
}

/// Secrets that tasks are signed with, all of them, so that one can be replaced. Never shown.
#[derive(Clone)]
pub struct PushKeys(Arc<[hmac::Key]>);

impl fmt::Debug for PushKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Keys that cannot be had. Says nothing of what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    /// The file.
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    /// One of its lines.
    #[error("line {0} is no key: write `whsec_` and the base64 of 24 to 64 random bytes")]
    Malformed(usize),
    /// None of them.
    #[error("it holds no key")]
    Empty,
}

/// Bytes of a key: what the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

impl PushKeys {
    /// Keys of a file, one on each line; empty lines and lines that begin with `#` are not looked at.
    pub fn read(file: &Path) -> Result<Self, NoKeys> {
        Self::parse(&std::fs::read_to_string(file)?)
    }

    fn parse(text: &str) -> Result<Self, NoKeys> {
        let lines = text.lines().map(str::trim).enumerate();
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(at, line)| {
            let key = line.strip_prefix("whsec_").and_then(|key| BASE64.decode(key).ok());
            let key = key.filter(|key| KEY_BYTES.contains(&key.len())).ok_or(NoKeys::Malformed(at + 1))?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
        });
        let keys = keys.collect::<Result<Vec<_>, NoKeys>>()?;
        if keys.is_empty() { Err(NoKeys::Empty) } else { Ok(Self(keys.into())) }
    }

    /// The header `webhook-signature`: one signature for each key.
    fn sign(&self, id: &str, at_s: u64, body: &[u8]) -> String {
        let sign = |key: &hmac::Key| {
            let mut signing = hmac::Context::with_key(key);
            signing.update(format!("{id}.{at_s}.").as_bytes());
            signing.update(body);
            format!("v1,{}", BASE64.encode(signing.sign()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

/// Has a worker push the tasks of a queue.
pub(crate) fn pusher(
    worker: LocalWorker,
    tenure: Tenure,
    target: PushTarget,
    keys: PushKeys,
    http: Http,
) -> LocalWorker {
    let url = target.url;
    worker.name(format!("push to {url}")).task_queue(target.task_queue).concurrency(PUSHES_AT_ONCE).any_activity(
        move |context| {
            let (http, url, keys, tenure) = (http.clone(), url.clone(), keys.clone(), tenure.clone());
            async move {
                let pushed = async {
                    // The host may have been stopped since it was given the task.
                    tenure.until_it_holds().await;
                    push(&http, url, &keys, &context).await
                };
                tokio::select! {
                    ending = pushed => ending,
                    // Nobody waits for it: the endpoint sees its connection go.
                    () = context.cancelled() => Ending::Failed(Failure::fatal("cancelled", "nobody waits for it")),
                }
            }
        },
    )
}

/// Requests to one endpoint at a time.
const PUSHES_AT_ONCE: u32 = 64;
/// The longest that an endpoint may take for one answer: what takes longer is answered later.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read of an answer that is no output.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// What pushers send with: connections are kept, no redirect is followed, no proxy asked.
pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Trusts the authorities that activities' requests trust.
pub(crate) fn http(ca_file: Option<&Path>) -> Result<Http, EgressError> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    let mut trusted = backstitch_sandbox::tls(ca_file)?;
    // The builder names the protocol itself.
    trusted.alpn_protocols.clear();
    let builder = HttpsConnectorBuilder::new().with_tls_config(trusted).https_or_http();
    Ok(Client::builder(TokioExecutor::new()).build(builder.enable_http1().wrap_connector(tcp)))
}

async fn push(http: &Http, url: Uri, keys: &PushKeys, context: &Context) -> Ending {
    let task = &*context.task;
    let body = match serde_json::to_vec(task) {
        Ok(body) => body,
        Err(error) => return Ending::Failed(Failure::fatal("bad-task", error.to_string())),
    };
    let id = format!("{}:{}", task.idempotency_key, task.attempt);
    let at_s = ambient::wall_ms() / 1_000;
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("backstitch/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &id)
        .header("webhook-timestamp", at_s)
        .header("webhook-signature", keys.sign(&id, at_s, &body))
        .header("idempotency-key", &task.idempotency_key)
        .header("traceparent", &task.traceparent)
        .body(Full::from(body));
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ending::Failed(Failure::fatal("bad-task", error.to_string())),
    };
    let exchange = async {
        match http.request(request).await {
            Ok(response) => answered(response).await,
            Err(error) => unreachable(&error),
        }
    };
    tokio::time::timeout(PUSH_TIMEOUT, exchange).await.unwrap_or_else(|_| {
        let message =
            format!("no answer within {} s; answer 202 and complete it later", PUSH_TIMEOUT.as_secs());
        Ending::Failed(Failure::retryable("push-timeout", message))
    })
}

/// Nobody answered, or not to the end: whether the endpoint has done it is not known.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> Ending {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    Ending::Failed(Failure::retryable("push-unreachable", innermost.to_string()))
}

/// What an answer makes of the attempt: the table of this module.
async fn answered(response: Response<Incoming>) -> Ending {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|after| delay(after.to_str().ok()?.trim(), ambient::wall_ms()));
    if status == StatusCode::ACCEPTED {
        return Ending::Later;
    }
    if status.is_success() {
        let body = Limited::new(response.into_body(), limits::PAYLOAD_BYTES_MAX).collect().await;
        return match body {
            Ok(body) => output(&body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("the answer has more than {} bytes", limits::PAYLOAD_BYTES_MAX);
                Ending::Failed(Failure::fatal("bad-output", message))
            }
            Err(error) => unreachable(&*error),
        };
    }
    let mends = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Said { code, message } = Said::of(status, &body);
    let failure = if mends { Failure::retryable(code, message) } else { Failure::fatal(code, message) };
    Ending::Failed(match retry_after {
        Some(delay) if mends => failure.retry_after(delay),
        _ => failure,
    })
}

fn output(body: &[u8]) -> Ending {
    let bad =
        |why: String| Ending::Failed(Failure::fatal("bad-output", format!("the answer is no JSON: {why}")));
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => return bad(error.to_string()),
    };
    match trim(text) {
        "" => Ending::Completed(Json::null()),
        text => Json::new(text).map_or_else(|error| bad(error.to_string()), Ending::Completed),
    }
}

/// What `retry-after` asks for: seconds, or a time by the host's clock. One that is past asks for nothing.
fn delay(after: &str, now_ms: u64) -> Option<Duration> {
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
    httpdate::parse_http_date(after).ok()?.duration_since(now).ok()
}

/// What an endpoint says of its refusal.
struct Said {
    code: String,
    message: String,
}

impl Said {
    fn of(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Refusal {
            code: Option<String>,
            message: Option<String>,
            detail: Option<String>,
        }
        let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
        let mut text = String::from_utf8_lossy(body).into_owned();
        printable::cut(&mut text, 1 << 10);
        Self {
            code: refusal.code.unwrap_or_else(|| format!("http-{}", status.as_u16())),
            message: refusal.message.or(refusal.detail).unwrap_or(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the reference implementations of Standard Webhooks.
        let keys = PushKeys::parse("# old\n\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_signs_and_a_line_that_is_none_is_named() {
        let key = format!("whsec_{}", BASE64.encode([7; 32]));
        let keys = PushKeys::parse(&format!("{key}\n{key}")).unwrap();
        assert_eq!(keys.sign("i", 1, b"x").split(' ').count(), 2);
        assert!(matches!(PushKeys::parse(&format!("{key}\nsecret")), Err(NoKeys::Malformed(2))));
        assert!(matches!(PushKeys::parse("whsec_c2hvcnQ="), Err(NoKeys::Malformed(1))));
        assert!(matches!(PushKeys::parse("#"), Err(NoKeys::Empty)));
        assert_eq!(format!("{keys:?}"), "2 keys");
    }

    #[test]
    fn a_delay_is_seconds_or_ends_at_a_time_to_come() {
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        let at_ms = 946_684_799_000;
        assert_eq!(delay("7", at_ms), Some(Duration::from_secs(7)));
        assert_eq!(delay(date, at_ms - 7_250), Some(Duration::from_millis(7_250)));
        assert_eq!(delay(date, at_ms + 1), None);
        for wrong in ["", "-1", "1.5", "soon", "31 Dec 1999"] {
            assert_eq!(delay(wrong, 0), None, "{wrong:?}");
        }
    }

    #[test]
    fn targets_are_https_or_on_this_machine() {
        for good in ["q=https://example.com/x", "q=http://127.0.0.1:80/x", "q=http://[::1]/", "a b=https://h"]
        {
            assert!(good.parse::<PushTarget>().is_ok(), "{good}");
        }
        let bad = [
            "https://example.com",
            "=https://h",
            "q=http://example.com",
            "q=http://localhost",
            "q=ftp://h",
            "q=x",
            "q=https://u:p@h",
        ];
        for bad in bad {
            assert!(bad.parse::<PushTarget>().is_err(), "{bad}");
        }
    }
}
