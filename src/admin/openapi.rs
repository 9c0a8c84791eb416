//! `/api/v1/openapi.json`: the document of every endpoint, made from the types that serve it.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::response::{CommonErrors, UnavailableErrors};

/// What the document says beside its endpoints.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tapekeeper",
        description = "Where the recorder stands, and what it is asked to do.\n\nErrors are `{\"error\": {\"code\", \"message\"}}`. \
            An address that is not here is 404 (`not_found`).\n\nThrough the unix socket and from loopback nobody \
            needs a token to change something; from anywhere else it is `Authorization: Bearer ...`, or the form's \
            `token` for a button of the page.",
    ),
    tags(
        (name = "status", description = "Where it stands"),
        (name = "gaps", description = "What is missing"),
        (name = "jobs", description = "The schedule"),
        (name = "repair", description = "What can be mended"),
        (name = "health", description = "For probes"),
        (name = "page", description = "For people, in a browser"),
    ),
    modifiers(&Token),
)]
pub struct ApiInfo;

struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// The document, written once.
#[derive(Clone)]
pub struct OpenApiDocument(Arc<Bytes>);

impl OpenApiDocument {
    /// Writes it.
    pub fn new(document: &utoipa::openapi::OpenApi) -> Self {
        let text = document.to_pretty_json().expect("the document is made of names and texts");
        Self(Arc::new(text.into()))
    }
}

/// This document
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "status", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value), CommonErrors, UnavailableErrors,
))]
pub async fn openapi(Extension(document): Extension<OpenApiDocument>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], Bytes::clone(&document.0))
}
