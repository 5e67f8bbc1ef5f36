//! Answers that a client may have already: each has an entity tag, and a client that shows it gets 304
//! without a body (RFC 9110, section 13).

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::problem::Problem;

/// A JSON document under its tag.
pub(super) fn json(request: &HeaderMap, document: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(document).map_err(Problem::internal)?;
    Ok(tagged(request, "application/json", body))
}

/// A body under its tag, which is a hash of its bytes: the same on every host of a version. It is always to
/// be asked for again, and need not be sent again.
pub(super) fn tagged(request: &HeaderMap, media: &'static str, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let tag = format!("\"{:016x}\"", xxh3_64(&body));
    let known = request.get_all(header::IF_NONE_MATCH).iter().any(|known| names(known, &tag));
    let tag = HeaderValue::try_from(tag).expect("hexadecimal digits in quotes");
    let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, HeaderValue::from_static(media))], body).into_response()
}

/// Whether a list of tags has this one, or is `*`. A comparison of the weak kind.
fn names(list: &HeaderValue, tag: &str) -> bool {
    let list = list.to_str().unwrap_or_default();
    list.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let first = tagged(&HeaderMap::new(), "text/plain", "body");
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for (known, status) in [
            (tag.clone(), 304),
            (format!("W/{tag}"), 304),
            (format!("\"other\", {tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
            (String::new(), 200),
        ] {
            let request = [(header::IF_NONE_MATCH, HeaderValue::try_from(&known).unwrap())];
            let answer = tagged(&request.into_iter().collect(), "text/plain", "body");
            assert_eq!(answer.status(), status, "{known}");
            assert_eq!(answer.headers()[header::ETAG].to_str().unwrap(), tag);
        }
        let other = tagged(&HeaderMap::new(), "text/plain", "another body");
        assert_ne!(other.headers()[header::ETAG].to_str().unwrap(), tag);
    }
}
