//! The client's end of the API: typed calls that give views or say whose fault it is that they cannot.
//!
//! Calls map one to one to the routes of a host. Each builds a request, sends it once, and reads the
//! answer as the view that the route promises; a problem document becomes [`ClientError::Problem`].

use std::time::Duration;

use backstitch_core::{Json, RunId, Seq};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use backstitch_wire::history::Part;
use backstitch_wire::params::{
    CancelQuery, DeploymentsView, HistoryQuery, IDEMPOTENCY_KEY_HEADER, LedgerQuery, MANIFEST_HEADER,
    RESULT_WAIT_MS_MAX, ReasonBody, RepairsQuery, ResultQuery, SignalQuery, TENANT_HEADER, UpdateQuery, WASM,
};
use backstitch_wire::problem::ProblemDocument;
use backstitch_wire::tasks::SettledTask;
use backstitch_wire::views::{
    DeployedView, DeploymentView, HealthView, LedgerView, LiveView, QueryView, ReadyView, RepairsView,
    ReplayView, RunCountView, RunDetailView, RunListView, RunView, StartedView, TenantView, UpdateView,
    WaitView,
};
use backstitch_wire::{CountRuns, ForkRun, LimitTenant, ListRuns, ResetRun, SendUpdate, StartRun};

/// A host on this machine answers or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server gives a request, so that the server's word is heard.
const QUICK_TIMEOUT: Duration = Duration::from_secs(40);
/// For calls that upload and compile, or go over a whole ledger.
const SLOW_TIMEOUT: Duration = Duration::from_secs(310);

/// A host, seen from outside. Cheap to clone; clones share connections.
///
/// # Errors
///
/// Every call gives a [`ClientError`]. The codes of [`ClientError::Problem`] are the host's and stable;
/// common to many calls are `unknown-run`, `run-closed`, `invalid-name`, and, for another try later,
/// `database-unavailable`, `host-not-ready`, `overloaded` and `timeout`.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    tenant: Option<String>,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there, or the connection broke: whether the request took effect is unknown.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// Whom we asked.
        url: String,
        /// What the operating system said.
        reason: String,
    },
    /// The host refused, and said why.
    #[error("{detail} ({code}, HTTP {status})")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// Stable, for programs.
        code: String,
        /// What happened, why, and what to do.
        detail: String,
    },
    /// Whoever answered does not speak this API.
    #[error("{0}")]
    Protocol(String),
}

impl ClientError {
    /// What one of several answers to tasks came to: as a request with that answer alone would have ended.
    pub fn of_answer(settled: SettledTask) -> Result<(), Self> {
        match settled {
            SettledTask { status: 200, .. } => Ok(()),
            SettledTask { status, code, detail } => {
                let (code, detail) = (code.unwrap_or_default(), detail.unwrap_or_default());
                Err(Self::Problem { status, code, detail })
            }
        }
    }

    /// The code of the host's problem document, if the host refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem { code, .. } => Some(code),
            Self::Unreachable { .. } | Self::Protocol(_) => None,
        }
    }

    /// Whether the host has refused and would say the same again. Another error is worth another try.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Problem { status, .. } if *status < 500 && !matches!(status, 408 | 429))
    }

    /// Whether the host refused with this HTTP status.
    pub fn has_status(&self, wanted: u16) -> bool {
        matches!(self, Self::Problem { status, .. } if *status == wanted)
    }
}

