//! The routes by which the API says what it is. They say nothing of any tenant, so they ask for none.

use axum::http::HeaderMap;
use axum::response::Response;

use super::etag::tagged;
use super::extract::NoParams;
use super::openapi::{self, NotModified, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().with(__path_document, document)
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
