//! Builds the documents that the API and the page show, from the state of the other modules.
//!
//! It must not know the page's markup or HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

use serde_json::{Value, json};

use crate::audit::Coverage;
use crate::exchange::rest::RestStatus;
use crate::exchange::socket::ConnectionStatus;
use crate::exchange::{Dialect, Request, Series};
use crate::gap::{Gap, Range};
use crate::history::JobRun;
use crate::jobs::JobStatus;
use crate::jobs::planner::Changes;
use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};

pub use super::documents::StreamView;
use super::documents::{
    CacheStatus, CoverageView, DiskStatus, FrameCount, GapCount, GapView, HistoryStatus, JobChanges, JobCount,
    LogStatus, NextRun, Notice, OldestServed, PartError, PartStatus, ReloadView, RestRecovery, RunView, Status,
    StreamCount,
};
use super::stream_state::{RECEIVING_US, StreamFacts, StreamState};
use super::{AppState, BEAT_MAX, ReloadReport, STORE_TIMEOUT, time_series};

/// Every recorded stream.
pub fn streams(state: &AppState) -> Vec<StreamView> {
    let now = state.clock.now();
    let progress_by_stream = state.progress.streams();
    let streams = state.streams.borrow().clone();
    let newest_by_symbol = newest_by_symbol(state, &streams);
    let view = |stream: Stream| {
        let progress = progress_by_stream.get(&stream).copied().unwrap_or_default();
        let step = stream.channel.step().unwrap_or(1);
        let age = progress.last_received.map(|at| now.micros() - at);
        let newest_of_symbol = newest_by_symbol.get(&(stream.exchange, stream.symbol.clone())).copied();
        let subscriptions = &state.counters.subscriptions;
        let newest = state.counters.last_seen.get(&stream).max(progress.last_received.map(Timestamp));
        let facts = StreamFacts {
            now,
            trading: state.listings.state(stream.exchange, &stream.symbol, newest_of_symbol),
            undecodable: state.progress.outage(&stream).map(|outage| outage.describe()),
            refusal: subscriptions.refusal(&stream),
            carried_since: subscriptions.carried_since(&stream),
            newest,
            usual_interval: usual_interval(state.startup, newest, progress.frames),
        };
        let (stream_state, state_reason) = facts.state();
        StreamView {
            exchange: stream.exchange.to_string(),
            symbol: stream.symbol.to_string(),
            channel: stream.channel.to_string(),
            state: stream_state.as_str(),
            state_reason,
            last: progress.next.map(|next| next - step),
            last_ts: progress.last_ts.map(|at| Timestamp(at).rfc3339()),
            last_received: progress.last_received.map(|at| Timestamp(at).rfc3339()),
            age_s: age.map(|age| (age.max(0) / 1_000) as f64 / 1e3),
            connection: progress.connection,
            frames: progress.frames,
            behind: progress.behind,
            epoch: progress.epoch,
            open_gaps: state.ledger.with(|ledger| ledger.of_stream(&stream).count()),
            receiving: age.is_some_and(|age| age < RECEIVING_US),
        }
    };
    streams.into_iter().map(view).collect()
}

/// When the newest frame of each symbol arrived, of any of its streams.
fn newest_by_symbol(state: &AppState, streams: &[Stream]) -> HashMap<(Exchange, Symbol), Timestamp> {
    let mut newest = HashMap::new();
    for stream in streams {
        let Some(at) = state.counters.last_seen.get(stream) else { continue };
        let known = newest.entry((stream.exchange, stream.symbol.clone())).or_insert(at);
        *known = at.max(*known);
    }
    newest
}

/// The usual time between two frames since the process started, microseconds.
fn usual_interval(startup: Timestamp, newest: Option<Timestamp>, frames: u64) -> Option<i64> {
    let recorded = newest?.since(startup).max(0);
    recorded.checked_div(i64::try_from(frames).ok()?)
}

/// Undecided conflicts that the status counts.
const CONFLICTS_MAX: usize = 1_000;

/// Ended symbols of one exchange that get a notice each: a pattern may collect hundreds over the years.
const ENDED_NOTICES_MAX: usize = 5;
/// Ended symbols that their common notice names.
const ENDED_NAMED_MAX: usize = 10;

