//! `wasi:http` for one attempt: what becomes of each request that its guest makes.
//!
//! Order matters. A request is counted, then judged, then waits for its turn, and only then is a name resolved,
//! so that what is denied leaves no trace outside. Secrets are read last, when there is a verified connection
//! to whom they are for. A request under way belongs to its attempt: when that ends, for whatever reason, the
//! connection is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstitch_core::{Op, RunId, limits};
use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks,
};

use super::access::Egress;
use super::body::{Allowance, Counted};
use super::connect::Unreached;
use super::decide::decide;
use super::manifest::{Manifest, Rule, is_of_the_host};
use super::policy::{Denied, Target};
use super::secrets::NoSecret;

/// Longer names of methods are nobody's, and would fill the log.
const METHOD_BYTES_MAX: usize = 32;

/// Who asks, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) run: RunId,
    pub(crate) op: Op,
    pub(crate) attempt: u32,
    pub(crate) activity: Arc<str>,
}

/// The `wasi:http` of one attempt.
pub(crate) struct Http {
    pub(crate) ctx: WasiHttpCtx,
    pub(crate) hooks: Hooks,
}

/// What decides on its requests.
pub(crate) struct Hooks {
    egress: Arc<Egress>,
    manifest: Option<Arc<Manifest>>,
    attempt: Arc<Attempt>,
}

/// What one attempt has used up.
struct Attempt {
    /// None: its component is only being described.
    caller: Option<Caller>,
    requests: AtomicU32,
    open: Arc<Semaphore>,
    to_send: Arc<Allowance>,
    to_receive: Arc<Allowance>,
}

/// What a response comes with: the rest of the connection's life.
type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(Response<WasiBody>, Rest), Error>;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Unreached(#[from] Unreached),
    #[error(transparent)]
    NoSecret(#[from] NoSecret),
    #[error("no answer: {0}")]
    Hyper(#[from] hyper::Error),
    #[error("{0}")]
    Wasi(Error),
}

impl Http {
    pub(crate) fn new(egress: Arc<Egress>, manifest: Option<Arc<Manifest>>, caller: Option<Caller>) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(limits::HTTP_REQUEST_HEADER_BYTES_MAX);
        let attempt = Arc::new(Attempt {
            caller,
            requests: AtomicU32::new(0),
            open: Arc::new(Semaphore::new(limits::HTTP_REQUESTS_OPEN_PER_ATTEMPT_MAX)),
            to_send: Arc::new(Allowance::new(limits::HTTP_BYTES_PER_ATTEMPT_MAX)),
            to_receive: Arc::new(Allowance::new(limits::HTTP_BYTES_PER_ATTEMPT_MAX)),
        });
        Self { ctx, hooks: Hooks { egress, manifest, attempt } }
    }
}

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        // The length is the guest's to say: what it sends is held to it.
        Arc::new(|name| is_of_the_host(name) && *name != header::CONTENT_LENGTH)
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        limits::HTTP_WRITE_BYTES_MAX
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let attempt = Arc::clone(&self.attempt);
        let exchange = self.judge(request, options.unwrap_or_default());
        Box::new(async move {
            let answer = match exchange {
                Ok(exchange) => exchange.carry_out().await,
                Err(failed) => Err(failed),
            };
            answer.map_err(|failed| attempt.failed(failed))
        })
    }
}

impl Hooks {
    /// All that can be said before anything is done.
    fn judge(&self, request: Request<WasiBody>, options: RequestOptions) -> Result<Exchange, Failed> {
        if self.attempt.requests.fetch_add(1, Ordering::Relaxed) >= limits::HTTP_REQUESTS_PER_ATTEMPT_MAX {
            return Err(Failed::Wasi(Error::ConnectionLimitReached));
        }
        let method = request.method();
        if method.as_str().len() > METHOD_BYTES_MAX {
            return Err(Failed::Wasi(Error::HttpRequestMethodInvalid));
        }
        let target = Target::of(request.uri())?;
        let rule = decide(self.manifest.as_deref(), method, &target, request.headers())?.clone();
        let bytes = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if let Some(bytes) = bytes.and_then(|length| length.parse::<u64>().ok())
            && bytes > limits::HTTP_REQUEST_BYTES_MAX
        {
            return Err(Failed::Wasi(Error::HttpRequestBodySize(Some(bytes))));
        }
        let open = Arc::clone(&self.attempt.open).try_acquire_owned();
        let open = open.map_err(|_| Failed::Wasi(Error::ConnectionLimitReached))?;
        let (egress, attempt) = (Arc::clone(&self.egress), Arc::clone(&self.attempt));
        Ok(Exchange { egress, attempt, rule, target, request, options, open })
    }
}

