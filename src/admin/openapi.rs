//! `/api/v1/openapi.json`: the OpenAPI document, generated from the types that the endpoints serve.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::response::{CommonErrors, UnavailableErrors};

/// The title, the tags and the security scheme of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tapekeeper",
        description = "The recorder's state, and requests that change it.\n\n\
            Errors are `{\"error\": {\"code\", \"message\"}}`. An unknown address is 404 (`not_found`).\n\nChanges through the unix socket and from loopback need no \
            token; from any other address they need `Authorization: Bearer ...`, or the form's `token` for a button \
            of the page.",
    ),
    tags(
        (name = "status", description = "State of the recorder"),
        (name = "gaps", description = "Missing ranges"),
        (name = "jobs", description = "The schedule"),
        (name = "repair", description = "Checks and repairs"),
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

/// The document, serialised once.
#[derive(Clone)]
pub struct OpenApiDocument(Arc<Bytes>);

impl OpenApiDocument {
    /// Serialises it.
    pub fn new(document: &utoipa::openapi::OpenApi) -> Self {
        let text = document.to_pretty_json().expect("the document is made of names and texts");
        Self(Arc::new(text.into()))
    }
}

/// This OpenAPI document
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "status", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value), CommonErrors, UnavailableErrors,
))]
pub async fn openapi(Extension(document): Extension<OpenApiDocument>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], Bytes::clone(&document.0))
}
