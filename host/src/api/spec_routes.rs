//! The routes by which the API says what it is. They say nothing of any tenant, so they ask for none.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::etag::tagged;
use super::extract::NoParams;
use super::openapi::{self, NotModified, Routes};
use super::reference;

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
async fn document(_: NoParams, headers: HeaderMap) -> Response {
    tagged(&headers, "application/json", openapi::text())
}

/// The same to be read: one page.
#[utoipa::path(
    get, path = "/v1/reference", tag = "host", operation_id = "reference",
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The page.", headers(("etag" = String))),
        NotModified,
    ),
)]
async fn page(_: NoParams, headers: HeaderMap) -> Response {
    let mut page = tagged(&headers, "text/html; charset=utf-8", reference::page());
    let policy = HeaderValue::from_static(reference::POLICY);
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    page.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}