impl Attempt {
    /// Logs why, once, and gives what the guest is told.
    fn failed(&self, failed: Failed) -> Error {
        let caller = self.caller.as_ref();
        let (run, op) = (caller.map(|caller| caller.run), caller.map(|caller| caller.op));
        let (run, op) = (run.map(tracing::field::display), op.map(tracing::field::display));
        let attempt = caller.map(|caller| caller.attempt);
        let activity = caller.map(|caller| &*caller.activity);
        let is_flood = self.requests.load(Ordering::Relaxed) > limits::HTTP_REQUESTS_PER_ATTEMPT_MAX + 1;
        if failed.is_denial() && !is_flood {
            tracing::warn!(target: "backstitch::egress", run, op, attempt, activity, reason = %failed, "an HTTP request was denied");
        } else {
            tracing::debug!(target: "backstitch::egress", run, op, attempt, activity, reason = %failed, "an HTTP request failed");
        }
        failed.into_error()
    }
}

impl Failed {
    /// Whether this host did not want it, as opposed to: the other side could not.
    fn is_denial(&self) -> bool {
        match self {
            Self::Denied(_) | Self::NoSecret(_) => true,
            Self::Unreached(unreached) => {
                matches!(
                    unreached,
                    Unreached::Denied { .. } | Unreached::Prohibited { .. } | Unreached::InTheClear { .. }
                )
            }
            Self::Wasi(error) => matches!(error, Error::ConnectionLimitReached),
            Self::Hyper(_) => false,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Denied(Denied::Host(_) | Denied::Port) => Error::HttpRequestUriInvalid,
            Self::Denied(_) => Error::HttpRequestDenied,
            Self::NoSecret(_) => Error::ConfigurationError,
            Self::Unreached(unreached) => unreached.into(),
            Self::Hyper(error) => of_hyper(&error),
            Self::Wasi(error) => error,
        }
    }
}

impl From<Unreached> for Error {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::Denied { .. } | Unreached::Prohibited { .. } => Self::DestinationIpProhibited,
            Unreached::InTheClear { .. } => Self::HttpRequestDenied,
            Unreached::Unresolved { .. } => Self::DnsError { rcode: None, info_code: None },
            Unreached::Refused { error, .. } => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
                _ => Self::DestinationUnavailable,
            },
            Unreached::Tls { error, .. } => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner {
                    Some(rustls::Error::InvalidCertificate(_)) => Self::TlsCertificateError,
                    _ => Self::TlsProtocolError,
                }
            }
            Unreached::Name { .. } => Self::TlsCertificateError,
        }
    }
}

fn of_hyper(error: &hyper::Error) -> Error {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<Error>()) {
        // Our own word about the request's body, on its way through hyper.
        Some(Error::HttpRequestBodySize(bytes)) => Error::HttpRequestBodySize(*bytes),
        _ if error.is_parse_too_large() => Error::HttpResponseHeaderSectionSize(None),
        _ if error.is_incomplete_message() => Error::HttpResponseIncomplete,
        _ if error.is_parse() => Error::HttpProtocolError,
        _ => Error::ConnectionTerminated,
    }
}

/// A request that may be made.
struct Exchange {
    egress: Arc<Egress>,
    attempt: Arc<Attempt>,
    rule: Rule,
    target: Target,
    request: Request<WasiBody>,
    options: RequestOptions,
    /// Its place among those of its attempt.
    open: OwnedSemaphorePermit,
}

