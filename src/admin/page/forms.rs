//! `POST /do`: the buttons of the page, as an HTML form, so that they work without a script too.
//!
//! The rules are those of the API: no request from another site, and only from loopback or with the token, which is a field of
//! the form. The browser is redirected to the page, which shows the result.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::admin::listener::Caller;
use crate::admin::response::{ApiError, CommonErrors, ErrorDocument, ParameterErrors, UnavailableErrors};
use crate::admin::{AppState, guard};
use crate::audit;

use super::Page;
use super::format::pluralize;

/// Results kept until their browser loads them.
const RESULTS_MAX: usize = 64;
/// How long the response waits for a run to end; after that it reports that the job has started.
const RUN_MAX: Duration = Duration::from_secs(2);
/// The longest a repair may take.
const REPAIR_MAX: Duration = Duration::from_secs(30);

/// The fields of the form.
#[derive(Deserialize, ToSchema)]
pub struct FormRequest {
    /// `run NAME`, `pause NAME`, `resume NAME`, `repair`, or `try`, which only tries the token.
    #[serde(rename = "do")]
    action: String,
    /// The admin token; not needed from loopback.
    #[serde(default)]
    token: String,
}

/// The result of a form.
#[derive(Clone)]
pub struct FormResult {
    id: String,
    /// Whether the action succeeded.
    pub is_done: bool,
    /// The result, as text.
    pub words: String,
}

/// The last results. They are stored here and not in the address, so that an address cannot put text on the page.
#[derive(Default)]
pub struct FormResults(Mutex<VecDeque<FormResult>>);

impl FormResults {
    /// The result with this id.
    pub fn find(&self, id: &str) -> Option<FormResult> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|result| result.id == id).cloned()
    }

    fn store(&self, answer: Result<String, String>) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let is_done = answer.is_ok();
        let words = answer.unwrap_or_else(|why| why);
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if results.len() == RESULTS_MAX {
            results.pop_front();
        }
        results.push_back(FormResult { id: id.clone(), is_done, words });
        id
    }
}

/// Runs the action of a button
///
/// This is for browsers, which are redirected to the page with the result. Programs use `/api/v1`.
#[utoipa::path(post, path = "/do", tag = "page",
    request_body(content = FormRequest, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 303, description = "The action ran; the page shows its result", headers(("location" = String, description = "The page"))),
    (status = 413, description = "The form has too many bytes (`too_large`)", body = ErrorDocument),
    (status = 415, description = "The body is not a form (`no_form`)", body = ErrorDocument),
    CommonErrors, ParameterErrors, UnavailableErrors,
))]
pub async fn submit(
    State(state): State<Arc<AppState>>,
    Extension(page): Extension<Arc<Page>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    form: Result<Form<FormRequest>, FormRejection>,
) -> Response {
    if let Some(error) = guard::cross_site_error(&headers) {
        return error.into_response();
    }
    let form = match form {
        Ok(Form(form)) => form,
        Err(rejection) => return ApiError::from(rejection).into_response(),
    };
    let answer = if guard::is_trusted(&state, caller, &form.token) {
        execute(&state, &form.action).await
    } else if form.token.is_empty() {
        Err("nothing was changed: this needs the admin token".to_owned())
    } else {
        Err("nothing was changed: the admin token is not right".to_owned())
    };
    page.renderer.invalidate().await;
    Redirect::to(&format!("/?result={}", page.results.store(answer))).into_response()
}

/// Runs the action; returns its result, or why nothing was done.
async fn execute(state: &AppState, action: &str) -> Result<String, String> {
    let (verb, job) = action.split_once(' ').unwrap_or((action, ""));
    let done = match verb {
        "run" => run(state, job).await,
        "pause" => state.jobs.pause(job, "from the status page").await.map(|known| {
            if known {
                Ok(format!("{job} is paused until it is resumed, also across restarts"))
            } else {
                Err(unknown(job))
            }
        }),
        "resume" => state
            .jobs
            .resume(job)
            .await
            .map(|known| if known { Ok(format!("{job} runs again when it is due")) } else { Err(unknown(job)) }),
        "repair" => {
            tokio::time::timeout(REPAIR_MAX, repair(state)).await.map_err(anyhow::Error::from).flatten().map(Ok)
        }
        "try" => Ok(Ok("the token is right; nothing was changed".to_owned())),
        _ => Ok(Err(format!("nothing was done: `{verb}` is not run, pause, resume or repair"))),
    };
    done.unwrap_or_else(|error| Err(format!("the action failed: {error:#}")))
}

fn unknown(job: &str) -> String {
    format!("nothing was done: there is no job `{job}`")
}

async fn run(state: &AppState, job: &str) -> anyhow::Result<Result<String, String>> {
    // The run continues after this wait.
    let Ok(ended) = tokio::time::timeout(RUN_MAX, state.jobs.run_to_end(job)).await else {
        return Ok(Ok(format!("{job} has started: its lane shows the outcome")));
    };
    Ok(match ended? {
        Ok(run) if run.outcome == "succeeded" => Ok(format!("{job} ran and succeeded")),
        Ok(run) => Err(format!("{job} ran and {}: {}", run.outcome.replace('_', " "), run.reason)),
        Err(why) => Err(format!("{job} did not run: {why}")),
    })
}

/// As `POST /api/v1/admin/repair-data`.
async fn repair(state: &AppState) -> anyhow::Result<String> {
    let streams = state.streams.borrow().clone();
    let report = audit::check(&state.history, &state.cache, &streams).await.context("compare cache and history")?;
    let checked = pluralize(report.checked as i64, "entry was", "entries were");
    let repaired = audit::repair(&state.cache, &state.backfill, report).await.context("repair")?;
    let unrepaired = match repaired.unrepaired.len() {
        0 => "none left".to_owned(),
        left => format!("{} left for a person", pluralize(left as i64, "entry is", "entries are")),
    };
    Ok(format!(
        "{checked} compared, {} repaired, {} sent to backfill, {unrepaired}",
        repaired.repaired,
        pluralize(repaired.sent_to_backfill as i64, "range", "ranges")
    ))
}
