//! What handlers take out of a request: the tenant, parameters and bodies, each with its own problem
//! document when it cannot be had. Bodies are counted while they stream in, never after.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use backstitch_core::{Json, Scope, limits};
use backstitch_wire::params::{
    IDEMPOTENCY_KEY_BYTES_MAX, IDEMPOTENCY_KEY_HEADER, MANIFEST_HEADER, TENANT_DEFAULT, TENANT_HEADER,
};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A JSON body: one payload, and room for the names and whitespace around it.
const JSON_BODY_BYTES_MAX: usize = limits::PAYLOAD_BYTES_MAX + (64 << 10);

/// How long the rest of a refused body is taken and thrown away.
const LINGER: Duration = Duration::from_secs(5);
/// How much of it: what a client sends that has only just missed a bound.
const LINGER_BYTES_MAX: usize = limits::COMPONENT_BYTES_MAX;

/// The longest silence while a body comes in.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// A header that means one thing was given more than once.
struct Twice;

/// A header that may be given once.
fn once<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, Twice> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(Twice) } else { Ok(value) }
}

/// Where the request acts. An unknown tenant has nothing here: 404.
pub(super) struct Tenant(pub(super) Scope);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match once(&parts.headers, TENANT_HEADER).map(|name| name.map(HeaderValue::as_bytes)) {
            Ok(None) => Ok(Self(Scope::DEFAULT)),
            Ok(Some(name)) if name == TENANT_DEFAULT.as_bytes() => Ok(Self(Scope::DEFAULT)),
            _ => {
                let detail = format!(
                    "there is no such tenant; leave the {TENANT_HEADER} header away or set it to \
                     `{TENANT_DEFAULT}`"
                );
                Err(Problem::new(StatusCode::NOT_FOUND, "unknown-tenant", detail))
            }
        }
    }
}

/// What the activities of a component may reach: a JSON document in a header.
pub(super) struct Manifest(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for Manifest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let manifest = match once(&parts.headers, MANIFEST_HEADER) {
            Ok(None) => return Ok(Self(None)),
            Ok(Some(manifest)) => manifest.to_str().ok(),
            Err(Twice) => None,
        };
        let wrong = || {
            let detail = format!("the header {MANIFEST_HEADER} is given once, as one line of ASCII");
            Problem::invalid("invalid-header", detail)
        };
        manifest.map(|manifest| Self(Some(manifest.to_owned()))).ok_or_else(wrong)
    }
}

/// The key under which a request may be repeated, if there is one
/// (draft-ietf-httpapi-idempotency-key-header): a string in quotes, as the draft has it, or bare, as most send it.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = match once(&parts.headers, IDEMPOTENCY_KEY_HEADER) {
            Ok(None) => return Ok(Self(None)),
            Ok(Some(value)) => value.to_str().ok().and_then(unquoted),
            Err(Twice) => None,
        };
        let key = key.filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
        key.map(|key| Self(Some(key))).ok_or_else(|| {
            let detail = format!(
                "{IDEMPOTENCY_KEY_HEADER} is one string of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters, \
                 such as \"8e03978e-40d5-43dd-bc93-6894a57f9324\""
            );
            Problem::invalid("invalid-idempotency-key", detail)
        })
    }
}

/// A string of a structured field (RFC 9651, section 3.3.3), or one without its quotes. A header's value
/// that is text has visible ASCII and tabs only.
fn unquoted(value: &str) -> Option<String> {
    if value.contains('\t') {
        return None;
    }
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(text),
            '\\' => text.push(characters.next().filter(|c| matches!(c, '"' | '\\'))?),
            character => text.push(character),
        }
    }
}

/// Refuses a NUL, wherever it stands in a URI: no name or id of ours has one, and Postgres has no text with one.
pub(super) fn check_uri(uri: &Uri) -> Result<(), Problem> {
    let holds = |part: &str| part.contains("%00");
    // A condition says itself where it is wrong.
    let mut parameters = uri.query().into_iter().flat_map(|query| query.split('&'));
    let code = if holds(uri.path()) {
        "invalid-path"
    } else if parameters.any(|parameter| holds(parameter) && !parameter.starts_with("where=")) {
        "invalid-query"
    } else {
        return Ok(());
    };
    Err(Problem::invalid(code, "it holds %00, and no text here has the character NUL"))
}

