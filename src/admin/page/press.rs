//! Prints the page's parts once for all who look: those who ask for `/` and those who listen to `/events`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;

use crate::admin::recount::{Counted, Recount};
use crate::admin::view::{self, StreamView};
use crate::admin::{BEAT_MAX, Desk};
use crate::audit::{self, Coverage};
use crate::gap::Gap;
use crate::history::{DeadLetter, GapFilter, JobRun};
use crate::jobs::JobStatus;
use crate::market::{Stream, Timestamp};

use super::super::trend::{self, Sample};
use super::calendar::Today;
use super::needs::Need;
use super::{calendar, count, coverage, gaps, glance, jobs, needs, stores, streams, trends};

/// An edition is good for so long, however many ask.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Ledger rows shown of each kind, open and closed; the API has all of them.
const GAPS_MAX: usize = 30;
/// Streams whose coverage is drawn; the API has all of them.
pub const STREAMS_MAX: usize = 40;
/// Runs that lanes are drawn from.
pub const RUNS_MAX: usize = 1_000;

/// What the page tells, read once for an edition.
pub struct Facts {
    /// When it was read.
    pub now: Timestamp,
    /// The status document.
    pub status: Value,
    /// Every stream.
    pub streams: Vec<StreamView>,
    /// Streams that are drawn in the calendar.
    pub drawn: Vec<Stream>,
    /// Their coverage of the days that are drawn.
    pub coverage: Counted<Vec<Coverage>>,
    /// Their minutes of today.
    pub today: Counted<Today>,
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
pub struct Edition {
    /// Grows with every edition.
    pub number: u64,
    /// The document's title.
    pub title: String,
    /// Every part: its place on the page, its markup, and the edition in which that changed.
    pub parts: Vec<Part>,
}

/// A part of the page that is renewed as a whole.
#[derive(Clone)]
pub struct Part {
    /// The id of its element.
    pub id: &'static str,
    /// What stands in it.
    pub markup: Arc<str>,
    /// The edition that brought it.
    pub since: u64,
}

impl Edition {
    /// The markup of a part.
    pub fn part(&self, id: &str) -> &str {
        self.parts.iter().find(|part| part.id == id).map_or("", |part| &part.markup)
    }
}

/// Prints editions, and counts what they show of history.
#[derive(Default)]
pub struct Press {
    coverage: Recount<Vec<Coverage>>,
    today: Recount<Today>,
    last: Mutex<Option<(Instant, Arc<Edition>)>>,
}

impl Press {
    /// Samples, and counts while somebody looks, until `stop`.
    pub async fn run(&self, desk: &Desk, stop: &tokio_util::sync::CancellationToken) {
        let coverage = self.coverage.run(stop, || async {
            audit::coverage(&desk.history, &drawn(desk), Some(calendar::first_day(desk.clock.now()))).await
        });
        let today = self.today.run(stop, || async { count::today(desk, drawn(desk), &self.today.kept()).await });
        tokio::join!(coverage, today, desk.trend.run(desk, stop));
    }

    /// Waits a little for new counts, for whoever looks only once.
    pub async fn freshen(&self) {
        tokio::join!(self.coverage.freshen(), self.today.freshen());
    }

    /// The next edition shows what has just been changed.
    pub async fn forget(&self) {
        if let Some((printed, _)) = &mut *self.last.lock().await {
            *printed = printed.checked_sub(AGE_MAX).unwrap_or(*printed);
        }
    }

    /// The newest edition, at most a second old. Whoever asks while one is printed gets that one.
    pub async fn edition(&self, desk: &Desk) -> Arc<Edition> {
        let mut last = self.last.lock().await;
        if let Some((printed, edition)) = &*last
            && printed.elapsed() < AGE_MAX
        {
            return edition.clone();
        }
        let facts = self.read(desk).await;
        let before = last.as_ref().map(|(_, edition)| edition.as_ref());
        let edition = Arc::new(print(&facts, before));
        *last = Some((Instant::now(), edition.clone()));
        edition
    }

    async fn read(&self, desk: &Desk) -> Facts {
        let open = GapFilter { open_only: true, limit: GAPS_MAX, ..GapFilter::default() };
        let newest = GapFilter { limit: GAPS_MAX, ..GapFilter::default() };
        let (status, open, newest, letters, jobs, runs) = tokio::join!(
            view::status(desk),
            view::soon(desk.history.gaps(&open)),
            view::soon(desk.history.gaps(&newest)),
            view::soon(desk.history.dead_letters(1)),
            view::soon(desk.jobs.list()),
            view::soon(desk.history.runs(None, RUNS_MAX)),
        );
        let local = desk.options.listen.ip().is_loopback();
        Facts {
            now: desk.clock.now(),
            status: serde_json::json!(status),
            streams: view::streams(desk),
            drawn: drawn(desk),
            coverage: self.coverage.last(),
            today: self.today.last(),
            open,
            newest,
            letter: letters.unwrap_or_default().pop(),
            jobs,
            runs,
            missing: trend::missing(desk),
            samples: desk.trend.samples(),
            free: trend::free_bytes(&desk.data_dir),
            backends: desk.backends.borrow().clone(),
            may_change: local || desk.options.token.is_some(),
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
fn drawn(desk: &Desk) -> Vec<Stream> {
    let mut streams = desk.streams.borrow().clone();
    streams.retain(|stream| stream.channel.step().is_some());
    if streams.len() > STREAMS_MAX {
        streams.sort_by_cached_key(|stream| desk.ledger.with(|ledger| ledger.of_stream(stream).next().is_none()));
        streams.truncate(STREAMS_MAX);
    }
    streams
}

/// Makes an edition; a part that reads as before is not news.
fn print(facts: &Facts, before: Option<&Edition>) -> Edition {
    let needs = needs::needs(facts);
    let number = before.map_or(0, |before| before.number) + 1;
    let sheets: Vec<_> = facts.drawn.iter().map(|stream| (stream, sheet(facts, stream))).collect();
    let mut parts = Vec::new();
    let mut add = |id: &'static str, draw: &dyn Fn(&mut String)| {
        let mut markup = String::new();
        draw(&mut markup);
        let same = before.and_then(|before| before.parts.iter().find(|part| part.id == id && *part.markup == *markup));
        parts.push(same.cloned().unwrap_or_else(|| Part { id, markup: markup.into(), since: number }));
    };
    add("head", &|out| glance::head(out, facts, &needs));
    add("needs", &|out| needs::list(out, &needs));
    add("glance", &|out| glance::tiles(out, facts));
    add("trend", &|out| trends::trends(out, facts));
    add("coverage", &|out| coverage::coverage(out, facts, &sheets));
    add("gaps", &|out| gaps::gaps(out, facts));
    add("jobs", &|out| jobs::jobs(out, facts));
    add("stores", &|out| stores::stores(out, facts));
    add("streams", &|out| streams::streams(out, facts));
    Edition { number, title: title(facts, &needs), parts }
}

fn sheet(facts: &Facts, stream: &Stream) -> calendar::Sheet {
    let is_of = |coverage: &&Coverage| {
        coverage.symbol == stream.symbol.as_str()
            && coverage.channel == stream.channel.as_str()
            && coverage.exchange == stream.exchange.as_str()
    };
    let coverage = facts.coverage.value.iter().find(is_of);
    calendar::sheet(stream, coverage, &facts.today.value, facts.now)
}

fn title(facts: &Facts, needs: &[Need]) -> String {
    let state = glance::Standing::of(facts, needs).words;
    match needs.len() {
        0 => format!("Tapekeeper: {state}"),
        needs => format!("({needs}) Tapekeeper: {state}"),
    }
}
