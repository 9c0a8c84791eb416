//! Renders the parts of the page, once for all viewers: those who load `/` and those who listen to `/events`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maud::Markup;
use tokio::sync::Mutex;

use crate::admin::AppState;
use crate::admin::background_count::BackgroundCount;
use crate::admin::status_model;
use crate::audit::{self, Coverage};
use crate::history::GapFilter;
use crate::market::Stream;

use super::super::time_series;
use super::action_items::ActionItem;
use super::coverage_cells::TodayCounts;
use super::facts::{Facts, GAPS_MAX, RUNS_MAX, STREAMS_MAX};
use super::{action_items, calendar, charts, coverage, coverage_cells, gaps, jobs, stores, streams, summary};

/// All requests within this time get the same rendering.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The parts of the page at one time.
pub struct Rendering {
    /// Grows with every rendering.
    pub number: u64,
    /// The document's title.
    pub title: String,
    /// Every part.
    pub parts: Vec<Part>,
}

/// A part of the page, which the browser replaces as a whole.
#[derive(Clone)]
pub struct Part {
    /// The id of its element.
    pub id: &'static str,
    /// The content of that element.
    pub markup: Arc<str>,
    /// The number of the rendering that changed it last.
    pub since: u64,
}

impl Rendering {
    /// The markup of a part.
    pub fn part(&self, id: &str) -> &str {
        self.parts.iter().find(|part| part.id == id).map_or("", |part| &part.markup)
    }
}

/// Renders the page, and counts in the background what it shows of history.
#[derive(Default)]
pub struct Renderer {
    coverage: BackgroundCount<Vec<Coverage>>,
    today: BackgroundCount<TodayCounts>,
    last: Mutex<Option<(Instant, Arc<Rendering>)>>,
}

impl Renderer {
    /// Takes samples, and counts while the page has viewers, until `stop`.
    pub async fn run(&self, state: &AppState, stop: &tokio_util::sync::CancellationToken) {
        let coverage = self.coverage.run(stop, || async {
            audit::coverage(&state.history, &calendar_streams(state), Some(calendar::first_day(state.clock.now())))
                .await
        });
        let today = self
            .today
            .run(stop, || async { coverage_cells::today(state, calendar_streams(state), &self.today.value()).await });
        tokio::join!(coverage, today, state.time_series.run(state, stop));
    }

    /// Waits a little for new counts, for a viewer who loads the page only once.
    pub async fn refresh_counts(&self) {
        tokio::join!(self.coverage.wait_for_fresh(), self.today.wait_for_fresh());
    }

    /// Makes the next rendering show a change that was just made.
    pub async fn invalidate(&self) {
        if let Some((rendered_at, _)) = &mut *self.last.lock().await {
            *rendered_at = rendered_at.checked_sub(AGE_MAX).unwrap_or(*rendered_at);
        }
    }

    /// The newest rendering, at most a second old. Requests that arrive during a rendering wait for it and share it.
    pub async fn latest(&self, state: &AppState) -> Arc<Rendering> {
        let mut last = self.last.lock().await;
        if let Some((rendered_at, rendering)) = &*last
            && rendered_at.elapsed() < AGE_MAX
        {
            return rendering.clone();
        }
        let facts = self.read(state).await;
        let before = last.as_ref().map(|(_, rendering)| rendering.as_ref());
        let rendering = Arc::new(render(&facts, before));
        *last = Some((Instant::now(), rendering.clone()));
        rendering
    }

    async fn read(&self, state: &AppState) -> Facts {
        let open = GapFilter { open_only: true, limit: GAPS_MAX, ..GapFilter::default() };
        let newest = GapFilter { limit: GAPS_MAX, ..GapFilter::default() };
        let (status, open, newest, letters, jobs, runs) = tokio::join!(
            status_model::status_json(state),
            status_model::within_timeout(state.history.gaps(&open)),
            status_model::within_timeout(state.history.gaps(&newest)),
            status_model::within_timeout(state.history.dead_letters(Some(&state.instance), 1)),
            status_model::within_timeout(state.jobs.list()),
            status_model::within_timeout(state.history.runs(None, Some(&state.instance), RUNS_MAX)),
        );
        let local = state.options.listen.ip().is_loopback();
        Facts {
            now: state.clock.now(),
            status: serde_json::json!(status),
            streams: status_model::streams(state),
            calendar_streams: calendar_streams(state),
            coverage: self.coverage.latest(),
            today: self.today.latest(),
            open,
            newest,
            letter: letters.unwrap_or_default().pop(),
            jobs,
            runs,
            missing: time_series::missing(state),
            samples: state.time_series.samples(),
            free: time_series::free_bytes(&state.data_dir),
            backends: state.backends.borrow().clone(),
            may_change: local || state.token.borrow().is_some(),
        }
    }
}

/// The streams of the calendar. When there are more than [`STREAMS_MAX`], those with open gaps come first.
fn calendar_streams(state: &AppState) -> Vec<Stream> {
    let mut streams = state.streams.borrow().clone();
    streams.retain(|stream| stream.channel.step().is_some());
    if streams.len() > STREAMS_MAX {
        streams.sort_by_cached_key(|stream| state.ledger.with(|ledger| ledger.of_stream(stream).next().is_none()));
        streams.truncate(STREAMS_MAX);
    }
    streams
}

/// Renders every part; an unchanged part keeps the number of its last change, so that `/events` does not send it.
fn render(facts: &Facts, before: Option<&Rendering>) -> Rendering {
    let items = action_items::action_items(facts);
    let number = before.map_or(0, |before| before.number) + 1;
    let calendars: Vec<_> = facts.calendar_streams.iter().map(|stream| (stream, calendar_of(facts, stream))).collect();
    let mut parts = Vec::new();
    let mut add = |id: &'static str, markup: Markup| {
        let markup = markup.into_string();
        let same = before.and_then(|before| before.parts.iter().find(|part| part.id == id && *part.markup == *markup));
        parts.push(same.cloned().unwrap_or_else(|| Part { id, markup: markup.into(), since: number }));
    };
    add("head", summary::head(facts, &items));
    add("action-items", action_items::list(&items));
    add("summary", summary::tiles(facts));
    add("trend", charts::charts(facts));
    add("coverage", coverage::coverage(facts, &calendars));
    add("gaps", gaps::gaps(facts));
    add("jobs", jobs::jobs(facts));
    add("stores", stores::stores(facts));
    add("streams", streams::streams(facts));
    Rendering { number, title: title(facts, &items), parts }
}

fn calendar_of(facts: &Facts, stream: &Stream) -> calendar::StreamCalendar {
    let is_of = |coverage: &&Coverage| {
        coverage.symbol == stream.symbol.as_str()
            && coverage.channel == stream.channel.as_str()
            && coverage.exchange == stream.exchange.as_str()
    };
    let coverage = facts.coverage.value.iter().find(is_of);
    calendar::stream_calendar(stream, coverage, &facts.today.value, facts.now)
}

fn title(facts: &Facts, items: &[ActionItem]) -> String {
    let state = summary::Headline::of(facts, items).words;
    match items.len() {
        0 => format!("Tapekeeper: {state}"),
        items => format!("({items}) Tapekeeper: {state}"),
    }
}