impl Client {
    /// A client of the host at `url`, such as `http://127.0.0.1:7467`. Connects when first used.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if `url` is no plain HTTP address.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Protocol(format!("{url:?} is not the address of a host: {why}"));
        let base = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        match base.scheme() {
            "http" if !base.cannot_be_a_base() => {}
            "https" => {
                return Err(bad("TLS is not built in; reach the host through a local proxy or tunnel"));
            }
            _ => return Err(bad("write it as http://HOST:PORT")),
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("backstitch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Protocol(format!("no HTTP client: {}", causes(&error))))?;
        Ok(Self { http, base, tenant: None })
    }

    /// A client of another host of the same database, speaking for the same tenant.
    ///
    /// # Errors
    ///
    /// As [`Client::new`].
    pub fn elsewhere(&self, url: &str) -> Result<Self, ClientError> {
        Ok(Self { tenant: self.tenant.clone(), ..Self::new(url)? })
    }

    /// The same client, speaking for `tenant`.
    pub fn for_tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Whom this client asks.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// How the host is.
    pub async fn health(&self) -> Result<HealthView, ClientError> {
        self.give(self.get(&["health"])).await
    }

    /// Has all that follows from the ledgers of some runs, and stands beside them, made anew: timers, tasks, what children
    /// have told, entities and attributes. Those of open runs soon after, by their hosts. The answer says where to go on:
    /// behind which run.
    pub async fn repair_all(&self, after: Option<RunId>) -> Result<RepairsView, ClientError> {
        self.give(self.post(&["repairs"]).query(&RepairsQuery { after }).timeout(SLOW_TIMEOUT)).await
    }

    /// That the host is alive.
    pub async fn live(&self) -> Result<LiveView, ClientError> {
        self.give(self.get(&["health", "live"])).await
    }

    /// That the host is ready. Refused with `not-ready` and the reason.
    pub async fn ready(&self) -> Result<ReadyView, ClientError> {
        self.give(self.get(&["health", "ready"])).await
    }

    /// Deploys a component. Refused with status 422 if it is none, or not one that this host runs.
    pub async fn deploy(&self, component: Vec<u8>) -> Result<DeployedView, ClientError> {
        self.give(wasm(self.post(&["deployments"]), component)).await
    }

    /// The same with a manifest: what its activities may reach, as JSON text. Refused with
    /// `invalid-manifest` and all that is wrong with it, and with `manifest-of-workflow`.
    pub async fn deploy_with_manifest(
        &self,
        component: Vec<u8>,
        manifest: &str,
    ) -> Result<DeployedView, ClientError> {
        // In one line, because it travels in a header.
        let manifest = match serde_json::from_str::<serde_json::Value>(manifest) {
            Ok(document) => document.to_string(),
            Err(error) => return Err(ClientError::Protocol(format!("the manifest is not JSON: {error}"))),
        };
        self.give(wasm(self.post(&["deployments"]), component).header(MANIFEST_HEADER, manifest)).await
    }

    /// What serves which name now.
    pub async fn deployments(&self) -> Result<Vec<DeploymentView>, ClientError> {
        self.give(self.get(&["deployments"])).await.map(|view: DeploymentsView| view.deployments)
    }

    /// Starts a run. Refused with `unknown-workflow` if nothing deployed offers it, and with
    /// `workflow-id-taken` as its [`IdReuse`](crate::IdReuse) says.
    pub async fn start(&self, start: StartRun) -> Result<StartedView, ClientError> {
        let request = self.post(&["runs"]).json(&start);
        self.decode(request, decode_started).await
    }

    /// Starts a run under a key. Repeated with the same key, it is the same start, on whatever host. Refused
    /// with `idempotency-key-reused` if the key stands for another start.
    pub async fn start_once(&self, key: &str, start: StartRun) -> Result<StartedView, ClientError> {
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        let request = self.post(&["runs"]).header(IDEMPOTENCY_KEY_HEADER, quoted).json(&start);
        self.decode(request, decode_started).await
    }

    /// One run, by run id or workflow id.
    pub async fn run(&self, id: &str) -> Result<RunDetailView, ClientError> {
        self.decode(self.get(&["runs", id]), decode_detail).await
    }

    /// A page of runs, newest first. Refused with `invalid-filter` if the condition is none.
    pub async fn list(&self, list: ListRuns) -> Result<RunListView, ClientError> {
        self.give(self.get(&["runs"]).query(&list)).await
    }

    /// How many runs there are of those that are asked for. Refused as [`list`](Self::list) is.
    pub async fn count(&self, count: CountRuns) -> Result<RunCountView, ClientError> {
        self.give(self.get(&["run-count"]).query(&count)).await
    }

    /// A page of a run's ledger.
    pub async fn ledger(&self, id: &str, from: Seq, limit: Option<u32>) -> Result<LedgerView, ClientError> {
        let query = LedgerQuery { from_seq: from.0, limit };
        self.give(self.get(&["runs", id, "ledger"]).query(&query)).await
    }

    /// The payload of a row, whatever its size. Refused with `no-such-payload` if the row has none.
    pub async fn payload(&self, id: &str, seq: Seq) -> Result<Json, ClientError> {
        let seq = seq.to_string();
        self.give(self.get(&["runs", id, "ledger", &seq, "payload"])).await
    }

    /// What the tenant may store and has stored.
    pub async fn tenant(&self) -> Result<TenantView, ClientError> {
        self.give(self.get(&["tenant"])).await
    }

    /// Says what the tenant may store. Refused with `invalid-quota` if it is out of bounds.
    pub async fn limit_tenant(&self, limit: LimitTenant) -> Result<TenantView, ClientError> {
        self.give(self.put(&["tenant"]).json(&limit)).await
    }

    /// The run as soon as it has closed or is parked, or as it is after `wait`, at most a minute.
    pub async fn result(&self, id: &str, wait: Duration) -> Result<RunView, ClientError> {
        let wait_ms = wait_ms(wait);
        let request = self.get(&["runs", id, "result"]).query(&ResultQuery { wait_ms });
        self.give(request.timeout(QUICK_TIMEOUT + Duration::from_millis(wait_ms))).await
    }

    /// Sends a signal.
    pub async fn signal(&self, id: &str, name: &str, payload: &Json) -> Result<(), ClientError> {
        self.signal_once(id, name, payload, None).await
    }

    /// Sends a signal under an id: repeated, it counts once.
    pub async fn signal_once(
        &self,
        id: &str,
        name: &str,
        payload: &Json,
        signal_id: Option<String>,
    ) -> Result<(), ClientError> {
        let request = self.post(&["runs", id, "signals", name]).query(&SignalQuery { signal_id });
        self.send(json(request, payload)).await.map(drop)
    }

    /// Asks a run to cancel.
    pub async fn cancel(&self, id: &str, reason: &str) -> Result<(), ClientError> {
        self.cancel_once(id, reason, None).await
    }

    /// Asks a run to cancel under an id: repeated, it is asked once.
    pub async fn cancel_once(
        &self,
        id: &str,
        reason: &str,
        cancel_id: Option<String>,
    ) -> Result<(), ClientError> {
        let request = self.post(&["runs", id, "cancel"]).query(&CancelQuery { cancel_id });
        self.send(request.json(&because(reason))).await.map(drop)
    }

    /// Stops a run.
    pub async fn terminate(&self, id: &str, reason: &str) -> Result<(), ClientError> {
        self.send(self.post(&["runs", id, "terminate"]).json(&because(reason))).await.map(drop)
    }

    /// Lets a parked run go on. Refused with `not-parked` while it is running.
    pub async fn retry(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.post(&["runs", id, "retry"])).await.map(drop)
    }

