//! HTTP, for activities: a request goes out and its response comes back, whole.
//!
//! A component reaches what its deployment's manifest allows, and what the host's operator does not forbid; see
//! the book's page on reach. Secrets are no affair of this module: the host puts them into the headers that the
//! manifest names, and no guest ever has them. No redirect is followed: a response that says `302` is a
//! response, and whoever follows it makes another request.
//!
//! ```
//! use backstitch_sdk::http::{Request, Response};
//! use backstitch_sdk::{Result, activity, testing};
//!
//! async fn reserve(sku: String, quantity: u32) -> Result<String> {
//!     let url = format!("https://inventory.example.com/items/{sku}/reservations");
//!     let response = Request::post(url)
//!         .header("idempotency-key", activity::context().idempotency_key)
//!         .json(&quantity)
//!         .send()?
//!         .error_for_status()?;
//!     response.json()
//! }
//!
//! // A native test plays the service itself.
//! let busy = |_: &Request| Ok(Response::new(503).with_header("retry-after", "7"));
//! let reserve = || testing::run_activity(testing::context(), reserve("desk".into(), 1));
//! let error = testing::with_http(busy, reserve).unwrap_err();
//! assert_eq!((error.code(), error.is_retryable()), ("http-503", true));
//! ```
//!
//! The activity waits while the service works: there is nothing else that it could do. Only activities may call
//! this. A workflow that does is not deployed, because it would import what no workflow is given.

use crate::duration::IntoDuration;
use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(not(target_family = "wasm"))]
use std::cell::RefCell;
#[cfg(not(target_family = "wasm"))]
use std::rc::Rc;
use std::time::Duration;

/// A request that has not been made yet.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `.send()`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    /// What is wrong with it already.
    fault: Option<Error>,
}

impl Request {
    /// A request with any method, written in capitals. The URL is `http://` or `https://`, a host, a path.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        let (method, url) = (method.into(), url.into());
        Self { method, url, headers: Vec::new(), body: Vec::new(), timeout: None, fault: None }
    }

    /// `GET`
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `POST`
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// `PUT`
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// `DELETE`
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// Adds a header. `host`, those of the connection, and those that the manifest sets are refused.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body; its length is sent as `content-length`. At most 16 MiB.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The body as JSON, with its `content-type`.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.body(body).header("content-type", "application/json"),
            Err(error) => {
                let message = format!("the body cannot be written as JSON: {error}");
                self.fault = Some(Error::application("http-request-invalid", message).non_retryable());
                self
            }
        }
    }

    /// The longest wait for the response, and from one part of it to the next. Without it the attempt's own
    /// bound counts.
    pub fn timeout(mut self, timeout: impl IntoDuration) -> Self {
        match timeout.into_duration() {
            Ok(timeout) => self.timeout = Some(timeout),
            Err(error) => self.fault = Some(error),
        }
        self
    }

    /// Its method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The first header of this name, whatever its case.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Its body.
    pub fn body_bytes(&self) -> &[u8] {
        &self.body
    }

    /// Makes it, and waits for all of its response, whatever its status.
    ///
    /// # Errors
    ///
    /// | code | when | tried again |
    /// |---|---|---|
    /// | `http-request-invalid` | it is no request: its URL, its method, a header | no |
    /// | `http-request-denied` | the manifest does not allow it; the host's log says why | no |
    /// | `http-address-prohibited` | the host's name means an address that the operator has not allowed | no |
    /// | `http-too-large` | a body or the headers, in either direction | no |
    /// | `http-not-configured` | the host has no such secret, or may not send it there | yes |
    /// | `http-limit` | too many requests, of this attempt or at once | yes |
    /// | `http-timeout` | no connection, no response or no more of it in time | yes |
    /// | `http-tls` | the service is not who it should be, or speaks no TLS | yes |
    /// | `http-unreachable` | no address, no connection, or it broke | yes |
    ///
    /// # Panics
    /// In a native test outside of [`testing::with_http`](crate::testing::with_http).
    pub fn send(self) -> Result<Response> {
        match self.fault {
            Some(fault) => Err(fault),
            None => exchange(&self),
        }
    }
}