/// The variable segments of the path.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(segments) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid("invalid-path", rejection.body_text()))?;
        Ok(Self(segments))
    }
}

/// The query string. Unknown and malformed parameters are refused.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid("invalid-query", rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// No query string.
pub(super) type NoParams = Params<NoQuery>;

/// Parameters of requests that have none: refuses strays, so that a misspelt one is noticed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

/// A JSON document of known shape. An empty body is the document `{}`.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body = json_body(request).await?;
        let text = if body.is_empty() { b"{}" } else { body.as_slice() };
        let document = serde_json::from_slice(text);
        document.map(Self).map_err(|error| Problem::invalid("invalid-body", format!("the body: {error}")))
    }
}

/// A JSON payload whose bytes are kept; whitespace around it is not part of it. An empty body is `null`.
pub(super) struct Payload(pub(super) Json);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body = json_body(request).await?;
        let text = String::from_utf8(body)
            .map_err(|error| Problem::invalid("invalid-body", format!("the body is not UTF-8: {error}")))?;
        let text = trim(&text);
        let payload = if text.is_empty() { Ok(Json::null()) } else { Json::new(text) };
        payload.map(Self).map_err(|error| Problem::invalid("invalid-body", format!("the body: {error}")))
    }
}

/// Drops JSON's own whitespace around a value: what an editor or a shell adds to a file's end.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// A component's bytes; none if the body is empty.
pub(super) struct Component(pub(super) Option<Vec<u8>>);

impl<S: Send + Sync> FromRequest<S> for Component {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, limits::COMPONENT_BYTES_MAX, "component-too-large").await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        match media_type(&parts.headers).as_deref() {
            None | Some("application/wasm" | "application/octet-stream") => Ok(Self(Some(bytes))),
            Some(other) => Err(unsupported(other, "a component is sent as application/wasm")),
        }
    }
}

async fn json_body(request: Request) -> Result<Vec<u8>, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read(&parts.headers, body, JSON_BODY_BYTES_MAX, "body-too-large").await?;
    match media_type(&parts.headers).as_deref() {
        None => Ok(bytes),
        Some(media) if bytes.is_empty() || media == "application/json" || media.ends_with("+json") => {
            Ok(bytes)
        }
        Some(other) => Err(unsupported(other, "JSON is sent as application/json")),
    }
}

/// The media type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("?");
    let essence = value.split(';').next().unwrap_or_default();
    Some(essence.trim().to_ascii_lowercase())
}

fn unsupported(media: &str, hint: &str) -> Problem {
    let detail = format!("the body's content-type is {media}; {hint}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
}

/// Reads a body of at most `bytes_max` bytes. A declared length that is larger is refused at once, an
/// undeclared one as soon as it is reached.
async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    code: &'static str,
) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {bytes_max} bytes, the most this request may carry");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail)
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut frames = body.into_data_stream();
    if declared.is_some_and(|length: u64| length > bytes_max as u64) {
        linger(frames);
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(BODY_SILENCE_MAX, frames.next()).await;
        let frame = frame.map_err(|_| {
            let detail = format!("no byte of the body came for {} s", BODY_SILENCE_MAX.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
        })?;
        match frame {
            None => return Ok(bytes),
            Some(Err(error)) => {
                return Err(Problem::invalid("incomplete-body", format!("the body broke off: {error}")));
            }
            Some(Ok(frame)) if bytes.len() + frame.len() > bytes_max => {
                linger(frames);
                return Err(too_large());
            }
            Some(Ok(frame)) => bytes.extend_from_slice(&frame),
        }
    }
}