    /// Holds a run: it hears of nothing, no timer fires and no attempt begins until it is resumed. A run
    /// that is held already stays so. Refused with `run-parked` while it is parked.
    pub async fn pause(&self, id: &str, reason: &str) -> Result<(), ClientError> {
        self.send(self.post(&["runs", id, "pause"]).json(&because(reason))).await.map(drop)
    }

    /// Lets a run go on that was paused. Refused with `not-paused` if it is not.
    pub async fn resume(&self, id: &str, reason: &str) -> Result<(), ClientError> {
        self.send(self.post(&["runs", id, "resume"]).json(&because(reason))).await.map(drop)
    }

    /// Starts a new run with the first rows of another's ledger. A host takes it up within a second.
    /// Refused with `no-such-row` if the run has no such row, or that row closed it.
    pub async fn fork(&self, id: &str, fork: &ForkRun) -> Result<StartedView, ClientError> {
        let request = self.post(&["runs", id, "fork"]).timeout(SLOW_TIMEOUT).json(fork);
        self.decode(request, decode_started).await
    }

    /// Stops a run, if it is open, and lets a new run of its workflow id go on from an earlier row.
    /// Refused as [`fork`](Self::fork) is.
    pub async fn reset(&self, id: &str, reset: &ResetRun) -> Result<StartedView, ClientError> {
        let request = self.post(&["runs", id, "reset"]).timeout(SLOW_TIMEOUT).json(reset);
        self.decode(request, decode_started).await
    }