/// The ended symbols of each exchange that has too many for a notice each.
fn many_ended(streams: &[StreamView]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut ended: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for stream in streams.iter().filter(|stream| stream.state == StreamState::Ended.as_str()) {
        ended.entry(&stream.exchange).or_default().insert(&stream.symbol);
    }
    ended.retain(|_, symbols| symbols.len() > ENDED_NOTICES_MAX);
    ended
}

/// No faults, but somebody may want to know: symbols that do not trade, one notice for each; numberings that began again;
/// and positions of which the exchange has not said yet which content is right.
fn notices(streams: &[StreamView], conflicts_pending: Option<usize>) -> Vec<Notice> {
    let mut notices: Vec<Notice> = Vec::new();
    let idle = [StreamState::NotTrading, StreamState::Ended].map(StreamState::as_str);
    let ended = many_ended(streams);
    let is_named = |stream: &&StreamView| {
        let is_one_of_many =
            stream.state == StreamState::Ended.as_str() && ended.contains_key(stream.exchange.as_str());
        idle.contains(&stream.state) && !is_one_of_many
    };
    for stream in streams.iter().filter(is_named) {
        let part = format!("{}:{}", stream.exchange, stream.symbol);
        if notices.last().is_none_or(|last| last.part != part) {
            notices.push(Notice { part, why: stream.state_reason.clone().unwrap_or_default() });
        }
    }
    for (exchange, symbols) in ended {
        let named: Vec<&str> = symbols.iter().take(ENDED_NAMED_MAX).copied().collect();
        let more = symbols.len().saturating_sub(ENDED_NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = format!("{} symbols have ended: {}{more}", symbols.len(), named.join(", "));
        notices.push(Notice { part: exchange.to_owned(), why });
    }
    for stream in streams.iter().filter(|stream| stream.epoch > 0) {
        let part = format!("{}:{}:{}", stream.exchange, stream.symbol, stream.channel);
        notices.push(Notice { part, why: format!("its ids began again: epoch {}", stream.epoch) });
    }
    if let Some(count) = conflicts_pending.filter(|count| *count > 0) {
        let why = format!("{count} positions have two contents; the exchange has not said yet which is right");
        notices.push(Notice { part: "conflicts".to_owned(), why });
    }
    notices
}

fn stream_count(streams: &[StreamView]) -> StreamCount {
    let mut states = BTreeMap::new();
    for stream in streams {
        *states.entry(stream.state).or_default() += 1;
    }
    let receiving = streams.iter().filter(|stream| stream.receiving).count();
    StreamCount { total: streams.len(), receiving, states }
}

/// A stream's coverage as the API shows it.
pub fn coverage(state: &AppState, counted: Coverage) -> CoverageView {
    let channel = counted.channel.parse::<Channel>().ok();
    let exchange = counted.exchange.parse::<Exchange>().ok();
    let dialect = exchange.and_then(|exchange| state.backfill.dialects.get(&exchange));
    let oldest_served = exchange.zip(channel).and_then(|(exchange, channel)| {
        let stream = Stream::new(exchange, Symbol::new(&counted.symbol), channel);
        let (position, at) = state.backfill.answers.oldest_served(&stream)?;
        Some(OldestServed { position, at: at.rfc3339() })
    });
    let recoverable = dialect
        .zip(channel)
        .and_then(|(dialect, channel)| Some(RestRecovery { oldest_served, ..recoverable(dialect.as_ref(), channel)? }));
    let succeeds = exchange.and_then(|exchange| succeeds(state, exchange, &counted.symbol));
    CoverageView { counted, recoverable, succeeds }
}

/// The former name of a symbol, as its feed says.
fn succeeds(state: &AppState, exchange: Exchange, symbol: &str) -> Option<String> {
    let feeds = state.feeds.borrow();
    let mut own =
        feeds.iter().filter(|feed| feed.exchange == exchange && feed.symbols.iter().any(|s| s.as_str() == symbol));
    own.find_map(|feed| feed.succeeds.as_ref()).map(ToString::to_string)
}

fn recoverable(dialect: &dyn Dialect, channel: Channel) -> Option<RestRecovery> {
    let (spec, range) = (dialect.spec(), Range { first: 0, last: 0 });
    let (by, request) = match channel {
        Channel::Kline(interval) => ("open_time", Request::Klines { symbol: "", interval, range }),
        Channel::AggTrade => ("agg_id", Request::Trades { series: Series { symbol: "", channel }, range, after: None }),
        _ => ("trade_id", Request::Trades { series: Series { symbol: "", channel }, range, after: None }),
    };
    let request_weight = dialect.ask(&request)?.weight;
    let kept_s = spec.kept_for(channel).map(|kept| kept.as_secs());
    Some(RestRecovery { by, rows_per_request: spec.page_rows(channel), request_weight, kept_s, oldest_served: None })
}

/// A gap as the API shows it.
pub fn gap(gap: &Gap) -> GapView {
    GapView {
        gap_id: gap.gap_id.clone(),
        exchange: gap.stream.exchange.as_str(),
        symbol: gap.stream.symbol.to_string(),
        channel: gap.stream.channel.as_str(),
        first_missing: gap.range.first,
        last_missing: gap.range.last,
        missing: gap.len(),
        from_ts: gap.from_ts.map(Timestamp::rfc3339),
        to_ts: gap.to_ts.map(Timestamp::rfc3339),
        state: gap.state.as_str(),
        detected_at: gap.detected_at.rfc3339(),
        closed_at: gap.closed_at.map(Timestamp::rfc3339),
        filled: gap.filled,
        filled_by: gap.filled_by.clone(),
        filled_at: gap.filled_at.map(Timestamp::rfc3339),
        attempts: gap.attempts,
        reason: gap.reason.clone(),
        evidence: gap.evidence.clone(),
    }
}

/// A job's run as the API shows it.
pub fn run(run: &JobRun) -> RunView {
    RunView {
        run_id: run.run_id.clone(),
        job: run.job.clone(),
        trigger: run.trigger.clone(),
        scheduled_at: run.scheduled_at,
        started_at: run.started_at,
        finished_at: run.finished_at,
        attempt: run.attempt,
        outcome: run.outcome.clone(),
        reason: run.reason.clone(),
        window: run.window,
        recorder: run.recorder.clone(),
        lateness_ms: run.lateness_us().map(|late| late / 1_000),
        report: serde_json::from_str(&run.report).unwrap_or(Value::Null),
    }
}

/// The job that runs next. RFC 3339 texts in UTC sort in the order of time.
fn next_run(jobs: &[JobStatus]) -> Option<NextRun> {
    let due = jobs.iter().filter(|job| job.next_run.is_some()).min_by(|a, b| a.next_run.cmp(&b.next_run))?;
    Some(NextRun { job: due.name.clone(), next_run: due.next_run.clone() })
}

/// What a reload changed; `next_runs` is the schedule after the reload.
pub fn reload(report: ReloadReport) -> ReloadView {
    let Changes { added, changed, removed, next } = report.jobs;
    let next = next.into_iter().map(|(job, at)| NextRun { job, next_run: at.map(Timestamp::rfc3339) });
    ReloadView { changed: report.summary, jobs: JobChanges { added, changed, removed }, next_runs: next.collect() }
}

/// A store's answer, or the error when it fails or takes longer than [`STORE_TIMEOUT`]: one store that is down must not
/// hide the others.
pub async fn within_timeout<T, E: Display>(answer: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(STORE_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_elapsed) => Err(format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
    }
}

/// [`status`] as JSON, which the page reads.
pub async fn status_json(state: &AppState) -> Value {
    json!(status(state).await)
}

/// The whole service in one document.
pub async fn status(state: &AppState) -> Status {
    use std::sync::atomic::Ordering::Relaxed;
    let streams = streams(state);
    let (usage, bytes, dead_letters, conflicts, jobs) = tokio::join!(
        within_timeout(state.log.usage()),
        within_timeout(state.history.bytes()),
        within_timeout(state.history.dead_letter_count(Some(&state.instance))),
        within_timeout(state.history.conflicts(true, CONFLICTS_MAX)),
        within_timeout(state.jobs.list()),
    );
    let (open, missing, unconfirmed, totals) = state.ledger.with(|ledger| {
        let (open, missing) = ledger.open_count();
        let (in_doubt, missing_in_doubt) = ledger.unconfirmed_count();
        (open - in_doubt, missing - missing_in_doubt, in_doubt, ledger.totals())
    });
    let conflicts_pending = conflicts.ok().map(|pending| pending.len());
    let rest = rest(state);
    let connections = state.connections.snapshot();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        instance: state.instance.clone(),
        ready: state.health.is_ready(),
        stopping: state.health.is_stopping(),
        wedged: state.heartbeats.stuck_loop(BEAT_MAX).map(|beat| beat.name),
        degraded: state.health.degraded_parts(),
        started_at: state.started_at().rfc3339(),
        uptime_s: i64::try_from(state.uptime().as_secs()).unwrap_or(i64::MAX),
        notices: notices(&streams, conflicts_pending),
        streams: stream_count(&streams),
        log: PartStatus::from_result(usage, |usage| LogStatus {
            lag_frames: usage.lag(),
            lag_s: state.time_series.lag(state, usage.lag()),
            usage,
        }),
        history: PartStatus::from_result(bytes, |bytes| HistoryStatus { bytes }),
        cache: CacheStatus { waiting: state.backfill.writer.pending_updates().len() },
        disk: disk(state),
        gaps: GapCount {
            open,
            missing,
            unconfirmed,
            found: totals.found,
            filled: totals.filled,
            closed_otherwise: totals.closed_otherwise,
        },
        frames: FrameCount {
            received: state.counters.total(|counters| &counters.frames),
            consumed: state.progress.frames.load(Relaxed),
            unrequested: state.counters.unrequested.frames(),
            unrequested_newest: state.counters.unrequested.newest(),
        },
        rows: state.progress.rows.load(Relaxed),
        backfilled: state.backfill.rows.load(Relaxed),
        dead_letters: dead_letters.ok(),
        conflicts_pending,
        last_errors: last_errors(&connections, &rest, jobs.as_deref().unwrap_or_default()),
        connections,
        reconnects: state.counters.total(|counters| &counters.disconnects),
        rest,
        jobs: PartStatus::from_result(jobs, |jobs| job_count(&jobs)),
        beats: state.heartbeats.statuses(),
    }
}

