//! `/events`: changes of the page as server-sent events. All subscribers share one rendering.

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

/// Most pages that may subscribe at a time; further pages poll instead.
pub const SUBSCRIBERS_MAX: usize = 32;
/// Time between two updates of a page.
const UPDATE_EVERY: Duration = Duration::from_secs(2);
/// How long a browser waits before it reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// One update of an open page.
#[derive(Serialize, ToSchema)]
pub struct PageUpdate {
    /// The program that rendered it: a page of another program reloads itself.
    page: String,
    /// The document's title.
    title: String,
    /// Markup by the id of the element that it replaces: all parts, or the changed ones.
    pub parts: BTreeMap<&'static str, String>,
}

/// One subscribed page.
struct Subscriber {
    page: Arc<Page>,
    state: Arc<AppState>,
    ticks: Interval,
    /// The newest rendering that it has received.
    last_sent: u64,
    _permit: OwnedSemaphorePermit,
}

/// Changes of the page
///
/// The stream ends when the service stops. Each event is a rendering: `id` is its number, `retry` the reconnection delay, and `data`
/// one line of JSON, as `GET /` returns it for `Accept: application/json`: first every part, then the changed ones.
#[utoipa::path(get, path = "/events", tag = "page", responses(
    (status = 200, description = "Server-sent events", body = String, content_type = "text/event-stream"),
    CommonErrors, UnavailableErrors,
))]
pub async fn events(
    State(state): State<Arc<AppState>>,
    Extension(page): Extension<Arc<Page>>,
    headers: HeaderMap,
) -> Response {
    // A page of another site could not read the events, but it could take all permits.
    if let Some(error) = guard::cross_site_error(&headers) {
        return error.into_response();
    }
    let Ok(permit) = page.permits.clone().try_acquire_owned() else {
        let message = format!("{SUBSCRIBERS_MAX} pages already receive events: poll the page itself instead");
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        return ([(header::RETRY_AFTER, "30")], error).into_response();
    };
    let mut ticks = interval(UPDATE_EVERY);
    // A page that reads slowly needs only the newest rendering.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let subscriber = Subscriber { page, state, ticks, last_sent: 0, _permit: permit };
    let events = stream::unfold(subscriber, |mut subscriber| async {
        let event = subscriber.next().await?;
        Some((Ok::<_, Infallible>(event), subscriber))
    });
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(events)).into_response()
}

impl Subscriber {
    /// The next event; `None` when the service stops.
    async fn next(&mut self) -> Option<Event> {
        let Self { page, state, ticks, last_sent, .. } = self;
        let stop = page.stop.clone();
        let rendering = async {
            ticks.tick().await;
            page.renderer.latest(state).await
        };
        let rendering = stop.run_until_cancelled(rendering).await?;
        // Compact JSON has no line breaks, so this is one line of data.
        let text = serde_json::to_string(&update_since(&rendering, *last_sent)).expect("an update is made of strings");
        let event = Event::default().id(rendering.number.to_string()).retry(RECONNECT_DELAY).data(text);
        *last_sent = rendering.number;
        Some(event)
    }
}

/// The parts that changed after the rendering `last_sent`.
pub fn update_since(rendering: &Rendering, last_sent: u64) -> PageUpdate {
    let update = rendering.parts.iter().filter(|part| part.since > last_sent);
    let parts = update.map(|part| (part.id, part.markup.to_string())).collect();
    PageUpdate { page: super::version(), title: rendering.title.clone(), parts }
}
