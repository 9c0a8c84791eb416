//! The error that every endpoint returns, and the sets of error responses that the OpenAPI document lists.

use axum::Json;
use axum::extract::rejection::{BytesRejection, FormRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// An error with this status, a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// 503: a store does not answer.
    pub fn unavailable(error: &anyhow::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{error:#}"))
    }

    /// 400: the request is invalid.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(error: BytesRejection) -> Self {
        let code = if error.status() == StatusCode::PAYLOAD_TOO_LARGE { "too_large" } else { "bad_request" };
        Self::new(error.status(), code, error.body_text())
    }
}

impl From<FormRejection> for ApiError {
    fn from(error: FormRejection) -> Self {
        match error.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => Self::new(status, "too_large", error.body_text()),
            status @ StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(status, "no_form", error.body_text()),
            _ => Self::bad_request(error.body_text()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorBody { code: self.code, message: self.message };
        (self.status, Json(ErrorDocument { error })).into_response()
    }
}

/// The document of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDocument {
    error: ErrorBody,
}

/// The error itself.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    /// For programs: `bad_request`, `unknown_host`, `token_needed`...
    code: &'static str,
    /// For people.
    message: String,
}

/// Errors that every endpoint may return. Those of the HTTP parser have no body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError and the HTTP parser send")]
pub enum CommonErrors {
    /// The request is not valid HTTP; without a body.
    #[response(status = 400)]
    NoHttp,
    /// The Host header does not name this service (`unknown_host`), or the request comes from a page of another site
    /// (`cross_site`).
    #[response(status = 403)]
    Forbidden(#[to_schema] ErrorDocument),
    /// The address does not accept this method (`method_not_allowed`).
    #[response(status = 405)]
    OtherMethod(#[to_schema] ErrorDocument),
    /// The address is too long (`address_too_long`).
    #[response(status = 414)]
    AddressTooLong(#[to_schema] ErrorDocument),
    /// The headers have too many bytes or lines; without a body.
    #[response(status = 431)]
    HeadTooLong,
    /// The request took too long (`timeout`).
    #[response(status = 504)]
    Timeout(#[to_schema] ErrorDocument),
}

/// Errors of an endpoint with the concurrency limit or a call to a store.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum UnavailableErrors {
    /// A store does not answer (`unavailable`), or too many requests are in progress (`busy`).
    #[response(status = 503)]
    Unavailable(#[to_schema] ErrorDocument),
}

/// Errors of an endpoint with parameters or a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum ParameterErrors {
    /// A parameter or the body is invalid (`bad_request`); without a body when the request is not valid HTTP.
    #[response(status = 400)]
    BadRequest(#[to_schema] ErrorDocument),
}

/// Errors of an endpoint that changes something.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum TokenErrors {
    /// Requests from this address need the bearer token (`token_needed`).
    #[response(status = 401)]
    TokenNeeded(#[to_schema] ErrorDocument),
}

/// Errors of an endpoint that takes the name of a job or a symbol.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum UnknownNameErrors {
    /// The job does not exist (`unknown_job`), or the symbol is not recorded (`unknown_symbol`).
    #[response(status = 404)]
    Unknown(#[to_schema] ErrorDocument),
}

pub async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
}

pub async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address does not accept this method")
}
