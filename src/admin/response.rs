//! Errors as every endpoint gives them, and the sets of them that endpoints have.

use axum::Json;
use axum::extract::rejection::{BytesRejection, FormRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// An error answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// An answer with this status, a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// A store does not answer.
    pub fn unavailable(error: &anyhow::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{error:#}"))
    }

    /// What was asked makes no sense.
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

/// Every error's document.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDocument {
    error: ErrorBody,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    /// For programs: `bad_request`, `unknown_host`, `token_needed`...
    code: &'static str,
    /// For people.
    message: String,
}

/// What may come of any request. What the HTTP parser answers has no body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError and the HTTP parser send")]
pub enum CommonErrors {
    /// The request is no HTTP; without a body.
    #[response(status = 400)]
    NoHttp,
    /// The Host is no name of this service (`unknown_host`), or a page of another site asks (`cross_site`).
    #[response(status = 403)]
    Forbidden(#[to_schema] ErrorDocument),
    /// This address takes another method (`method_not_allowed`).
    #[response(status = 405)]
    OtherMethod(#[to_schema] ErrorDocument),
    /// The address has too many bytes (`address_too_long`).
    #[response(status = 414)]
    AddressTooLong(#[to_schema] ErrorDocument),
    /// The head has too many bytes or lines; without a body.
    #[response(status = 431)]
    HeadTooLong,
    /// Not done in time (`timeout`).
    #[response(status = 504)]
    Timeout(#[to_schema] ErrorDocument),
}

/// What may come of a request that waits for its turn or asks a store.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum UnavailableErrors {
    /// A store does not answer (`unavailable`), or too many requests are at work (`busy`).
    #[response(status = 503)]
    Unavailable(#[to_schema] ErrorDocument),
}

/// What may come of a request with parameters or a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum ParameterErrors {
    /// A parameter or the body makes no sense (`bad_request`); without a body when the request is no HTTP.
    #[response(status = 400)]
    BadRequest(#[to_schema] ErrorDocument),
}

/// What may come of a request that changes something.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum TokenErrors {
    /// This way in needs the bearer token (`token_needed`).
    #[response(status = 401)]
    TokenNeeded(#[to_schema] ErrorDocument),
}

/// What may come of a request that names something.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what ApiError sends")]
pub enum UnknownNameErrors {
    /// There is no such job (`unknown_job`), or this symbol is not recorded (`unknown_symbol`).
    #[response(status = 404)]
    Unknown(#[to_schema] ErrorDocument),
}

pub async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
}

pub async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address takes another method")
}
