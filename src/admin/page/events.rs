//! `/events`: what changes on the page, as server-sent events. What is sent was printed once for all who listen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::admin::answer::Refusal;
use crate::admin::{Desk, guard};

use super::Page;
use super::press::Edition;

/// Open pages that are told of changes at a time; further ones ask from time to time instead.
pub const LISTENERS_MAX: usize = 32;
/// How often a page is told what has changed.
const EVERY: Duration = Duration::from_secs(2);
/// When a browser whose connection ended tries again.
const AGAIN: Duration = Duration::from_secs(2);

/// One page that listens.
struct Listener {
    page: Arc<Page>,
    desk: Arc<Desk>,
    ticks: Interval,
    /// The newest edition that it has.
    seen: u64,
    _place: OwnedSemaphorePermit,
}

/// Tells what changes until the page is closed or the service stops.
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
        let text = news(&edition, *seen).to_string();
        let event = Event::default().id(edition.number.to_string()).retry(AGAIN).data(text);
        *seen = edition.number;
        Some(event)
    }
}

/// The parts that are newer than `seen`, by their ids.
pub fn news(edition: &Edition, seen: u64) -> Value {
    let news = edition.parts.iter().filter(|part| part.since > seen);
    let parts: Map<String, Value> = news.map(|part| (part.id.to_owned(), json!(&*part.markup))).collect();
    json!({ "page": super::version(), "title": edition.title, "parts": parts })
}