/// Both of its places, until the connection is closed.
type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Exchange {
    async fn carry_out(self) -> Result<(Response<WasiBody>, Rest), Failed> {
        let Self { egress, attempt, rule, target, request, options, open } = self;
        let bound = Duration::from_millis(limits::HTTP_CONNECT_MS_MAX);
        let bound = options.connect_timeout.map_or(bound, |asked| asked.min(bound));
        let has_secret = rule.secrets().next().is_some();
        let connected = tokio::time::timeout(bound, async {
            let turn = Arc::clone(&egress.open).acquire_owned().await.expect("never closed");
            Ok::<_, Failed>((turn, egress.connector.open(&target, has_secret).await?))
        });
        let (turn, stream) = connected.await.map_err(|_| Failed::Wasi(Error::ConnectionTimeout)).flatten()?;
        let request = dress(&egress, rule, &target, request, &attempt).await?;
        let method = request.method().clone();

        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(limits::HTTP_RESPONSE_HEADER_BYTES_MAX)
            .max_headers(limits::HTTP_RESPONSE_HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let connection = spawn(connection);
        let answer = sender.send_request(request);
        let response = match options.first_byte_timeout {
            Some(bound) => tokio::time::timeout(bound, answer)
                .await
                .map_err(|_| Failed::Wasi(Error::HttpResponseTimeout))?,
            None => answer.await,
        }?;
        tracing::debug!(
            target: "backstitch::egress", %method, host = %target.authority(), status = response.status().as_u16(),
            "an HTTP request was answered"
        );
        let response = receive(response, options, &attempt)?;
        Ok((response, rest(connection, (turn, open))))
    }
}

/// The request as it goes out: with the manifest's headers, and with a `Host` that is the place it goes to.
async fn dress(
    egress: &Arc<Egress>,
    rule: Rule,
    target: &Target,
    mut request: Request<WasiBody>,
    attempt: &Attempt,
) -> Result<Request<WasiBody>, Failed> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = Uri::try_from(path).map_err(|_| Failed::Wasi(Error::HttpRequestUriInvalid))?;
    let host = HeaderValue::try_from(target.authority()).expect("a host is visible ASCII");
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    for (name, value) in templated(egress, rule, target).await? {
        headers.insert(name, value);
    }
    let to_send = Arc::clone(&attempt.to_send);
    Ok(request.map(|body| {
        Counted::new(body, limits::HTTP_REQUEST_BYTES_MAX, to_send, Error::HttpRequestBodySize).boxed_unsync()
    }))
}

/// Files are read for it: not on the threads that serve everybody.
async fn templated(
    egress: &Arc<Egress>,
    rule: Rule,
    target: &Target,
) -> Result<Vec<(HeaderName, HeaderValue)>, NoSecret> {
    let (egress, host) = (Arc::clone(egress), target.host.clone());
    let read = tokio::task::spawn_blocking(move || egress.secrets.headers(&rule, &host)).await;
    match read {
        Ok(headers) => headers,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn receive(
    response: Response<hyper::body::Incoming>,
    options: RequestOptions,
    attempt: &Attempt,
) -> Result<Response<WasiBody>, Failed> {
    let announced = response.body().size_hint().lower();
    if announced > limits::HTTP_RESPONSE_BYTES_MAX {
        return Err(Failed::Wasi(Error::HttpResponseBodySize(Some(announced))));
    }
    let to_receive = Arc::clone(&attempt.to_receive);
    Ok(response.map(|body| {
        let body = body.map_err(|error| of_hyper(&error)).boxed_unsync();
        Counted::new(body, limits::HTTP_RESPONSE_BYTES_MAX, to_receive, Error::HttpResponseBodySize)
            .bounded_by(options.between_bytes_timeout)
            .boxed_unsync()
    }))
}

/// Keeps the connection and its places for as long as the guest has the response.
fn rest(connection: AbortOnDropJoinHandle<hyper::Result<()>>, places: Places) -> Rest {
    Box::new(async move {
        let _places = places;
        // What went wrong is seen by whoever reads the body.
        let _ = connection.await;
        Ok(())
    })
}
