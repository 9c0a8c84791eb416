//! Prints the page's parts once for all who look: those who ask for `/` and those who listen to `/events`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;

use crate::admin::background_count::{BackgroundCount, CountSnapshot};
use crate::admin::status_model::{self, StreamView};
use crate::admin::{AppState, BEAT_MAX};
use crate::audit::{self, Coverage};
use crate::gap::Gap;
use crate::history::{DeadLetter, GapFilter, JobRun};
use crate::jobs::JobStatus;
use crate::market::{Stream, Timestamp};

use super::super::time_series::{self, Sample};
use super::action_items::ActionItem;
use super::calendar::TodayCounts;
use super::{action_items, calendar, charts, coverage, coverage_cells, gaps, jobs, stores, streams, summary};

/// A rendering is good for so long, however many ask.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Ledger rows shown of each kind, open and closed; the API has all of them.
const GAPS_MAX: usize = 30;
/// Streams whose coverage is drawn; the API has all of them.
pub const STREAMS_MAX: usize = 40;
/// Runs that lanes are drawn from.
pub const RUNS_MAX: usize = 1_000;

/// What the page tells, read once for a rendering.
pub struct Facts {
    /// When it was read.
    pub now: Timestamp,
    /// The status document.
    pub status: Value,
    /// Every stream.
    pub streams: Vec<StreamView>,
    /// Streams that are drawn in the calendar.
    pub calendar_streams: Vec<Stream>,
    /// Their coverage of the days that are drawn.
    pub coverage: CountSnapshot<Vec<Coverage>>,
    /// Their minutes of today.
    pub today: CountSnapshot<TodayCounts>,
    /// Open gaps, or why they cannot be read.
    pub open: Result<Vec<Gap>, String>,
    /// The newest gaps, open or closed.
    pub newest: Result<Vec<Gap>, String>,
    /// The newest dead letter, when there is one and it can be read.
    pub letter: Option<DeadLetter>,
    /// The jobs.
    pub jobs: Result<Vec<JobStatus>, String>,
    /// Their newest runs.
    pub runs: Result<Vec<JobRun>, String>,
    /// Positions that open gaps still miss.
    pub missing: i64,
    /// The last hour.
    pub samples: Vec<Sample>,
    /// Bytes that are free on the stores' disk.
    pub free: Option<u64>,
    /// What the stores are, in words: log, history, cache.
    pub backends: [String; 3],
    /// Whether buttons would be refused without a token, whatever it is.
    pub may_change: bool,
}

/// The page's parts at one time.
pub struct Rendering {
    /// Grows with every rendering.
    pub number: u64,
    /// The document's title.
    pub title: String,
    /// Every part: its place on the page, its markup, and the rendering in which that changed.
    pub parts: Vec<Part>,
}

/// A part of the page that is renewed as a whole.
#[derive(Clone)]
pub struct Part {
    /// The id of its element.
    pub id: &'static str,
    /// What stands in it.
    pub markup: Arc<str>,
    /// The rendering that brought it.
    pub since: u64,
}

impl Rendering {
    /// The markup of a part.
    pub fn part(&self, id: &str) -> &str {
        self.parts.iter().find(|part| part.id == id).map_or("", |part| &part.markup)
    }
}

/// Prints renderings, and counts what they show of history.
#[derive(Default)]
pub struct Renderer {
    coverage: BackgroundCount<Vec<Coverage>>,
    today: BackgroundCount<TodayCounts>,
    last: Mutex<Option<(Instant, Arc<Rendering>)>>,
}

impl Renderer {
    /// Samples, and counts while somebody looks, until `stop`.
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

    /// Waits a little for new counts, for whoever looks only once.
    pub async fn refresh_counts(&self) {
        tokio::join!(self.coverage.wait_for_fresh(), self.today.wait_for_fresh());
    }

    /// The next rendering shows what has just been changed.
    pub async fn invalidate(&self) {
        if let Some((rendered_at, _)) = &mut *self.last.lock().await {
            *rendered_at = rendered_at.checked_sub(AGE_MAX).unwrap_or(*rendered_at);
        }
    }

    /// The newest rendering, at most a second old. Whoever asks while one is printed gets that one.
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
            status_model::within_timeout(state.history.dead_letters(1)),
            status_model::within_timeout(state.jobs.list()),
            status_model::within_timeout(state.history.runs(None, RUNS_MAX)),
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
            may_change: local || state.options.token.is_some(),
        }
    }
}

impl Facts {
    /// The loop that makes no progress, if there is one.
    pub fn wedged(&self) -> Option<&str> {
        self.status["wedged"].as_str()
    }

    /// Since when a loop counts as wedged, seconds.
    pub fn beat_max_s(&self) -> u64 {
        BEAT_MAX.as_secs()
    }
}

/// Streams that are drawn: with very many those with open gaps come first.
fn calendar_streams(state: &AppState) -> Vec<Stream> {
    let mut streams = state.streams.borrow().clone();
    streams.retain(|stream| stream.channel.step().is_some());
    if streams.len() > STREAMS_MAX {
        streams.sort_by_cached_key(|stream| state.ledger.with(|ledger| ledger.of_stream(stream).next().is_none()));
        streams.truncate(STREAMS_MAX);
    }
    streams
}

/// Makes a rendering; a part that reads as before is not news.
fn render(facts: &Facts, before: Option<&Rendering>) -> Rendering {
    let items = action_items::action_items(facts);
    let number = before.map_or(0, |before| before.number) + 1;
    let calendars: Vec<_> = facts.calendar_streams.iter().map(|stream| (stream, calendar_of(facts, stream))).collect();
    let mut parts = Vec::new();
    let mut add = |id: &'static str, draw: &dyn Fn(&mut String)| {
        let mut markup = String::new();
        draw(&mut markup);
        let same = before.and_then(|before| before.parts.iter().find(|part| part.id == id && *part.markup == *markup));
        parts.push(same.cloned().unwrap_or_else(|| Part { id, markup: markup.into(), since: number }));
    };
    add("head", &|out| summary::head(out, facts, &items));
    add("action-items", &|out| action_items::list(out, &items));
    add("summary", &|out| summary::tiles(out, facts));
    add("trend", &|out| charts::charts(out, facts));
    add("coverage", &|out| coverage::coverage(out, facts, &calendars));
    add("gaps", &|out| gaps::gaps(out, facts));
    add("jobs", &|out| jobs::jobs(out, facts));
    add("stores", &|out| stores::stores(out, facts));
    add("streams", &|out| streams::streams(out, facts));
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
