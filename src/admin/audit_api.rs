//! The endpoints that compare the cache with history and repair the differences.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::audit::{self, ConsistencyReport, RepairReport};

use super::AppState;
use super::api::{ApiResult, QueryParameters, SymbolQuery, parse_query, recorded_streams};
use super::response::{ApiError, CommonErrors, ParameterErrors, TokenErrors, UnavailableErrors, UnknownNameErrors};

/// Compares the cache with history
#[utoipa::path(get, path = "/api/v1/admin/consistency-check", tag = "repair", params(SymbolQuery), responses(
    (status = 200, description = "Every difference", body = ConsistencyReport),
    CommonErrors, ParameterErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn consistency_check(
    State(state): State<Arc<AppState>>,
    query: QueryParameters<SymbolQuery>,
) -> ApiResult<ConsistencyReport> {
    let streams = recorded_streams(&state, parse_query(query)?.symbol.as_deref())?;
    let report = audit::check(&state.history, &state.cache, &streams).await;
    Ok(Json(report.map_err(|error| ApiError::unavailable(&error))?))
}

/// Compares, and repairs what can be repaired
#[utoipa::path(post, path = "/api/v1/admin/repair-data", tag = "repair", security((), ("token" = [])),
    params(SymbolQuery),
    responses(
    (status = 200, description = "Counts of repaired and unrepaired entries", body = RepairReport),
    CommonErrors, ParameterErrors, TokenErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn repair_data(
    State(state): State<Arc<AppState>>,
    query: QueryParameters<SymbolQuery>,
) -> ApiResult<RepairReport> {
    let streams = recorded_streams(&state, parse_query(query)?.symbol.as_deref())?;
    let report = audit::check(&state.history, &state.cache, &streams).await;
    let report = report.map_err(|error| ApiError::unavailable(&error))?;
    let repaired = audit::repair(&state.cache, &state.backfill, report).await;
    Ok(Json(repaired.map_err(|error| ApiError::unavailable(&error))?))
}