fn disk(state: &AppState) -> DiskStatus {
    let forecast = time_series::forecast(&state.time_series.samples());
    DiskStatus {
        free_bytes: time_series::free_bytes(&state.data_dir),
        kept_bytes: time_series::kept_bytes(&state.data_dir),
        growth_bytes_per_hour: forecast.growth.map(|growth| growth * 3_600.0),
        full_in_s: forecast.own_full_in_s,
    }
}

fn rest(state: &AppState) -> BTreeMap<String, RestStatus> {
    state.backfill.rest.iter().map(|(exchange, rest)| (exchange.to_string(), rest.status())).collect()
}

fn job_count(jobs: &[JobStatus]) -> JobCount {
    JobCount {
        total: jobs.len(),
        running: jobs.iter().filter(|job| job.running).count(),
        paused: jobs.iter().filter(|job| job.paused).count(),
        failing: jobs.iter().filter(|job| last_run_failed(job)).map(|job| job.name.clone()).collect(),
        next: next_run(jobs),
    }
}

/// Whether a job's last run failed, timed out or was cancelled.
pub fn last_run_failed(job: &JobStatus) -> bool {
    let outcome = job.last_outcome.as_deref().unwrap_or_default();
    matches!(outcome, "failed" | "timed_out" | "cancelled")
}

/// The last error of each part, also when the part works again.
fn last_errors(
    connections: &[ConnectionStatus],
    rest: &BTreeMap<String, RestStatus>,
    jobs: &[JobStatus],
) -> Vec<PartError> {
    let mut errors = Vec::new();
    let mut say = |part: String, error: &str| {
        if !error.is_empty() {
            errors.push(PartError { part, error: error.to_owned() });
        }
    };
    for (at, connection) in connections.iter().enumerate() {
        say(format!("{} socket {}", connection.exchange, at + 1), &connection.last_error);
    }
    for (exchange, client) in rest {
        say(format!("{exchange} REST"), &client.last_error);
    }
    for job in jobs.iter().filter(|job| last_run_failed(job)) {
        say(format!("job {}", job.name), job.last_outcome.as_deref().unwrap_or_default());
    }
    errors
}
