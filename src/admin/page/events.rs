//! `/events`: what changes on the page, as server-sent events. What is sent was printed once for all who listen.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};
use utoipa::ToSchema;

use crate::admin::response::{ApiError, CommonErrors, UnavailableErrors};
use crate::admin::{AppState, guard};

use super::Page;
use super::render::Rendering;

/// Open pages that are told of changes at a time; further ones ask from time to time instead.
pub const SUBSCRIBERS_MAX: usize = 32;
/// How often a page is told what has changed.
const UPDATE_EVERY: Duration = Duration::from_secs(2);
/// When a browser whose connection ended tries again.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// What a page is told.
#[derive(Serialize, ToSchema)]
pub struct PageUpdate {
    /// The program that printed it: a page of another one loads itself anew.
    page: String,
    /// The document's title.
    title: String,
    /// Markup by the id of the element that it stands in: all parts, or those that have changed.
    pub parts: BTreeMap<&'static str, String>,
}

/// One page that listens.
struct Subscriber {
    page: Arc<Page>,
    state: Arc<AppState>,
    ticks: Interval,
    /// The newest rendering that it has.
    last_sent: u64,
    _permit: OwnedSemaphorePermit,
}

/// What changes on the page
///
/// It ends when the service stops. Each event is a rendering: `id` is its number, `retry` says when to come back, and `data`
/// is one line of JSON as `GET /` gives it for `Accept: application/json`: at first every part, then those that have changed.
#[utoipa::path(get, path = "/events", tag = "page", responses(
    (status = 200, description = "Server-sent events", body = String, content_type = "text/event-stream"),
    CommonErrors, UnavailableErrors,
))]
pub async fn events(
    State(state): State<Arc<AppState>>,
    Extension(page): Extension<Arc<Page>>,
    headers: HeaderMap,
) -> Response {
    // A page of another site could not read it, but it could take all permits.
    if let Some(error) = guard::cross_site_error(&headers) {
        return error.into_response();
    }
    let Ok(permit) = page.permits.clone().try_acquire_owned() else {
        let message = format!("{SUBSCRIBERS_MAX} pages listen already: ask for the page itself from time to time");
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        return ([(header::RETRY_AFTER, "30")], error).into_response();
    };
    let mut ticks = interval(UPDATE_EVERY);
    // A page that was slow to read needs only the newest.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let subscriber = Subscriber { page, state, ticks, last_sent: 0, _permit: permit };
    let events = stream::unfold(subscriber, |mut subscriber| async {
        let event = subscriber.next().await?;
        Some((Ok::<_, Infallible>(event), subscriber))
    });
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(events)).into_response()
}

impl Subscriber {
    /// The next event; none when the service stops.
    async fn next(&mut self) -> Option<Event> {
        let Self { page, state, ticks, last_sent, .. } = self;
        let stop = page.stop.clone();
        let rendering = async {
            ticks.tick().await;
            page.renderer.latest(state).await
        };
        let rendering = stop.run_until_cancelled(rendering).await?;
        // JSON has no line ends, so this is one line of data.
        let text = serde_json::to_string(&update_since(&rendering, *last_sent)).expect("an update is made of texts");
        let event = Event::default().id(rendering.number.to_string()).retry(RECONNECT_DELAY).data(text);
        *last_sent = rendering.number;
        Some(event)
    }
}

/// The parts that are newer than `last_sent`, by their ids.
pub fn update_since(rendering: &Rendering, last_sent: u64) -> PageUpdate {
    let update = rendering.parts.iter().filter(|part| part.since > last_sent);
    let parts = update.map(|part| (part.id, part.markup.to_string())).collect();
    PageUpdate { page: super::version(), title: rendering.title.clone(), parts }
}
