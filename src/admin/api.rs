//! The endpoints of `/api/v1`, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::audit;
use crate::backfill::Place;
use crate::gap::Range;
use crate::history::GapFilter;
use crate::market::{Channel, Stream, Symbol, Timestamp};

use super::answer::Refusal;
use super::{BEAT_MAX, Desk, ReloadRequest, view};

type Answer = Result<Json<Value>, Refusal>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Named = Result<Path<String>, PathRejection>;

/// Longest reason for a pause that is kept: a sentence, not a document.
const REASON_MAX: usize = 500;
/// Most rows one answer lists.
const ROWS_MAX: usize = 10_000;

/// `?symbol=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BySymbol {
    symbol: Option<String>,
}

/// `?state=open|all&symbol=&limit=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    state: Option<String>,
    symbol: Option<String>,
    limit: Option<usize>,
}

/// `?job=&limit=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    job: Option<String>,
    limit: Option<usize>,
}

/// `?reason=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    reason: Option<String>,
}

/// `?wait=true`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    #[serde(default)]
    wait: bool,
}

/// `?dry_run=true`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

fn query<T>(asked: Asked<T>) -> Result<T, Refusal> {
    let Query(query) = asked?;
    Ok(query)
}

/// 0 means "all" to the stores, and nobody may ask for that.
fn at_most(asked: Option<usize>, usual: usize) -> usize {
    asked.unwrap_or(usual).clamp(1, ROWS_MAX)
}

fn recorded(desk: &Desk, symbol: Option<&str>) -> Result<Vec<Stream>, Refusal> {
    let mut streams = desk.streams.borrow().clone();
    if let Some(symbol) = symbol {
        streams.retain(|stream| stream.symbol.as_str() == symbol);
        if streams.is_empty() {
            let message = format!("`{symbol}` is not recorded");
            return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_symbol", message));
        }
    }
    Ok(streams)
}

/// 200 while the spine loops beat; the body names what is degraded.
pub async fn healthz(State(desk): State<Arc<Desk>>) -> Response {
    let wedged = desk.pulses.wedged(BEAT_MAX);
    let status = if wedged.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let degraded = desk.health.parts();
    let text = if wedged.is_some() {
        "wedged"
    } else if degraded.is_empty() {
        "ok"
    } else {
        "degraded"
    };
    (status, Json(json!({ "status": text, "degraded": degraded, "wedged": wedged }))).into_response()
}

/// 200 after READY while the log accepts writes.
pub async fn readyz(State(desk): State<Arc<Desk>>) -> Response {
    let refused = desk.health.parts().remove("ingest");
    let ready = desk.health.is_ready() && refused.is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "reason": refused }))).into_response()
}

pub async fn status(State(desk): State<Arc<Desk>>) -> Json<Value> {
    Json(view::status(&desk).await)
}

pub async fn streams(State(desk): State<Arc<Desk>>) -> Json<Vec<view::StreamView>> {
    Json(view::streams(&desk))
}

/// The ledger, newest first: open rows, or all of them.
pub async fn gaps(State(desk): State<Arc<Desk>>, asked: Asked<Gaps>) -> Answer {
    let asked = query(asked)?;
    let open_only = match asked.state.as_deref() {
        None | Some("all") => false,
        Some("open") => true,
        Some(other) => return Err(Refusal::bad_request(format!("state is `open` or `all`, not `{other}`"))),
    };
    let limit = at_most(asked.limit, 1_000);
    let filter = GapFilter { open_only, symbol: asked.symbol.as_deref().map(Symbol::new), limit };
    let rows = desk.history.gaps(&filter).await.context("read the gap ledger").map_err(|e| Refusal::unavailable(&e))?;
    Ok(Json(rows.iter().map(view::gap).collect()))
}

/// What history holds, counted there.
pub async fn coverage(State(desk): State<Arc<Desk>>, asked: Asked<BySymbol>) -> Answer {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let coverage = audit::coverage(&desk.history, &streams).await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!(coverage)))
}

pub async fn jobs(State(desk): State<Arc<Desk>>) -> Answer {
    let jobs = desk.jobs.list().await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!(jobs)))
}

pub async fn job_history(State(desk): State<Arc<Desk>>, asked: Asked<Runs>) -> Answer {
    let asked = query(asked)?;
    let limit = at_most(asked.limit, 100);
    let runs = desk.history.runs(asked.job.as_deref(), limit).await.context("read the runs");
    let runs = runs.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(runs.iter().map(view::run).collect()))
}

/// Runs a job now; with `?wait=true` the answer is the finished run.
pub async fn run_job(State(desk): State<Arc<Desk>>, named: Named, asked: Asked<Wait>) -> Answer {
    let Path(name) = named?;
    let started = if query(asked)?.wait {
        let ended = desk.jobs.run_to_end(&name).await.map_err(|error| Refusal::unavailable(&error))?;
        ended.map(|run| view::run(&run))
    } else {
        let started = desk.jobs.run(&name).await.map_err(|error| Refusal::unavailable(&error))?;
        started.map(|run_id| json!({ "run_id": run_id }))
    };
    started.map(Json).map_err(|why| {
        let known = !why.starts_with("there is no job");
        let (status, code) =
            if known { (StatusCode::CONFLICT, "not_started") } else { (StatusCode::NOT_FOUND, "unknown_job") };
        Refusal::new(status, code, why)
    })
}

/// Pauses a job, over restarts too; `?reason=` is for those who wonder later.
pub async fn pause_job(State(desk): State<Arc<Desk>>, named: Named, asked: Asked<Why>) -> Answer {
    let reason = query(asked)?.reason.filter(|reason| !reason.trim().is_empty());
    let reason: String = reason.unwrap_or_else(|| "by hand".to_owned()).chars().take(REASON_MAX).collect();
    let Path(name) = named?;
    let known = desk.jobs.pause(&name, &reason).await;
    paused(known, json!({ "job": name, "paused": true, "reason": reason }))
}

