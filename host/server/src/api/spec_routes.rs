//! The routes by which the API says what it is. They say nothing of any tenant, so they ask for none.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::described::{NotModified, Routes};
use super::etag::tagged;
use super::extract::NoParams;
use super::state::Pages;

/// What the page may load: nothing but its own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Routes {
    Routes::new().with(__path_document, document).with(__path_page, page)
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "host", operation_id = "openapi",
    responses(
        (status = 200, body = serde_json::Value, description = "OpenAPI 3.1.", headers(("etag" = String))),
        NotModified,
    ),
)]
async fn document(State(pages): State<Pages>, _: NoParams, headers: HeaderMap) -> Response {
    tagged(&headers, "application/json", (pages.document)())
}

/// The same to be read: one page.
#[utoipa::path(
    get, path = "/v1/reference", tag = "host", operation_id = "reference",
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The page.", headers(("etag" = String))),
        NotModified,
    ),
)]
async fn page(State(pages): State<Pages>, _: NoParams, headers: HeaderMap) -> Response {
    let mut page = tagged(&headers, "text/html; charset=utf-8", (pages.reference)());
    let policy = HeaderValue::from_static(POLICY);
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    page.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}
