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

use crate::admin::answer::{Always, Busy, Refusal};
use crate::admin::{Desk, guard};

use super::Page;
use super::press::Edition;

/// Open pages that are told of changes at a time; further ones ask from time to time instead.
pub const LISTENERS_MAX: usize = 32;
/// How often a page is told what has changed.
const EVERY: Duration = Duration::from_secs(2);
/// When a browser whose connection ended tries again.
const AGAIN: Duration = Duration::from_secs(2);

/// What a page is told.
#[derive(Serialize, ToSchema)]
pub struct News {
    /// The program that printed it: a page of another one loads itself anew.
    page: String,
    /// The document's title.
    title: String,
    /// Markup by the id of the element that it stands in: all parts, or those that have changed.
    pub parts: BTreeMap<&'static str, String>,
}

/// One page that listens.
struct Listener {
    page: Arc<Page>,
    desk: Arc<Desk>,
    ticks: Interval,
    /// The newest edition that it has.
    seen: u64,
    _place: OwnedSemaphorePermit,
}

/// What changes on the page
///
/// It ends when the service stops. Each event is an edition: `id` is its number, `retry` says when to come back, and `data`
/// is one line of JSON as `GET /` gives it for `Accept: application/json`: at first every part, then those that have changed.
#[utoipa::path(get, path = "/events", tag = "page", responses(
    (status = 200, description = "Server-sent events", body = String, content_type = "text/event-stream"), Always, Busy,
))]
pub async fn events(
    State(desk): State<Arc<Desk>>,
    Extension(page): Extension<Arc<Page>>,
    headers: HeaderMap,
) -> Response {
    // A page of another site could not read it, but it could take all places.
    if let Some(refusal) = guard::foreign(&headers) {
        return refusal.into_response();
    }
    let Ok(place) = page.places.clone().try_acquire_owned() else {
        let message = format!("{LISTENERS_MAX} pages listen already: ask for the page itself from time to time");
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        return ([(header::RETRY_AFTER, "30")], refusal).into_response();
    };
    let mut ticks = interval(EVERY);
    // A page that was slow to read needs only the newest.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener { page, desk, ticks, seen: 0, _place: place };
    let told = stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(told)).into_response()
}

impl Listener {
    /// The next event; none when the service stops.
    async fn next(&mut self) -> Option<Event> {
        let Self { page, desk, ticks, seen, .. } = self;
        let stop = page.stop.clone();
        let edition = async {
            ticks.tick().await;
            page.press.edition(desk).await
        };
        let edition = stop.run_until_cancelled(edition).await?;
        // JSON has no line ends, so this is one line of data.
        let text = serde_json::to_string(&news(&edition, *seen)).expect("news are made of texts");
        let event = Event::default().id(edition.number.to_string()).retry(AGAIN).data(text);
        *seen = edition.number;
        Some(event)
    }
}

/// The parts that are newer than `seen`, by their ids.
pub fn news(edition: &Edition, seen: u64) -> News {
    let news = edition.parts.iter().filter(|part| part.since > seen);
    let parts = news.map(|part| (part.id, part.markup.to_string())).collect();
    News { page: super::version(), title: edition.title.clone(), parts }
}