pub async fn resume_job(State(desk): State<Arc<Desk>>, named: Named) -> Answer {
    let Path(name) = named?;
    let known = desk.jobs.resume(&name).await;
    paused(known, json!({ "job": name, "paused": false }))
}

fn paused(known: anyhow::Result<bool>, answer: Value) -> Answer {
    match known.map_err(|error| Refusal::unavailable(&error))? {
        true => Ok(Json(answer)),
        false => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_job", unknown(answer["job"].as_str()))),
    }
}

fn unknown(name: Option<&str>) -> String {
    format!("there is no job `{}`", name.unwrap_or_default())
}

/// Reads configuration and schedule again; 422 with every error when they are bad, and nothing changes.
pub async fn reload(State(desk): State<Arc<Desk>>, asked: Asked<DryRun>) -> Answer {
    let (answer, answered) = oneshot::channel();
    let request = ReloadRequest { dry_run: query(asked)?.dry_run, answer };
    let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "another reload is under way");
    desk.reloads.try_send(request).map_err(|_full| busy())?;
    let outcome = tokio::time::timeout(Duration::from_secs(30), answered).await;
    match outcome {
        Ok(Ok(Ok(reloaded))) => Ok(Json(view::reloaded(&reloaded))),
        Ok(Ok(Err(why))) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_reloaded", why)),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

/// Compares the cache with history.
pub async fn consistency_check(State(desk): State<Arc<Desk>>, asked: Asked<BySymbol>) -> Answer {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let report = audit::check(&desk.history, &desk.cache, &streams).await;
    Ok(Json(json!(report.map_err(|error| Refusal::unavailable(&error))?)))
}

/// Compares, and repairs what can be repaired.
pub async fn repair_data(State(desk): State<Arc<Desk>>, asked: Asked<BySymbol>) -> Answer {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let report = audit::check(&desk.history, &desk.cache, &streams).await;
    let report = report.map_err(|error| Refusal::unavailable(&error))?;
    let repaired = audit::repair(&desk.cache, &desk.backfill, report).await;
    Ok(Json(json!(repaired.map_err(|error| Refusal::unavailable(&error))?)))
}

/// What an operator asks to have backfilled: ids, or RFC 3339 times.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    exchange: String,
    symbol: String,
    from: Value,
    to: Value,
}

/// Opens a gap for a range of trades that history does not have; those it has cost nothing.
pub async fn backfill(State(desk): State<Arc<Desk>>, body: Result<Bytes, BytesRejection>) -> Answer {
    let request: BackfillRequest = serde_json::from_slice(&body?)
        .map_err(|error| Refusal::bad_request(format!("the body is not right: {error}")))?;
    let exchange = request.exchange.parse();
    let exchange = exchange.map_err(|()| Refusal::bad_request(format!("unknown exchange `{}`", request.exchange)))?;
    let stream = Stream::new(exchange, Symbol::new(&request.symbol), Channel::Trade);
    if !desk.streams.borrow().contains(&stream) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_symbol", format!("{stream} is not recorded")));
    }
    let Range { first, last } = wanted(&desk, &stream, &request).await?;
    let opened = desk.backfill.open_missing(&stream, Range { first, last }, "manual", ROWS_MAX).await;
    let opened = opened.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(json!({
        "first": first, "last": last, "missing": opened.missing, "gaps_opened": opened.gaps,
        "more": opened.rest.is_some(), "estimate_s": estimate_s(&desk, &stream, opened.missing),
    })))
}

/// How many seconds the exchange's weight allows for so many trades, when nothing else is repaired; null when nobody
/// speaks to the exchange.
fn estimate_s(desk: &Desk, stream: &Stream, positions: i64) -> Option<i64> {
    let (rest, dialect) = (desk.backfill.rest.get(&stream.exchange)?, desk.backfill.dialects.get(&stream.exchange)?);
    let status = rest.status();
    let page = dialect.trades_request(stream.symbol.as_str(), Range { first: 0, last: 0 }).weight;
    let pages = positions.max(0).saturating_add(dialect.trades_page_max() - 1) / dialect.trades_page_max();
    let per_minute = (i64::from(status.limit) * i64::from(status.share_percent) / 100).max(1);
    Some(pages.saturating_mul(i64::from(page)).saturating_mul(60) / per_minute)
}

/// The ids that are meant, none of them beyond what the exchange has numbered so far.
async fn wanted(desk: &Desk, stream: &Stream, request: &BackfillRequest) -> Result<Range, Refusal> {
    let Some(newest) = desk.board.standing(stream).next.map(|next| next - 1) else {
        let message = format!("nothing of {stream} was recorded yet: ask again after its first trade");
        return Err(Refusal::new(StatusCode::CONFLICT, "nothing_recorded", message));
    };
    let (from, to) = (place(&request.from)?, place(&request.to)?);
    let stop = tokio_util::sync::CancellationToken::new();
    let range = desk.backfill.positions(stream, (from, Some(to)), newest, &stop).await;
    let range = range.map_err(|error| Refusal::unavailable(&error))?;
    let BackfillRequest { from, to, .. } = request;
    range.ok_or_else(|| Refusal::bad_request(format!("there is no trade from {from} to {to}; the newest is {newest}")))
}

/// An id or a time.
fn place(value: &Value) -> Result<Place, Refusal> {
    let id = value.as_i64().filter(|id| *id >= 0).map(Place::Id);
    let place = id.or_else(|| value.as_str().and_then(Timestamp::parse).map(Place::At));
    place.ok_or_else(|| Refusal::bad_request(format!("{value} is neither a trade id nor a time")))
}
