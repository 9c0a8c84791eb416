//! The status page: one document without a build step or a foreign script. It is complete without JavaScript.
//!
//! [`Renderer`] reads the [facts](facts::Facts) and renders the parts once for all viewers; [`events`] sends changed parts to
//! open pages; [`forms`] handles the buttons.

mod action_items;
mod calendar;
mod charts;
mod coverage;
mod coverage_cells;
pub mod events;
mod facts;
mod format;
pub mod forms;
mod gaps;
mod html;
mod jobs;
mod render;
mod stores;
mod streams;
mod summary;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use maud::{DOCTYPE, Markup, PreEscaped};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::AppState;
use super::response::{CommonErrors, UnavailableErrors};
use events::{PageUpdate, SUBSCRIBERS_MAX};
use render::{Renderer, Rendering};

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");
/// An icon that looks the same in light and dark.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
    height='16' rx='3' fill='%23116b54'/%3E%3Cpath d='M3 11V7m3 4V4m3 7V8m3 3V5' stroke='white' stroke-width='2'/%3E%3C/svg%3E";

/// State shared by the routes of the page.
pub struct Page {
    renderer: Renderer,
    results: forms::FormResults,
    /// One permit for each page that listens to `/events`.
    permits: Arc<Semaphore>,
    /// Cancelled when the service stops.
    stop: CancellationToken,
}

impl Page {
    /// A page that ends its event streams at `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(SUBSCRIBERS_MAX));
        Self { renderer: Renderer::default(), results: forms::FormResults::default(), permits, stop }
    }

    /// Takes samples, and counts while the page has viewers, until the service stops.
    pub async fn run(&self, state: &AppState) {
        self.renderer.run(state, &self.stop).await;
    }
}

/// Identifies the program: a page that another program rendered reloads itself.
fn version() -> String {
    format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), crc32fast::hash(&[CSS.as_bytes(), JS.as_bytes()].concat()))
}

/// `?result=`: the id of the form result to show.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Shown {
    /// Shows the result of a button; an unknown id shows nothing.
    result: Option<String>,
}

/// The status page
///
/// With `Accept: application/json` it returns only the parts, for an open page that cannot listen to `/events`.
#[utoipa::path(get, path = "/", tag = "page", params(Shown), responses(
    (status = 200, description = "The page, or its parts", content((String = "text/html"), (PageUpdate = "application/json"))),
    CommonErrors, UnavailableErrors,
))]
pub async fn page(
    State(state): State<Arc<AppState>>,
    Extension(page): Extension<Arc<Page>>,
    shown: Result<Query<Shown>, QueryRejection>,
    request_headers: HeaderMap,
) -> Response {
    page.renderer.refresh_counts().await;
    let rendering = page.renderer.latest(&state).await;
    let result = shown.ok().and_then(|Query(shown)| page.results.find(&shown.result?));
    let result = result.as_ref().map(result_markup).unwrap_or_default();
    if request_headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json") {
        let mut update = events::update_since(&rendering, 0);
        if !result.0.is_empty() {
            update.parts.insert("result", result.into_string());
        }
        return ([(header::CACHE_CONTROL, "no-store")], Json(update)).into_response();
    }
    // Only the page's own script and style may run: injected markup can do neither.
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        // With `no-referrer` a browser sends `Origin: null` for our own form, as it does for a foreign page.
        (header::REFERRER_POLICY, "same-origin".to_owned()),
    ];
    (headers, Html(document(&state, &rendering, &result, &nonce).into_string())).into_response()
}

/// The result of a form, above everything else.
fn result_markup(result: &forms::FormResult) -> Markup {
    let (class, mark) = if result.is_done { ("good", "\u{2713}") } else { ("bad", "\u{2715}") };
    maud::html! { p class=(class) { span aria-hidden="true" { (mark) } " " (result.words) } }
}

/// The sections of `main` below the summary: id and heading.
const SECTIONS: [(&str, &str); 6] = [
    ("trend", "The last hour"),
    ("coverage", "Coverage"),
    ("gaps", "Gaps"),
    ("jobs", "Jobs"),
    ("stores", "Stores and connections"),
    ("streams", "Streams"),
];

fn document(state: &AppState, rendering: &Rendering, result: &Markup, nonce: &str) -> Markup {
    let part = |id: &str| PreEscaped(rendering.part(id));
    maud::html! {
        (DOCTYPE)
        html lang="en" data-page=(version()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (rendering.title) }
                link rel="icon" href=(ICON);
                style nonce=(nonce) { (PreEscaped(CSS)) }
            }
            body {
                (jobs::marks())
                a class="skip" href="#main" { "Skip to the content" }
                header id="head" { (part("head")) }
                main id="main" {
                    p id="lost" class="bad" role="alert" hidden { "The service does not answer: this page is out of date." }
                    div id="result" role="status" { (result) }
                    div id="action-items" aria-live="polite" { (part("action-items")) }
                    section id="summary" aria-label="Summary" { (part("summary")) }
                    @for (id, title) in SECTIONS {
                        section aria-labelledby={ (id) "-title" } {
                            h2 id={ (id) "-title" } { (title) }
                            @if id == "jobs" { (form(state)) }
                            div id=(id) { (part(id)) }
                        }
                    }
                }
                footer class="dim" {
                    nav aria-label="The same for programs" {
                        @for (path, name) in API_LINKS { a href=(path) { (name) } " " }
                    }
                }
                script nonce=(nonce) { (PreEscaped(JS)) }
            }
        }
    }
}

const API_LINKS: [(&str, &str); 5] = [
    ("/api/v1/status", "status"),
    ("/api/v1/gaps", "gaps"),
    ("/api/v1/coverage", "coverage"),
    ("/api/v1/jobs", "jobs"),
    ("/metrics", "metrics"),
];

/// The form that all buttons belong to. The page never replaces it, so that text typed into it stays.
fn form(state: &AppState) -> Markup {
    let is_local = state.options.listen.ip().is_loopback();
    if !is_local && state.token.borrow().is_none() {
        return maud::html! {
            p class="dim" {
                "This service listens beyond its own machine and has no admin token, so this page can change nothing: \
                 set admin-token to allow it."
            }
        };
    }
    maud::html! {
        form id="do" method="post" action="/do" {
            @if !is_local {
                label for="token" { "Admin token" } " "
                input id="token" name="token" type="password" autocomplete="current-password" aria-describedby="token-why";
                // Enter in the field presses the first button: it must change nothing.
                " " button name="do" value="try" id="try" { "Try the token" } " "
                span id="token-why" class="dim" {
                    "this service listens beyond its own machine: every button needs it"
                } " "
            }
            button name="do" value="repair" id="repair" { "Compare and repair" } " "
            span class="dim" { "moves the cache forward and sends missing rows to backfill" }
        }
    }
}