/// A response, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Response {
    /// A response of a test's own.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same with a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Its status, such as 200.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name, whatever its case, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(&found.1).ok()
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Its body as text.
    ///
    /// # Errors
    ///
    /// `http-response-invalid` if it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).map_err(|error| unreadable(&error))
    }

    /// Its body, read as JSON.
    ///
    /// # Errors
    ///
    /// `http-response-invalid` if it is none, or of another form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| unreadable(&error))
    }

    /// How long the service asks to be left alone: the seconds of `retry-after`, or from the response's own
    /// `date` to that one, for an activity need not have a clock. A time that is past asks for nothing.
    pub fn retry_after(&self) -> Option<Duration> {
        let after = self.header("retry-after")?.trim();
        if let Ok(seconds) = after.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = |text: &str| httpdate::parse_http_date(text.trim()).ok();
        date(after)?.duration_since(date(self.header("date")?)?).ok()
    }

    /// The response if its status is below 400; else an error with the code `http-STATUS`.
    ///
    /// | status | tried again |
    /// |---|---|
    /// | 408, 425, 429, 500 and above | yes, not before `retry-after` if the service says so |
    /// | other 4xx | no: the same request would get the same answer |
    pub fn error_for_status(self) -> Result<Self> {
        if self.status < 400 {
            return Ok(self);
        }
        let message = format!("the service answered {}", self.status);
        let error = Error::application(format!("http-{}", self.status), message);
        Err(match (self.status, self.retry_after()) {
            (408 | 425 | 429 | 500.., Some(delay)) => error.retry_after(delay),
            (408 | 425 | 429 | 500.., None) => error,
            _ => error.non_retryable(),
        })
    }
}

fn unreadable(error: &dyn std::error::Error) -> Error {
    Error::application("http-response-invalid", format!("the response cannot be read: {error}"))
}

/// A URL, taken apart.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "a test's service reads the URL itself"))]
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    is_tls: bool,
    authority: &'a str,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(url: &'a str) -> Result<Self> {
        let wrong = || {
            let message = format!("{url:?} is no URL: write https://HOST/PATH");
            Error::application("http-request-invalid", message).non_retryable()
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() { Err(wrong()) } else { Ok(Self { is_tls, authority, path }) }
    }
}

#[cfg(target_family = "wasm")]
use component::exchange;

#[cfg(not(target_family = "wasm"))]
type Service = Rc<dyn Fn(&Request) -> Result<Response>>;

