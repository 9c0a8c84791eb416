//! The endpoints of `/api/v1` for status, streams, gaps, coverage and reload; `/healthz` and `/readyz`.

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

use crate::audit;
use crate::history::GapFilter;
use crate::market::{Stream, Symbol};

use super::documents::{CoverageView, GapView, HealthView, ReadyView, ReloadView, Status, StreamView};
use super::response::{
    ApiError, CommonErrors, ErrorDocument, ParameterErrors, TokenErrors, UnavailableErrors, UnknownNameErrors,
};
use super::{AppState, BEAT_MAX, ReloadRequest, status_model};

/// A JSON document, or the error.
pub type ApiResult<T> = Result<Json<T>, ApiError>;
/// The parsed query string.
pub type QueryParameters<T> = Result<Query<T>, QueryRejection>;

/// Most rows of one response.
pub const ROWS_MAX: usize = 10_000;

/// `?symbol=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SymbolQuery {
    /// Only this symbol, which must be recorded.
    pub symbol: Option<String>,
}

/// `?symbol=&epoch=N|all`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CoverageQuery {
    /// Only this symbol, which must be recorded.
    pub symbol: Option<String>,
    /// The numbering of the trades: a number from 0, or `all`; default: each symbol's newest.
    pub epoch: Option<String>,
}

/// `?state=open|all&symbol=&limit=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GapsQuery {
    /// Which rows; default: all.
    #[param(inline)]
    state: Option<GapSelection>,
    /// Only this symbol.
    symbol: Option<String>,
    /// Most rows to list, up to 10,000; default: 1,000.
    limit: Option<usize>,
}

/// Which rows of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GapSelection {
    /// The rows that are not closed.
    Open,
    /// Every row.
    All,
}

/// `?dry_run=true`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReloadQuery {
    /// Report what would change, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The query, or 400 when it is invalid.
pub fn parse_query<T>(query: QueryParameters<T>) -> Result<T, ApiError> {
    let Query(parsed) = query?;
    Ok(parsed)
}

/// A limit from 1 to [`ROWS_MAX`]: the stores read 0 as "all", which no request may ask for.
pub fn row_limit(requested: Option<usize>, default: usize) -> usize {
    requested.unwrap_or(default).clamp(1, ROWS_MAX)
}

/// The recorded streams of a symbol, or all of them.
///
/// # Errors
/// 404 when the symbol is not recorded.
pub fn recorded_streams(state: &AppState, symbol: Option<&str>) -> Result<Vec<Stream>, ApiError> {
    let mut streams = state.streams.borrow().clone();
    if let Some(symbol) = symbol {
        streams.retain(|stream| stream.symbol.as_str() == symbol);
        if streams.is_empty() {
            let message = format!("`{symbol}` is not recorded");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_symbol", message));
        }
    }
    Ok(streams)
}

/// Whether the recording loops make progress
///
/// 200 while every recording loop beats; the body names the degraded parts.
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "Every loop makes progress", body = HealthView),
    (status = 503, description = "A loop is stuck", body = HealthView),
    CommonErrors,
))]
pub async fn healthz(State(state): State<Arc<AppState>>) -> (StatusCode, Json<HealthView>) {
    let wedged = state.heartbeats.stuck_loop(BEAT_MAX);
    let degraded = state.health.degraded_parts();
    let (code, status) = match () {
        () if wedged.is_some() => (StatusCode::SERVICE_UNAVAILABLE, "wedged"),
        () if degraded.is_empty() => (StatusCode::OK, "ok"),
        () => (StatusCode::OK, "degraded"),
    };
    (code, Json(HealthView { status, degraded, wedged }))
}

/// Whether the service records
///
/// 200 after READY while the log accepts writes.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "The service records", body = ReadyView),
    (status = 503, description = "The service does not record, with the reason", body = ReadyView),
    CommonErrors,
))]
pub async fn readyz(State(state): State<Arc<AppState>>) -> (StatusCode, Json<ReadyView>) {
    let reason = state.health.degraded_parts().remove("ingest");
    let ready = state.health.is_ready() && reason.is_none();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ReadyView { ready, reason }))
}

/// The whole service in one document
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses(
    (status = 200, description = "The status document", body = Status), CommonErrors, UnavailableErrors,
))]
pub async fn status(State(state): State<Arc<AppState>>) -> Json<Status> {
    Json(status_model::status(&state).await)
}