    /// Lets a new run of the workflow id go on from the sound rows of a run whose ledger is damaged. Refused if it is not
    /// damaged, and as [`reset`](Self::reset) is.
    pub async fn repair(&self, id: &str, repair: &ResetRun) -> Result<StartedView, ClientError> {
        let request = self.post(&["runs", id, "repair"]).timeout(SLOW_TIMEOUT).json(repair);
        self.decode(request, decode_started).await
    }

    /// The runs that a run has started, oldest first: at most a thousand.
    pub async fn children(&self, id: &str) -> Result<Vec<RunView>, ClientError> {
        self.give(self.get(&["runs", id, "children"])).await.map(|view: RunListView| view.runs)
    }

    /// Leads the run's own component, or `component`, along its ledger.
    pub async fn replay(&self, id: &str, component: Option<Vec<u8>>) -> Result<ReplayView, ClientError> {
        let request = self.post(&["runs", id, "replay"]).timeout(SLOW_TIMEOUT);
        self.give(match component {
            Some(component) => wasm(request, component),
            None => request,
        })
        .await
    }

    /// Asks a run about its state.
    pub async fn query(&self, id: &str, name: &str, input: &Json) -> Result<QueryView, ClientError> {
        let request = self.post(&["runs", id, "query", name]).timeout(SLOW_TIMEOUT);
        self.give(json(request, input)).await
    }

    /// Sends an update, and waits for its answer for at most a minute.
    pub async fn update(&self, id: &str, update: SendUpdate) -> Result<UpdateView, ClientError> {
        let SendUpdate { name, input, id: update_id, wait } = update;
        let wait_ms = wait_ms(wait);
        let request = self.post(&["runs", id, "updates", &name]).query(&UpdateQuery { update_id, wait_ms });
        let request = request.timeout(SLOW_TIMEOUT + Duration::from_millis(wait_ms));
        self.give(json(request, &input)).await
    }

    /// The text of a run's history with these parts.
    pub async fn history(&self, id: &str, parts: &[Part]) -> Result<Vec<u8>, ClientError> {
        let request = self.get(&["runs", id, "history"]).query(&HistoryQuery::of(parts));
        let response = self.send(request.timeout(SLOW_TIMEOUT)).await?;
        let text = response.bytes().await.map_err(|error| self.broken(&error))?;
        Ok(text.to_vec())
    }

    pub(crate) fn get(&self, path: &[&str]) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &[&str]) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    fn put(&self, path: &[&str]) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL can be a base: checked in `new`")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        let request = self.http.request(method, url).timeout(QUICK_TIMEOUT);
        match &self.tenant {
            Some(tenant) => request.header(TENANT_HEADER, tenant),
            None => request,
        }
    }

    pub(crate) async fn give<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        self.decode(request, |body| serde_json::from_slice(body)).await
    }

    async fn decode<T>(
        &self,
        request: RequestBuilder,
        decode: impl Fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|error| self.broken(&error))?;
        decode(&body).map_err(|error| {
            let url = self.url();
            ClientError::Protocol(format!("{url} answered something else than was asked for: {error}"))
        })
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<ProblemDocument>(&body) {
            Ok(ProblemDocument { status, code, detail, .. }) => ClientError::Problem { status, code, detail },
            Err(_) => {
                let url = self.url();
                ClientError::Protocol(format!("{url} answered {status}, and not as a Backstitch host would"))
            }
        }
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        let reason = causes(error);
        if error.is_builder() {
            ClientError::Protocol(format!("a request that cannot be sent: {reason}"))
        } else {
            ClientError::Unreachable { url: self.url().to_owned(), reason }
        }
    }
}

