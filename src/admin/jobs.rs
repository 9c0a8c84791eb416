//! The endpoints of `/api/v1/jobs`.

use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::jobs::JobStatus;

use super::api::{ApiResult, QueryParameters, parse_query, row_limit};
use super::documents::{PauseState, RunResponse, RunStarted, RunView};
use super::response::{
    ApiError, CommonErrors, ErrorDocument, ParameterErrors, TokenErrors, UnavailableErrors, UnknownNameErrors,
};
use super::{AppState, status_model};

type NamePath = Result<Path<String>, PathRejection>;

/// Most characters of a pause's reason: a sentence, not a document.
const REASON_MAX: usize = 500;

/// `?job=&limit=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunsQuery {
    /// Only this job.
    job: Option<String>,
    /// Most runs to list, up to 10,000; default: 100.
    limit: Option<usize>,
}

/// `?reason=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PauseQuery {
    /// Why the job is paused; shown until it resumes.
    reason: Option<String>,
}

/// `?wait=true`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunQuery {
    /// Wait for the run and return it when it has finished.
    #[serde(default)]
    wait: bool,
}

/// Every job of the schedule
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", responses(
    (status = 200, description = "Each job with its next run and its last outcome", body = [JobStatus]),
    CommonErrors, UnavailableErrors,
))]
pub async fn jobs(State(state): State<Arc<AppState>>) -> ApiResult<Vec<JobStatus>> {
    Ok(Json(state.jobs.list().await.map_err(|error| ApiError::unavailable(&error))?))
}

/// Runs, newest first
#[utoipa::path(get, path = "/api/v1/jobs/history", tag = "jobs", params(RunsQuery), responses(
    (status = 200, description = "The runs that history holds", body = [RunView]),
    CommonErrors, ParameterErrors, UnavailableErrors,
))]
pub async fn job_history(
    State(state): State<Arc<AppState>>,
    query: QueryParameters<RunsQuery>,
) -> ApiResult<Vec<RunView>> {
    let query = parse_query(query)?;
    let limit = row_limit(query.limit, 100);
    let runs = state.history.runs(query.job.as_deref(), None, limit).await.context("read the runs");
    let runs = runs.map_err(|error| ApiError::unavailable(&error))?;
    Ok(Json(runs.iter().map(status_model::run).collect()))
}

/// Runs a job now
///
/// With `wait=true` the response is the finished run. When the run takes longer than a request may, the response is 504
/// and the run continues.
#[utoipa::path(post, path = "/api/v1/jobs/{name}/run", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name"), RunQuery), responses(
    (status = 200, description = "The run", body = RunResponse),
    (status = 409, description = "The job runs already, or may not run now (`not_started`)", body = ErrorDocument),
    CommonErrors, ParameterErrors, TokenErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn run_job(
    State(state): State<Arc<AppState>>,
    name: NamePath,
    query: QueryParameters<RunQuery>,
) -> ApiResult<RunResponse> {
    let Path(name) = name?;
    let started = if parse_query(query)?.wait {
        let ended = state.jobs.run_to_end(&name).await.map_err(|error| ApiError::unavailable(&error))?;
        ended.map(|run| RunResponse::Finished(Box::new(status_model::run(&run))))
    } else {
        let started = state.jobs.run(&name).await.map_err(|error| ApiError::unavailable(&error))?;
        started.map(|run_id| RunResponse::Started(RunStarted { run_id }))
    };
    started.map(Json).map_err(|why| {
        let known = !why.starts_with("there is no job");
        let (status, code) =
            if known { (StatusCode::CONFLICT, "not_started") } else { (StatusCode::NOT_FOUND, "unknown_job") };
        ApiError::new(status, code, why)
    })
}

/// Pauses a job, also across restarts
#[utoipa::path(post, path = "/api/v1/jobs/{name}/pause", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name"), PauseQuery), responses(
    (status = 200, description = "The job is paused", body = PauseState),
    CommonErrors, ParameterErrors, TokenErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn pause_job(
    State(state): State<Arc<AppState>>,
    name: NamePath,
    query: QueryParameters<PauseQuery>,
) -> ApiResult<PauseState> {
    let reason = parse_query(query)?.reason.filter(|reason| !reason.trim().is_empty());
    let reason: String = reason.unwrap_or_else(|| "by hand".to_owned()).chars().take(REASON_MAX).collect();
    let Path(name) = name?;
    let known = state.jobs.pause(&name, &reason).await;
    paused(known, PauseState { job: name, paused: true, reason: Some(reason) })
}

/// Resumes a paused job
#[utoipa::path(post, path = "/api/v1/jobs/{name}/resume", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name")), responses(
    (status = 200, description = "The job runs on schedule again", body = PauseState),
    CommonErrors, ParameterErrors, TokenErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn resume_job(State(state): State<Arc<AppState>>, name: NamePath) -> ApiResult<PauseState> {
    let Path(name) = name?;
    let known = state.jobs.resume(&name).await;
    paused(known, PauseState { job: name, paused: false, reason: None })
}

fn paused(known: anyhow::Result<bool>, answer: PauseState) -> ApiResult<PauseState> {
    if known.map_err(|error| ApiError::unavailable(&error))? {
        return Ok(Json(answer));
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_job", format!("there is no job `{}`", answer.job)))
}
