//! Errors as clients see them: problem documents (RFC 9457) with a stable `code`.
//!
//! Everything that goes wrong behind the API leaves it as a [`Problem`], also what no handler saw:
//! unknown routes, wrong methods, bodies that cannot be read. Internals stay inside: of a mistake of
//! ours the client gets an incident number that the log explains.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use backstitch_core::printable;
use backstitch_engine::ambient;
use backstitch_wire::problem::{MEDIA_TYPE, ProblemDocument};

use super::codes;
use crate::service::ServiceError;

/// A problem on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    instance: Option<String>,
}

impl Problem {
    /// A problem that the client's request has. The detail may repeat what a client or a guest said: it is made
    /// printable.
    pub fn new(status: StatusCode, code: &'static str, detail: impl AsRef<str>) -> Self {
        let detail = printable::lines(detail.as_ref()).into_owned();
        Self { status, code, detail, instance: None }
    }

    /// The request cannot be understood.
    pub fn invalid(code: &'static str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A mistake of ours. Logs `error`; the client gets the number of the incident only.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        let incident = ambient::new_incident_id();
        tracing::error!(%incident, %error, "a request failed for a reason that is not the client's");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            detail: format!("the host made a mistake; its log has more under incident {incident}"),
            instance: Some(format!("urn:uuid:{incident}")),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The document that is sent.
    pub fn document(&self) -> ProblemDocument {
        ProblemDocument {
            kind: format!("urn:backstitch:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail.clone(),
            help: Some(codes::help(self.code)),
            instance: self.instance.clone(),
        }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Unfit { code, message } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
            }
            ServiceError::Invalid { code, message } => Self::invalid(code, message),
            ServiceError::NotFound { code, message } => Self::new(StatusCode::NOT_FOUND, code, message),
            ServiceError::Conflict { code, message } => Self::new(StatusCode::CONFLICT, code, message),
            ServiceError::TooLarge { code, message } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, message)
            }
            ServiceError::Busy { code, message } => Self::new(StatusCode::TOO_MANY_REQUESTS, code, message),
            ServiceError::Unavailable { code, message } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
            }
            ServiceError::Internal(error) => Self::internal(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).expect("strings and numbers always serialise");
        let media_type = (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let mut response = (self.status, [media_type], body).into_response();
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_client_has_its_status_and_keeps_its_code() {
        let message = || "what and why".to_owned();
        let cases = [
            (ServiceError::Unfit { code: "c", message: message() }, 422),
            (ServiceError::Invalid { code: "c", message: message() }, 400),
            (ServiceError::Unfit { code: "c", message: message() }, 422),
            (ServiceError::NotFound { code: "c", message: message() }, 404),
            (ServiceError::Conflict { code: "c", message: message() }, 409),
            (ServiceError::TooLarge { code: "c", message: message() }, 413),
            (ServiceError::Busy { code: "c", message: message() }, 429),
            (ServiceError::Unavailable { code: "c", message: message() }, 503),
        ];
        for (error, status) in cases {
            let document = Problem::from(error).document();
            assert_eq!((document.status, document.code.as_str()), (status, "c"));
            assert_eq!(document.detail, "what and why");
            assert_eq!(document.kind, "urn:backstitch:problem:c");
            assert_eq!(document.help.as_deref(), Some("/v1/reference#problem-c"));
            assert_eq!(document.instance, None);
        }
    }

    #[test]
    fn a_mistake_of_ours_stays_inside() {
        let document = Problem::from(ServiceError::Internal("relation \"runs\" is gone".into())).document();
        assert_eq!((document.status, document.code.as_str()), (500, "internal"));
        assert!(!document.detail.contains("runs"), "{}", document.detail);
        let incident = document.instance.unwrap();
        assert!(document.detail.contains(incident.trim_start_matches("urn:uuid:")));
    }

    #[test]
    fn a_document_survives_its_wire_form() {
        let document = Problem::internal("x").document();
        let text = serde_json::to_string(&document).unwrap();
        assert!(text.starts_with(r#"{"type":"urn:backstitch:problem:internal","title":"#), "{text}");
        assert_eq!(serde_json::from_str::<ProblemDocument>(&text).unwrap(), document);
    }
}
