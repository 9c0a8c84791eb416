//! The endpoints of `/api/v1` that tell where the service stands and have it repaired, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use crate::audit::{self, ConsistencyReport, RepairReport};
use crate::history::GapFilter;
use crate::market::{Stream, Symbol};

use super::answer::{Always, Asked, Busy, Changing, ErrorDocument, Naming, Refusal};
use super::documents::{CoverageView, GapView, HealthView, ReadyView, ReloadView, Status, StreamView};
use super::{BEAT_MAX, Desk, ReloadRequest, view};

/// A document, or why there is none.
pub type Answer<T> = Result<Json<T>, Refusal>;
/// What stands after the question mark.
pub type Parameters<T> = Result<Query<T>, QueryRejection>;

/// Most rows one answer lists.
pub const ROWS_MAX: usize = 10_000;

/// `?symbol=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BySymbol {
    /// Only of this symbol, which must be recorded.
    symbol: Option<String>,
}

/// `?state=open|all&symbol=&limit=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Gaps {
    /// Which rows; default: all.
    #[param(inline)]
    state: Option<GapsOf>,
    /// Only of this symbol.
    symbol: Option<String>,
    /// At most so many, 10,000 at most; default: 1,000.
    limit: Option<usize>,
}

/// Which rows of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GapsOf {
    /// Those that are not closed.
    Open,
    /// Every one.
    All,
}

/// `?dry_run=true`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryRun {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// The parameters, when they make sense.
pub fn query<T>(asked: Parameters<T>) -> Result<T, Refusal> {
    let Query(query) = asked?;
    Ok(query)
}

/// 0 means "all" to the stores, and nobody may ask for that.
pub fn at_most(asked: Option<usize>, usual: usize) -> usize {
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

/// Whether the loops come round
///
/// 200 while the spine loops beat; the body names what is degraded.
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "The loops come round", body = HealthView),
    (status = 503, description = "A loop is wedged", body = HealthView),
    Always,
))]
pub async fn healthz(State(desk): State<Arc<Desk>>) -> (StatusCode, Json<HealthView>) {
    let wedged = desk.heartbeats.stuck_loop(BEAT_MAX);
    let degraded = desk.health.degraded_parts();
    let (code, status) = match () {
        () if wedged.is_some() => (StatusCode::SERVICE_UNAVAILABLE, "wedged"),
        () if degraded.is_empty() => (StatusCode::OK, "ok"),
        () => (StatusCode::OK, "degraded"),
    };
    (code, Json(HealthView { status, degraded, wedged }))
}

/// Whether it records
///
/// 200 after READY while the log accepts writes.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It records", body = ReadyView),
    (status = 503, description = "It does not, and why", body = ReadyView),
    Always,
))]
pub async fn readyz(State(desk): State<Arc<Desk>>) -> (StatusCode, Json<ReadyView>) {
    let reason = desk.health.degraded_parts().remove("ingest");
    let ready = desk.health.is_ready() && reason.is_none();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ReadyView { ready, reason }))
}

/// The whole service in one document
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses(
    (status = 200, description = "Where it stands", body = Status), Always, Busy,
))]
pub async fn status(State(desk): State<Arc<Desk>>) -> Json<Status> {
    Json(view::standing(&desk).await)
}

/// Every recorded stream
#[utoipa::path(get, path = "/api/v1/streams", tag = "status", responses(
    (status = 200, description = "Where each stands", body = [StreamView]), Always, Busy,
))]
pub async fn streams(State(desk): State<Arc<Desk>>) -> Json<Vec<StreamView>> {
    Json(view::streams(&desk))
}

/// The gap ledger, newest first
#[utoipa::path(get, path = "/api/v1/gaps", tag = "gaps", params(Gaps), responses(
    (status = 200, description = "Its rows", body = [GapView]), Always, Asked, Busy,
))]
pub async fn gaps(State(desk): State<Arc<Desk>>, asked: Parameters<Gaps>) -> Answer<Vec<GapView>> {
    let asked = query(asked)?;
    let open_only = asked.state == Some(GapsOf::Open);
    let limit = at_most(asked.limit, 1_000);
    let filter = GapFilter { open_only, symbol: asked.symbol.as_deref().map(Symbol::new), limit };
    let rows = desk.history.gaps(&filter).await.context("read the gap ledger").map_err(|e| Refusal::unavailable(&e))?;
    Ok(Json(rows.iter().map(view::gap).collect()))
}

/// What history holds, counted there
#[utoipa::path(get, path = "/api/v1/coverage", tag = "gaps", params(BySymbol), responses(
    (status = 200, description = "Per stream and day", body = [CoverageView]), Always, Asked, Naming, Busy,
))]
pub async fn coverage(State(desk): State<Arc<Desk>>, asked: Parameters<BySymbol>) -> Answer<Vec<CoverageView>> {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let coverage =
        audit::coverage(&desk.history, &streams, None).await.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(coverage.into_iter().map(|counted| view::coverage(&desk, counted)).collect()))
}

/// Reads configuration and schedule again
///
/// 422 with every error when they are bad, and nothing changes.
#[utoipa::path(post, path = "/api/v1/reload", tag = "status", security((), ("token" = [])), params(DryRun), responses(
    (status = 200, description = "What changed", body = ReloadView),
    (status = 422, description = "The files are bad, or ask for a restart (`not_reloaded`)", body = ErrorDocument),
    Always, Asked, Changing, Busy,
))]
pub async fn reload(State(desk): State<Arc<Desk>>, asked: Parameters<DryRun>) -> Answer<ReloadView> {
    let (answer, answered) = oneshot::channel();
    let request = ReloadRequest { dry_run: query(asked)?.dry_run, answer };
    let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "another reload is under way");
    desk.reloads.try_send(request).map_err(|_full| busy())?;
    let outcome = tokio::time::timeout(Duration::from_secs(30), answered).await;
    match outcome {
        Ok(Ok(Ok(reloaded))) => Ok(Json(view::reloaded(reloaded))),
        Ok(Ok(Err(why))) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_reloaded", why)),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

/// Compares the cache with history
#[utoipa::path(get, path = "/api/v1/admin/consistency-check", tag = "repair", params(BySymbol), responses(
    (status = 200, description = "Every difference", body = ConsistencyReport), Always, Asked, Naming, Busy,
))]
pub async fn consistency_check(
    State(desk): State<Arc<Desk>>,
    asked: Parameters<BySymbol>,
) -> Answer<ConsistencyReport> {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let report = audit::check(&desk.history, &desk.cache, &streams).await;
    Ok(Json(report.map_err(|error| Refusal::unavailable(&error))?))
}

/// Compares, and repairs what can be repaired
#[utoipa::path(post, path = "/api/v1/admin/repair-data", tag = "repair", security((), ("token" = [])), params(BySymbol),
    responses(
    (status = 200, description = "What was repaired, and what was not", body = RepairReport),
    Always, Asked, Changing, Naming, Busy,
))]
pub async fn repair_data(State(desk): State<Arc<Desk>>, asked: Parameters<BySymbol>) -> Answer<RepairReport> {
    let streams = recorded(&desk, query(asked)?.symbol.as_deref())?;
    let report = audit::check(&desk.history, &desk.cache, &streams).await;
    let report = report.map_err(|error| Refusal::unavailable(&error))?;
    let repaired = audit::repair(&desk.cache, &desk.backfill, report).await;
    Ok(Json(repaired.map_err(|error| Refusal::unavailable(&error))?))
}