#[cfg(not(target_family = "wasm"))]
thread_local! {
    static SERVICE: RefCell<Option<Service>> = const { RefCell::new(None) };
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn served_by<R>(service: Service, body: impl FnOnce() -> R) -> R {
    let outer = SERVICE.replace(Some(service));
    let result = body();
    SERVICE.set(outer);
    result
}

#[cfg(not(target_family = "wasm"))]
fn exchange(request: &Request) -> Result<Response> {
    Place::of(&request.url)?;
    let service = SERVICE.with_borrow(Clone::clone);
    service.expect("natively a request is answered by `testing::with_http`")(request)
}

/// The same in a component, by `wasi:http`.
#[cfg(target_family = "wasm")]
mod component {
    use super::{Place, Request, Response};
    use crate::bindings::http_client::wasi::http::outgoing_handler;
    use crate::bindings::http_client::wasi::http::types::{
        ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
    };
    use crate::bindings::http_client::wasi::io::streams::StreamError;
    use crate::error::{Error, Result};

    /// What one call may hand over: the interface's own bound.
    const WRITE_BYTES: usize = 4_096;
    /// What one call asks for.
    const READ_BYTES: u64 = 64 << 10;

    pub(super) fn exchange(request: &Request) -> Result<Response> {
        let outgoing = outgoing(request)?;
        let body = match request.body.is_empty() {
            true => None,
            false => Some(outgoing.body().map_err(|()| invalid("its body"))?),
        };
        let pending = outgoing_handler::handle(outgoing, options(request)).map_err(failed)?;
        if let Some(body) = body {
            // A service may answer before it has had everything, and a host may refuse: the answer says so,
            // not the write.
            let _ = write(body, &request.body);
        }
        let response = loop {
            match pending.get() {
                None => pending.subscribe().block(),
                Some(Ok(Ok(response))) => break response,
                Some(Ok(Err(code))) => return Err(failed(code)),
                Some(Err(())) => unreachable!("a response is taken once"),
            }
        };
        read(&response)
    }

    fn outgoing(request: &Request) -> Result<OutgoingRequest> {
        let place = Place::of(&request.url)?;
        let mut fields: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes().to_vec()))
            .collect();
        if !request.body.is_empty() {
            fields.retain(|(name, _)| name != "content-length");
            fields.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
        }
        let fields = Fields::from_list(&fields).map_err(|error| invalid(&format!("a header ({error})")))?;
        let outgoing = OutgoingRequest::new(fields);
        let method = Method::Other(request.method.clone());
        outgoing.set_method(&method).map_err(|()| invalid("its method"))?;
        let scheme = if place.is_tls { Scheme::Https } else { Scheme::Http };
        outgoing.set_scheme(Some(&scheme)).map_err(|()| invalid("its scheme"))?;
        outgoing.set_authority(Some(place.authority)).map_err(|()| invalid("its host"))?;
        let path = if place.path.is_empty() { "/" } else { place.path };
        outgoing.set_path_with_query(Some(path)).map_err(|()| invalid("its path"))?;
        Ok(outgoing)
    }

    fn options(request: &Request) -> Option<RequestOptions> {
        let nanos = u64::try_from(request.timeout?.as_nanos()).unwrap_or(u64::MAX);
        let options = RequestOptions::new();
        // Refused by a host that has no such bounds; then the attempt's own counts.
        let _ = options.set_first_byte_timeout(Some(nanos));
        let _ = options.set_between_bytes_timeout(Some(nanos));
        Some(options)
    }

    /// Writes all of it. None: nobody takes it any more.
    fn write(body: OutgoingBody, bytes: &[u8]) -> Option<()> {
        {
            let stream = body.write().ok()?;
            for chunk in bytes.chunks(WRITE_BYTES) {
                stream.blocking_write_and_flush(chunk).ok()?;
            }
        }
        OutgoingBody::finish(body, None).ok()
    }

    fn read(response: &IncomingResponse) -> Result<Response> {
        let (status, headers) = (response.status(), response.headers().entries());
        let incoming = response.consume().expect("a body is taken once");
        let stream = incoming.stream().expect("a stream is taken once");
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(READ_BYTES) {
                Ok(bytes) => body.extend(bytes),
                Err(StreamError::Closed) => return Ok(Response { status, headers, body }),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(broken_off(&error.to_debug_string()));
                }
            }
        }
    }

    /// A body that ends too early: of what kind that is, only the text says.
    fn broken_off(why: &str) -> Error {
        let message = format!("the response broke off: {why}");
        if why.contains("BodySize") {
            return Error::application("http-too-large", message).non_retryable();
        }
        let code = if why.contains("Timeout") { "http-timeout" } else { "http-unreachable" };
        Error::application(code, message)
    }

    fn invalid(what: &str) -> Error {
        let message = format!("the request is none: {what} is refused");
        Error::application("http-request-invalid", message).non_retryable()
    }

    fn failed(error: ErrorCode) -> Error {
        use ErrorCode as E;
        let (code, is_final) = match &error {
            E::HttpRequestDenied => ("http-request-denied", true),
            E::DestinationIpProhibited => ("http-address-prohibited", true),
            E::HttpRequestMethodInvalid | E::HttpRequestUriInvalid | E::HttpRequestUriTooLong => {
                ("http-request-invalid", true)
            }
            E::HttpRequestBodySize(_)
            | E::HttpRequestHeaderSectionSize(_)
            | E::HttpRequestHeaderSize(_)
            | E::HttpResponseHeaderSectionSize(_)
            | E::HttpResponseHeaderSize(_)
            | E::HttpResponseBodySize(_) => ("http-too-large", true),
            E::ConfigurationError => ("http-not-configured", false),
            E::ConnectionLimitReached => ("http-limit", false),
            E::ConnectionTimeout | E::ConnectionReadTimeout | E::HttpResponseTimeout | E::DnsTimeout => {
                ("http-timeout", false)
            }
            E::TlsProtocolError | E::TlsCertificateError | E::TlsAlertReceived(_) => ("http-tls", false),
            _ => ("http-unreachable", false),
        };
        let error = Error::application(code, format!("the request came to nothing: {error:?}"));
        if is_final { error.non_retryable() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_what_is_none_is_told() {
        let place = |url| Place::of(url).map(|place| (place.is_tls, place.authority, place.path)).ok();
        assert_eq!(place("https://a.example"), Some((true, "a.example", "")));
        assert_eq!(place("http://a.example:8080/b?c=d#e"), Some((false, "a.example:8080", "/b?c=d")));
        assert_eq!(place("https://a.example?c=/d"), Some((true, "a.example", "?c=/d")));
        for url in ["a.example/b", "ftp://a.example", "https://", "https:///b", ""] {
            assert_eq!(place(url), None, "{url}");
        }
    }

    #[test]
    fn a_status_says_whether_another_attempt_may_help() {
        let error = |status| Response::new(status).error_for_status().expect_err("a failure");
        for status in [408, 425, 429, 500, 502, 503, 599] {
            assert!(error(status).is_retryable(), "{status}");
        }
        for status in [400, 401, 404, 409, 422] {
            assert!(!error(status).is_retryable(), "{status}");
        }
        assert_eq!(error(404).code(), "http-404");
        assert!(Response::new(302).error_for_status().is_ok(), "a redirect is a response");
    }

    #[test]
    fn a_service_says_in_seconds_or_by_its_own_clock_when_it_may_be_asked_again() {
        let busy = |after: &str| Response::new(429).with_header("Retry-After", after);
        let asked = |response: Response| response.error_for_status().expect_err("busy").retry_after_ms();
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        assert_eq!(asked(busy("7")), Some(7_000));
        assert_eq!(asked(busy(date)), None, "nothing says what time it is");
        let at = |now: &str| asked(busy(date).with_header("Date", now));
        assert_eq!(at("Fri, 31 Dec 1999 23:58:59 GMT"), Some(60_000));
        assert_eq!(at("Sat, 01 Jan 2000 00:00:00 GMT"), None, "it is past");
        assert_eq!((at("yesterday"), asked(busy("soon"))), (None, None));
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told_when_it_is_made() {
        for request in [Request::get("a.example"), Request::get("https://a.example").timeout("soon")] {
            assert!(request.send().is_err());
        }
    }
}
