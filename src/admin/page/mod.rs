//! The status page: one document, no build step, no foreign script, whole without JavaScript.
//!
//! [`Renderer`] prints its parts once for all who look; [`events`] tells open pages what has changed; [`forms`] does what
//! its buttons ask for.

mod action_items;
mod calendar;
mod charts;
mod coverage;
mod coverage_cells;
pub mod events;
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
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::AppState;
use super::response::{CommonErrors, UnavailableErrors};
use events::{PageUpdate, SUBSCRIBERS_MAX};
use html::{Escaped, put};
use render::{Renderer, Rendering};

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");
/// A square that is the same in light and dark.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
    height='16' rx='3' fill='%23116b54'/%3E%3Cpath d='M3 11V7m3 4V4m3 7V8m3 3V5' stroke='white' stroke-width='2'/%3E%3C/svg%3E";

/// What the page's routes share.
pub struct Page {
    renderer: Renderer,
    results: forms::FormResults,
    /// Places for pages that listen.
    permits: Arc<Semaphore>,
    /// The service stops.
    stop: CancellationToken,
}

impl Page {
    /// A page that listens until `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(SUBSCRIBERS_MAX));
        Self { renderer: Renderer::default(), results: forms::FormResults::default(), permits, stop }
    }

    /// Samples, and counts while somebody looks, until the service stops.
    pub async fn run(&self, state: &AppState) {
        self.renderer.run(state, &self.stop).await;
    }
}

/// Changes with the program: a page of another one loads itself anew.
fn version() -> String {
    format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), crc32fast::hash(&[CSS.as_bytes(), JS.as_bytes()].concat()))
}

/// `?result=`: the answer to show, by its id.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Shown {
    /// Shows what came of what a button asked for; an id that is not known shows nothing.
    result: Option<String>,
}

/// Everything a person wants to see first
///
/// With `Accept: application/json` only its parts, for a page that is open already and cannot listen to `/events`.
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
    let result = result.map(result_markup).unwrap_or_default();
    if request_headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json") {
        let mut update = events::update_since(&rendering, 0);
        if !result.is_empty() {
            update.parts.insert("result", result);
        }
        return ([(header::CACHE_CONTROL, "no-store")], Json(update)).into_response();
    }
    // Nothing but what stands in the page itself may run or style it: markup that got in from outside could not.
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        // With `no-referrer` a browser says `Origin: null` of our own form, which is what a foreign page says.
        (header::REFERRER_POLICY, "same-origin".to_owned()),
    ];
    (headers, Html(document(&state, &rendering, &result, &nonce))).into_response()
}

/// What came of what a button asked for.
fn result_markup(result: forms::FormResult) -> String {
    let (class, mark) = if result.is_done { ("good", "\u{2713}") } else { ("bad", "\u{2715}") };
    format!("<p class=\"{class}\"><span aria-hidden=\"true\">{mark}</span> {}</p>", Escaped(&result.words))
}

/// The parts of `main` below what needs a person: id and heading.
const SECTIONS: [(&str, &str); 5] = [
    ("trend", "The last hour"),
    ("coverage", "Coverage"),
    ("gaps", "Gaps"),
    ("stores", "Stores and connections"),
    ("streams", "Streams"),
];

fn document(state: &AppState, rendering: &Rendering, result: &str, nonce: &str) -> String {
    let mut out = String::with_capacity(128 << 10);
    put(
        &mut out,
        format_args!(
            "<!doctype html><html lang=\"en\" data-page=\"{}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
             <title>{}</title><link rel=\"icon\" href=\"{ICON}\"><style nonce=\"{nonce}\">{CSS}</style></head><body>\
             {}<a class=\"skip\" href=\"#main\">Skip to what it shows</a><header id=\"head\">{}</header><main id=\"main\">\
             <p id=\"lost\" class=\"bad\" role=\"alert\" hidden>The service does not answer: what is shown is old.</p>",
            version(),
            Escaped(&rendering.title),
            jobs::MARKS,
            rendering.part("head")
        ),
    );
    put(
        &mut out,
        format_args!(
            "<div id=\"result\" role=\"status\">{result}</div><div id=\"action-items\" aria-live=\"polite\">{}</div><section id=\"summary\" aria-label=\"At a glance\">{}\
             </section>",
            rendering.part("action-items"),
            rendering.part("summary")
        ),
    );
    for (id, title) in SECTIONS {
        section(&mut out, id, title, "", rendering);
        if id == "gaps" {
            section(&mut out, "jobs", "Jobs", &form(state), rendering);
        }
    }
    put(
        &mut out,
        format_args!(
            "</main><footer class=\"dim\"><nav aria-label=\"The same for programs\"><a href=\"/api/v1/status\">status</a> \
             <a href=\"/api/v1/gaps\">gaps</a> <a href=\"/api/v1/coverage\">coverage</a> <a href=\"/api/v1/jobs\">jobs</a> \
             <a href=\"/metrics\">metrics</a></nav></footer><script nonce=\"{nonce}\">{JS}</script></body></html>"
        ),
    );
    out
}

fn section(out: &mut String, id: &str, title: &str, above: &str, rendering: &Rendering) {
    let markup = rendering.part(id);
    put(
        out,
        format_args!(
            "<section aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>{above}<div id=\"{id}\">{markup}</div>\
             </section>"
        ),
    );
}

/// What all buttons belong to. It is never renewed, so that what was typed into it stays.
fn form(state: &AppState) -> String {
    let is_local = state.options.listen.ip().is_loopback();
    let mut form = "<form id=\"do\" method=\"post\" action=\"/do\">".to_owned();
    match (is_local, &state.options.token) {
        (true, _) => {}
        // The first button is what Enter presses in the field: it changes nothing.
        (false, Some(_)) => form.push_str(
            "<label for=\"token\">Admin token</label> <input id=\"token\" name=\"token\" type=\"password\" \
             autocomplete=\"current-password\" aria-describedby=\"token-why\"> <button name=\"do\" value=\"try\" id=\"try\">Try the token</button> <span id=\"token-why\" class=\"dim\">this \
             service listens beyond its own machine: every button needs it</span> ",
        ),
        (false, None) => {
            return "<p class=\"dim\">This service listens beyond its own machine and has no admin token, so nothing can be \
                    changed from here: set admin-token to allow it.</p>"
                .to_owned();
        }
    }
    form.push_str(
        "<button name=\"do\" value=\"repair\" id=\"repair\">Compare and repair</button> <span class=\"dim\">moves the cache \
         forward and sends missing rows to backfill</span></form>",
    );
    form
}
