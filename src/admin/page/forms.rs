//! `POST /do`: what the page's buttons ask for, by an HTML form, so that they work without a script too.
//!
//! The same permission as the API's: no page of another site, and from loopback or with the token, which stands in the
//! form here. What came of it is said on the page that the browser is sent back to.

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
use super::html::pluralize;

/// Answers that are kept until their browser comes back for them.
const RESULTS_MAX: usize = 64;
/// How long a browser waits for a run to end before it is told that it runs.
const RUN_MAX: Duration = Duration::from_secs(2);
/// How long a repair may take.
const REPAIR_MAX: Duration = Duration::from_secs(30);

/// What a form says.
#[derive(Deserialize, ToSchema)]
pub struct FormRequest {
    /// `run NAME`, `pause NAME`, `resume NAME`, `repair`, or `try`, which only tries the token.
    #[serde(rename = "do")]
    action: String,
    /// The admin token; from loopback none is needed.
    #[serde(default)]
    token: String,
}

/// What came of it, for the page.
#[derive(Clone)]
pub struct FormResult {
    id: String,
    /// Whether it was done.
    pub is_done: bool,
    /// In words.
    pub words: String,
}

/// The last results. They are kept here and not in the address, so that an address cannot put words on the page.
#[derive(Default)]
pub struct FormResults(Mutex<VecDeque<FormResult>>);

impl FormResults {
    /// The answer with this id.
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

/// Does what a button of the page asks for
///
/// It answers browsers: what came of it is said on the page that they are sent back to. Programs use `/api/v1`.
#[utoipa::path(post, path = "/do", tag = "page",
    request_body(content = FormRequest, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 303, description = "Done or not, as the page says", headers(("location" = String, description = "The page"))),
    (status = 413, description = "The form has too many bytes (`too_large`)", body = ErrorDocument),
    (status = 415, description = "It is no form (`no_form`)", body = ErrorDocument),
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

/// Does what was asked; says what came of it, or why it was not done.
async fn execute(state: &AppState, action: &str) -> Result<String, String> {
    let (verb, job) = action.split_once(' ').unwrap_or((action, ""));
    let done = match verb {
        "run" => run(state, job).await,
        "pause" => state.jobs.pause(job, "from the status page").await.map(|known| {
            if known {
                Ok(format!("{job} is paused, over restarts too, until it is resumed"))
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
        _ => Ok(Err(format!("nothing was done: `{verb}` is none of run, pause, resume, repair"))),
    };
    done.unwrap_or_else(|error| Err(format!("it cannot be done now: {error:#}")))
}

fn unknown(job: &str) -> String {
    format!("nothing was done: there is no job `{job}`")
}

async fn run(state: &AppState, job: &str) -> anyhow::Result<Result<String, String>> {
    // The run goes on when nobody waits any more.
    let Ok(ended) = tokio::time::timeout(RUN_MAX, state.jobs.run_to_end(job)).await else {
        return Ok(Ok(format!("{job} has begun: how it ends is shown in its lane")));
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
        0 => "nothing is left over".to_owned(),
        left => format!("{} left to a person", pluralize(left as i64, "entry is", "entries are")),
    };
    Ok(format!(
        "{checked} compared, {} repaired, {} sent to backfill, {unrepaired}",
        repaired.repaired,
        pluralize(repaired.sent_to_backfill as i64, "range", "ranges")
    ))
}