/// A view with a flattened run is read in two passes: serde's `flatten` goes through a buffer in which
/// [`Json`] cannot keep its bytes.
fn decode_started(body: &[u8]) -> serde_json::Result<StartedView> {
    #[derive(Deserialize)]
    struct Rest {
        created: bool,
    }
    let Rest { created } = serde_json::from_slice(body)?;
    Ok(StartedView { run: serde_json::from_slice(body)?, created })
}

/// See [`decode_started`].
fn decode_detail(body: &[u8]) -> serde_json::Result<RunDetailView> {
    #[derive(Deserialize)]
    struct Rest {
        #[serde(default, deserialize_with = "backstitch_wire::views::given")]
        input: Option<Json>,
        rows: u32,
        waits_for: Vec<WaitView>,
        signals_kept: u32,
        start: Option<Json>,
        #[serde(default, deserialize_with = "backstitch_wire::views::given")]
        entity: Option<Json>,
        damage: Option<String>,
    }
    let Rest { input, rows, waits_for, signals_kept, start, entity, damage } = serde_json::from_slice(body)?;
    let run = serde_json::from_slice(body)?;
    Ok(RunDetailView { run, input, rows, waits_for, signals_kept, start, entity, damage })
}

/// A payload's own bytes as the body.
pub(crate) fn json(request: RequestBuilder, payload: &Json) -> RequestBuilder {
    request.header("content-type", "application/json").body(payload.as_str().to_owned())
}

/// As long as a host waits for one request, at most.
fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(RESULT_WAIT_MS_MAX)
}

fn wasm(request: RequestBuilder, component: Vec<u8>) -> RequestBuilder {
    request.timeout(SLOW_TIMEOUT).header("content-type", WASM).body(component)
}

pub(crate) fn because(reason: &str) -> impl Serialize {
    ReasonBody { reason: reason.to_owned() }
}

/// The innermost cause: the operating system's own words, without the layers that passed them on.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str, path: &[&str]) -> String {
        let request = Client::new(url).unwrap().get(path).build().unwrap();
        request.url().as_str().to_owned()
    }

    #[test]
    fn ids_cannot_leave_their_place_in_the_path() {
        let id = "a/b?c#d %é";
        let url = path("http://127.0.0.1:7467", &["runs", id, "ledger"]);
        assert_eq!(url, "http://127.0.0.1:7467/v1/runs/a%2Fb%3Fc%23d%20%25%C3%A9/ledger");
        assert_eq!(path("http://127.0.0.1:7467/base/", &["health"]), "http://127.0.0.1:7467/base/v1/health");
    }

    #[test]
    fn an_address_that_is_none_is_refused_before_the_first_call() {
        for url in ["", "localhost:7467", "https://h", "ftp://h", "mailto:x@y"] {
            assert!(matches!(Client::new(url), Err(ClientError::Protocol(_))), "{url}");
        }
    }

    const RUN: &str = r#""run_id":"00000000-0000-0000-0000-000000000001","workflow_id":"w","generation":0,
        "workflow":"w","digest":"0000000000000000000000000000000000000000000000000000000000000000",
        "status":"completed","started_at":"x","output":{"b":1.0,"a":[ ]}"#;

    #[test]
    fn outputs_inside_flattened_runs_keep_their_bytes() {
        let started = decode_started(format!("{{{RUN},\"created\":true}}").as_bytes()).unwrap();
        assert!(started.created);
        assert_eq!(started.run.output.unwrap().as_str(), r#"{"b":1.0,"a":[ ]}"#);
        let rest = r#""input":[1.0],"rows":3,"waits_for":[],"signals_kept":0"#;
        let detail = decode_detail(format!("{{{RUN},{rest}}}").as_bytes()).unwrap();
        assert_eq!((detail.input.as_ref().unwrap().as_str(), detail.rows), ("[1.0]", 3));
        let sent = serde_json::to_vec(&detail).unwrap();
        assert_eq!(decode_detail(&sent).unwrap().run.output.unwrap().as_str(), r#"{"b":1.0,"a":[ ]}"#);
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable_with_the_systems_reason() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::new(&url).unwrap().health().await.unwrap_err();
        let ClientError::Unreachable { reason, .. } = error else { panic!("{error:?}") };
        assert!(reason.to_lowercase().contains("refused"), "{reason}");
    }
}
