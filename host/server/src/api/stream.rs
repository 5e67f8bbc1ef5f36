//! A ledger as server-sent events: each row as it comes, under its place as the event's id, so that a client
//! whose connection broke goes on with `Last-Event-ID` where it was.
//!
//! | event | data | and then |
//! |---|---|---|
//! | `row` | [`RowView`](backstitch_wire::views::RowView) | the next |
//! | `closed` | [`RunView`](backstitch_wire::views::RunView) | the end |
//! | `problem` | a problem document | the end; come back with the last id |
//!
//! A stream also ends, without a word, when the host stops and after [`STREAM_MAX`]. There are at most
//! [`STREAMS_MAX`] on a host.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use backstitch_core::{Scope, Seq};
use futures::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::state::Api;
use crate::service::{Follow, Step};

/// Streams at once: each looks at the database twice a second while its run waits.
pub(super) const STREAMS_MAX: usize = 256;
/// How long a stream goes on: clients come back, and those that have gone unseen do not stay for ever.
const STREAM_MAX: Duration = Duration::from_secs(3_600);
/// The longest silence: shorter than what proxies commonly take for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Tells a proxy to pass events on as they come: nginx would gather them otherwise
/// (nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering).
const UNBUFFERED: [(header::HeaderName, HeaderValue); 1] =
    [(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];

/// The media type of event streams.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// The header by which a client says what it had last.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// Whether a client asks for events instead of a page.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media = accepted.flat_map(|list| list.split(',')).filter_map(|range| range.split(';').next());
    media.any(|media| media.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Where to go on: after the last event that the client has had, else at `from`.
fn first(headers: &HeaderMap, from: Seq) -> Result<Seq, Problem> {
    let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(from) };
    let last =
        last.to_str().ok().and_then(|text| text.parse::<u32>().ok()).and_then(|seq| seq.checked_add(1));
    last.map(Seq).ok_or_else(|| {
        let detail = format!("{LAST_EVENT_ID} is the id of an event that this stream gave, such as 17");
        Problem::invalid("invalid-last-event-id", detail)
    })
}

/// What a stream holds while it goes on.
struct Under {
    follow: Follow,
    stopping: CancellationToken,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// A run's ledger from `from` on, as it grows.
pub(super) async fn ledger(
    api: Api,
    scope: Scope,
    id: &str,
    headers: &HeaderMap,
    from: Seq,
) -> Result<Response, Problem> {
    let from = first(headers, from)?;
    let place = api.streams.try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} clients are following runs; read the ledger page by page");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
    })?;
    let follow = api.service.follow(scope, id, from).await?;
    let under = Under { follow, stopping: api.stopping, until: Instant::now() + STREAM_MAX, _place: place };
    let events = stream::unfold(Some(under), async |under| {
        let mut under = under?;
        let step = tokio::select! {
            step = under.follow.next() => step,
            () = under.stopping.cancelled() => return None,
            () = tokio::time::sleep_until(under.until) => return None,
        };
        let (event, is_last) = told(step);
        Some((Ok::<_, Infallible>(event), (!is_last).then_some(under)))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok((UNBUFFERED, events).into_response())
}

/// One step as an event, and whether it is the last.
fn told(step: Result<Step, crate::service::ServiceError>) -> (Event, bool) {
    match step {
        Ok(Step::Row(row)) => (Event::default().event("row").id(row.seq.to_string()).data(line(&row)), false),
        Ok(Step::Closed(run)) => (Event::default().event("closed").data(line(&run)), true),
        Err(error) => {
            let problem = Problem::from(error).document();
            (Event::default().event("problem").data(line(&problem)), true)
        }
    }
}

/// JSON on one line, as an event has it. Within a text JSON has no line breaks: what there is of them
/// stands between values, where a blank says the same.
fn line(document: &impl Serialize) -> String {
    let text = serde_json::to_string(document).expect("views always serialise");
    text.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::Json;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let value = value.parse().unwrap();
        [(name.parse::<header::HeaderName>().unwrap(), value)].into_iter().collect()
    }

    #[test]
    fn events_are_for_those_who_ask_for_them() {
        for (accept, wanted) in [
            ("text/event-stream", true),
            ("Text/Event-Stream;q=1", true),
            ("application/json, text/event-stream", true),
            ("application/json", false),
            ("*/*", false),
        ] {
            assert_eq!(is_wanted(&headers("accept", accept)), wanted, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn a_client_goes_on_after_what_it_had_last() {
        assert_eq!(first(&HeaderMap::new(), Seq(3)).unwrap(), Seq(3));
        assert_eq!(first(&headers(LAST_EVENT_ID, "7"), Seq(3)).unwrap(), Seq(8));
        for wrong in ["", "x", "-1", "4294967295", "4294967296"] {
            let problem = first(&headers(LAST_EVENT_ID, wrong), Seq(0)).unwrap_err();
            assert_eq!(problem.document().code, "invalid-last-event-id", "{wrong:?}");
        }
    }

    #[test]
    fn a_payload_with_line_breaks_is_one_line() {
        let payload = Json::new("{\"a\":\r\n[1,\r2]}").unwrap();
        assert_eq!(line(&payload), "{\"a\":  [1, 2]}");
    }
}