/// Goes on taking what comes of a refused body, for a while: a connection that is closed while its
/// client still sends is reset, and the answer is lost with it.
fn linger(mut frames: BodyDataStream) {
    tokio::spawn(tokio::time::timeout(LINGER, async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = frames.next().await {
            bytes += frame.len();
            if bytes > LINGER_BYTES_MAX {
                return;
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_wire::StartRun;

    fn post(media: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = Request::builder().method("POST").uri("/v1/x");
        if let Some(media) = media {
            request = request.header("content-type", media);
        }
        request.body(body.into()).unwrap()
    }

    async fn code<T: FromRequest<(), Rejection = Problem>>(request: Request) -> String {
        match T::from_request(request, &()).await {
            Ok(_) => "ok".into(),
            Err(problem) => problem.document().code,
        }
    }

    #[tokio::test]
    async fn the_input_keeps_its_bytes() {
        let body = r#"{"workflow":"w","input":{"b":1.0,"a":[ ],"a":2}}"#;
        let Document(start) =
            Document::<StartRun>::from_request(post(None, body), &()).await.expect("a start");
        assert_eq!(start.input.as_str(), r#"{"b":1.0,"a":[ ],"a":2}"#);
        let Payload(payload) =
            Payload::from_request(post(Some("application/json; charset=utf-8"), "\n{\"b\": 1.0}\n"), &())
                .await
                .expect("a payload");
        assert_eq!(payload.as_str(), "{\"b\": 1.0}");
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_read_says_so() {
        for (body, expected) in [
            ("", "invalid-body"),
            ("{", "invalid-body"),
            (r#"{"workflow":"w","inptu":1}"#, "invalid-body"),
            (r#"{"workflow":"w"}"#, "ok"),
        ] {
            assert_eq!(code::<Document<StartRun>>(post(None, body)).await, expected, "{body}");
        }
        assert_eq!(code::<Payload>(post(None, "")).await, "ok");
        assert_eq!(code::<Payload>(post(None, "{'a'}")).await, "invalid-body");
        assert_eq!(code::<Payload>(post(None, b"\"\xff\"".to_vec())).await, "invalid-body");
        let form = Some("application/x-www-form-urlencoded");
        assert_eq!(code::<Payload>(post(form, "1")).await, "unsupported-media-type");
        assert_eq!(code::<Component>(post(form, "1")).await, "unsupported-media-type");
    }

    #[tokio::test]
    async fn a_body_is_counted_while_it_streams_in() {
        let endless = || {
            let frame = bytes::Bytes::from(vec![b'1'; 64 << 10]);
            Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(frame.clone())))
        };
        assert_eq!(code::<Payload>(post(None, endless())).await, "body-too-large");
        assert_eq!(code::<Component>(post(None, endless())).await, "component-too-large");
    }

    #[tokio::test]
    async fn a_declared_length_is_refused_before_the_first_byte() {
        let mut request =
            post(None, Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>()));
        let length = (limits::COMPONENT_BYTES_MAX + 1).to_string();
        request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
        assert_eq!(code::<Component>(request).await, "component-too-large");
    }

    #[tokio::test]
    async fn only_the_default_tenant_exists() {
        for (names, expected) in
            [(&[][..], true), (&["default"], true), (&["acme"], false), (&["default", "default"], false)]
        {
            let mut request = Request::builder().uri("/");
            for name in names {
                request = request.header(TENANT_HEADER, *name);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let tenant = Tenant::from_request_parts(&mut parts, &()).await;
            assert_eq!(tenant.is_ok(), expected, "{names:?}");
        }
    }

    #[test]
    fn a_key_is_the_same_with_its_quotes_and_without() {
        for (value, key) in [
            ("k-1", Some("k-1")),
            ("\"k-1\"", Some("k-1")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            ("\"open", None),
            ("\"a\"b", None),
            (r#""a\x""#, None),
            ("a\tb", None),
        ] {
            assert_eq!(unquoted(value).as_deref(), key, "{value}");
        }
    }

    #[tokio::test]
    async fn a_misspelt_parameter_is_noticed() {
        for (query, expected) in
            [("status=running", true), ("status=runing", false), ("stauts=running", false)]
        {
            let uri = format!("/v1/runs?{query}");
            let (mut parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            let params = Params::<backstitch_wire::ListRuns>::from_request_parts(&mut parts, &()).await;
            assert_eq!(params.is_ok(), expected, "{query}");
        }
    }
}
