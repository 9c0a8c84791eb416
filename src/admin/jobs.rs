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

use super::answer::{Always, Asked, Busy, Changing, ErrorDocument, Naming, Refusal};
use super::api::{Answer, Parameters, at_most, query};
use super::documents::{Paused, RunAnswer, RunView, Started};
use super::{Desk, view};

type Named = Result<Path<String>, PathRejection>;

/// Longest reason for a pause that is kept: a sentence, not a document.
const REASON_MAX: usize = 500;

/// `?job=&limit=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Runs {
    /// Only of this job.
    job: Option<String>,
    /// At most so many, 10,000 at most; default: 100.
    limit: Option<usize>,
}

/// `?reason=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Why {
    /// For those who wonder later.
    reason: Option<String>,
}

/// `?wait=true`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// Answer with the finished run.
    #[serde(default)]
    wait: bool,
}

/// Every job of the schedule
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", responses(
    (status = 200, description = "With its next run and its last outcome", body = [JobStatus]), Always, Busy,
))]
pub async fn jobs(State(desk): State<Arc<Desk>>) -> Answer<Vec<JobStatus>> {
    Ok(Json(desk.jobs.list().await.map_err(|error| Refusal::unavailable(&error))?))
}

/// Runs, newest first
#[utoipa::path(get, path = "/api/v1/jobs/history", tag = "jobs", params(Runs), responses(
    (status = 200, description = "As history has them", body = [RunView]), Always, Asked, Busy,
))]
pub async fn job_history(State(desk): State<Arc<Desk>>, asked: Parameters<Runs>) -> Answer<Vec<RunView>> {
    let asked = query(asked)?;
    let limit = at_most(asked.limit, 100);
    let runs = desk.history.runs(asked.job.as_deref(), limit).await.context("read the runs");
    let runs = runs.map_err(|error| Refusal::unavailable(&error))?;
    Ok(Json(runs.iter().map(view::run).collect()))
}

/// Runs a job now
///
/// With `wait=true` the answer is the finished run; one that takes longer than a request may is 504, and goes on.
#[utoipa::path(post, path = "/api/v1/jobs/{name}/run", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name"), Wait), responses(
    (status = 200, description = "The run", body = RunAnswer),
    (status = 409, description = "It runs already, or may not run now (`not_started`)", body = ErrorDocument),
    Always, Asked, Changing, Naming, Busy,
))]
pub async fn run_job(State(desk): State<Arc<Desk>>, named: Named, asked: Parameters<Wait>) -> Answer<RunAnswer> {
    let Path(name) = named?;
    let started = if query(asked)?.wait {
        let ended = desk.jobs.run_to_end(&name).await.map_err(|error| Refusal::unavailable(&error))?;
        ended.map(|run| RunAnswer::Ended(Box::new(view::run(&run))))
    } else {
        let started = desk.jobs.run(&name).await.map_err(|error| Refusal::unavailable(&error))?;
        started.map(|run_id| RunAnswer::Started(Started { run_id }))
    };
    started.map(Json).map_err(|why| {
        let known = !why.starts_with("there is no job");
        let (status, code) =
            if known { (StatusCode::CONFLICT, "not_started") } else { (StatusCode::NOT_FOUND, "unknown_job") };
        Refusal::new(status, code, why)
    })
}

/// Pauses a job, over restarts too
#[utoipa::path(post, path = "/api/v1/jobs/{name}/pause", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name"), Why), responses(
    (status = 200, description = "It is paused", body = Paused), Always, Asked, Changing, Naming, Busy,
))]
pub async fn pause_job(State(desk): State<Arc<Desk>>, named: Named, asked: Parameters<Why>) -> Answer<Paused> {
    let reason = query(asked)?.reason.filter(|reason| !reason.trim().is_empty());
    let reason: String = reason.unwrap_or_else(|| "by hand".to_owned()).chars().take(REASON_MAX).collect();
    let Path(name) = named?;
    let known = desk.jobs.pause(&name, &reason).await;
    paused(known, Paused { job: name, paused: true, reason: Some(reason) })
}

/// Lets a paused job run again
#[utoipa::path(post, path = "/api/v1/jobs/{name}/resume", tag = "jobs", security((), ("token" = [])),
    params(("name" = String, Path, description = "The job's name")), responses(
    (status = 200, description = "It runs by itself again", body = Paused), Always, Asked, Changing, Naming, Busy,
))]
pub async fn resume_job(State(desk): State<Arc<Desk>>, named: Named) -> Answer<Paused> {
    let Path(name) = named?;
    let known = desk.jobs.resume(&name).await;
    paused(known, Paused { job: name, paused: false, reason: None })
}

fn paused(known: anyhow::Result<bool>, answer: Paused) -> Answer<Paused> {
    if known.map_err(|error| Refusal::unavailable(&error))? {
        return Ok(Json(answer));
    }
    Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_job", format!("there is no job `{}`", answer.job)))
}