/// Every recorded stream
#[utoipa::path(get, path = "/api/v1/streams", tag = "status", responses(
    (status = 200, description = "Each stream with its progress", body = [StreamView]), CommonErrors, UnavailableErrors,
))]
pub async fn streams(State(state): State<Arc<AppState>>) -> Json<Vec<StreamView>> {
    Json(status_model::streams(&state))
}

/// The gap ledger, newest first
#[utoipa::path(get, path = "/api/v1/gaps", tag = "gaps", params(GapsQuery), responses(
    (status = 200, description = "The rows of the ledger", body = [GapView]),
    CommonErrors, ParameterErrors, UnavailableErrors,
))]
pub async fn gaps(State(state): State<Arc<AppState>>, query: QueryParameters<GapsQuery>) -> ApiResult<Vec<GapView>> {
    let query = parse_query(query)?;
    let open_only = query.state == Some(GapSelection::Open);
    let limit = row_limit(query.limit, 1_000);
    let filter =
        GapFilter { open_only, symbol: query.symbol.as_deref().map(Symbol::new), limit, ..GapFilter::default() };
    let rows =
        state.history.gaps(&filter).await.context("read the gap ledger").map_err(|e| ApiError::unavailable(&e))?;
    Ok(Json(rows.iter().map(status_model::gap).collect()))
}

/// What history holds and lacks, counted now
#[utoipa::path(get, path = "/api/v1/coverage", tag = "gaps", params(CoverageQuery), responses(
    (status = 200, description = "Per stream and day", body = [CoverageView]),
    CommonErrors, ParameterErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn coverage(
    State(state): State<Arc<AppState>>,
    query: QueryParameters<CoverageQuery>,
) -> ApiResult<Vec<CoverageView>> {
    let query = parse_query(query)?;
    let streams = recorded_streams(&state, query.symbol.as_deref())?;
    let views = match query.epoch.as_deref() {
        None => vec![state.history.clone()],
        Some("all") => {
            let epochs = state.history.epochs().await.context("read the epochs");
            let newest = epochs.map_err(|error| ApiError::unavailable(&error))?.iter().map(|row| row.epoch).max();
            (0..=newest.unwrap_or(0)).map(|epoch| state.history.at_epoch(epoch)).collect()
        }
        Some(text) => {
            let epoch = text.parse::<u32>().map_err(|_| {
                let why = format!("`{text}` is neither `all` nor the number of an epoch (0 is the first)");
                ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", why)
            })?;
            vec![state.history.at_epoch(i64::from(epoch))]
        }
    };
    let is_one = views.len() == 1;
    let mut coverage = Vec::new();
    for view in views {
        let counted = audit::coverage(&view, &streams, None).await.map_err(|error| ApiError::unavailable(&error))?;
        // Klines have no epochs, and most symbols only the first one.
        let epoch = view.epoch().unwrap_or(0);
        coverage
            .extend(counted.into_iter().filter(|row| is_one || row.epoch == epoch && (epoch == 0 || row.present > 0)));
    }
    Ok(Json(coverage.into_iter().map(|counted| status_model::coverage(&state, counted)).collect()))
}

/// Reloads the configuration and the schedule
///
/// When the files are invalid, the response is 422 with every error, and nothing changes.
#[utoipa::path(post, path = "/api/v1/reload", tag = "status", security((), ("token" = [])),
    params(ReloadQuery), responses(
    (status = 200, description = "What changed", body = ReloadView),
    (status = 422, description = "Invalid files, or a change that needs a restart (`not_reloaded`)", body = ErrorDocument),
    CommonErrors, ParameterErrors, TokenErrors, UnavailableErrors,
))]
pub async fn reload(State(state): State<Arc<AppState>>, query: QueryParameters<ReloadQuery>) -> ApiResult<ReloadView> {
    let (answer, answered) = oneshot::channel();
    let request = ReloadRequest { dry_run: parse_query(query)?.dry_run, answer };
    let busy = |why: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", why);
    state.reloads.try_send(request).map_err(|_full| busy("too many reloads wait: try again later"))?;
    let outcome = tokio::time::timeout(Duration::from_secs(30), answered).await;
    match outcome {
        Ok(Ok(Ok(report))) => Ok(Json(status_model::reload(report))),
        Ok(Ok(Err(why))) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "not_reloaded", why)),
        Ok(Err(_stopping)) => Err(busy("the service is stopping")),
        Err(_elapsed) => Err(busy("the reload is not done within 30 s: its outcome will be in the log")),
    }
}
