//! The HTTP API, the status page, the metrics.
//!
//! It shows what the other rooms know and asks them to act; it decides nothing itself. Errors are
//! `{"error": {"code", "message"}}` with the right status.

mod api;
mod audit_api;
mod backfill_api;
mod background_count;
mod documents;
mod guard;
mod jobs;
mod listener;
mod metrics;
mod openapi;
mod options;
mod page;
mod response;
mod server;
mod socket;
mod status_model;
#[cfg(test)]
mod tests;
pub mod time_series;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use options::AdminOptions;
pub use socket::AdminSocket;

use crate::backfill;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::exchange::socket::Connections;
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::History;
use crate::ingest::Counters;
use crate::jobs::JobsHandle;
use crate::jobs::planner::Changes;
use crate::ledger::SharedLedger;
use crate::log::Log;
use crate::market::{Stream, Timestamp};
use crate::progress::Progress;
use time_series::TimeSeries;

/// Largest request body.
const BODY_MAX: usize = 64 << 10;
/// A loop that has not beaten for so long makes `/healthz` fail; systemd's watchdog acts at the same age.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for one answer of a store that is down, so that a status still shows the other parts.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a reload changed, or would change.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// In words.
    pub summary: String,
    /// The schedule's part of it.
    pub jobs: Changes,
}

/// Asks for a reload; answered with what changed, or why nothing did.
pub struct ReloadRequest {
    /// Only say what would change.
    pub dry_run: bool,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// What became of reloads since the process began.
#[derive(Debug, Default)]
pub struct ReloadCount {
    /// Applied, or nothing was to be changed.
    pub applied: AtomicU64,
    /// Refused: the files were bad, or asked for a restart.
    pub refused: AtomicU64,
    /// The last one was refused.
    pub last_refused: AtomicBool,
}

impl ReloadCount {
    /// Counts one.
    pub fn count(&self, is_applied: bool) {
        let outcome = if is_applied { &self.applied } else { &self.refused };
        outcome.fetch_add(1, Ordering::Relaxed);
        self.last_refused.store(!is_applied, Ordering::Relaxed);
    }
}

/// What is shown and who is asked.
#[derive(Clone)]
pub struct AppState {
    /// The recorder's name among several.
    pub instance: String,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// Where every stream stands.
    pub progress: Arc<Progress>,
    /// The gaps.
    pub ledger: SharedLedger,
    /// How gaps are opened.
    pub backfill: backfill::Deps,
    /// Every connection's state.
    pub connections: Connections,
    /// What ingest has seen.
    pub counters: Arc<Counters>,
    /// What is degraded.
    pub health: Health,
    /// The spine's heartbeats.
    pub heartbeats: Heartbeats,
    /// The time.
    pub clock: Clock,
    /// When the process started.
    pub startup: Timestamp,
    /// The schedule.
    pub jobs: JobsHandle,
    /// Asks for a reload.
    pub reloads: mpsc::Sender<ReloadRequest>,
    /// What became of them.
    pub reload_count: Arc<ReloadCount>,
    /// Where the stores are whose disk may fill up.
    pub data_dir: PathBuf,
    /// The last hour.
    pub time_series: Arc<TimeSeries>,
    /// What the stores are, in words: log, history, cache.
    pub backends: watch::Receiver<[String; 3]>,
    /// Who may change something.
    pub options: AdminOptions,
}

/// Where requests come from: the port, the unix socket, or both.
#[derive(Default)]
pub struct Listeners {
    /// The port.
    pub tcp: Option<TcpListener>,
    /// The unix socket.
    pub unix: Option<AdminSocket>,
}

/// Serves until `stop`.
pub async fn serve(listeners: Listeners, state: AppState, stop: CancellationToken) -> anyhow::Result<()> {
    // The unix socket first: whoever crowds the port does not keep the operator waiting.
    let unix = listeners.unix.map(listener::LimitedListener::unix).into_iter();
    let limited = unix.chain(listeners.tcp.map(listener::LimitedListener::tcp)).collect();
    let (state, page) = (Arc::new(state), Arc::new(page::Page::new(stop.clone())));
    let router = router(state.clone(), page.clone());
    tokio::join!(server::serve(limited, router, stop), page.run(&state));
    Ok(())
}

/// Every endpoint, and the document of them all.
fn endpoints(state: &Arc<AppState>) -> (Router<Arc<AppState>>, utoipa::openapi::OpenApi) {
    let changing = OpenApiRouter::new()
        .routes(routes!(jobs::run_job))
        .routes(routes!(jobs::pause_job))
        .routes(routes!(jobs::resume_job))
        .routes(routes!(api::reload))
        .routes(routes!(audit_api::repair_data))
        .routes(routes!(backfill_api::backfill))
        .layer(from_fn_with_state(state.clone(), guard::authorize_change));
    let asking = OpenApiRouter::new()
        .routes(routes!(page::page))
        .routes(routes!(page::forms::submit))
        .routes(routes!(metrics::metrics))
        .routes(routes!(api::status))
        .routes(routes!(api::streams))
        .routes(routes!(api::gaps))
        .routes(routes!(api::coverage))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job_history))
        .routes(routes!(audit_api::consistency_check))
        .routes(routes!(openapi::openapi))
        .merge(changing)
        .layer(from_fn_with_state(Arc::new(guard::RequestLimits::default()), guard::limit_concurrency));
    // Probes wait for nobody's turn: a busy API is no reason to restart the recorder. Pages that listen have places of
    // their own, and the limit of time ends no stream that has begun.
    OpenApiRouter::with_openapi(openapi::ApiInfo::openapi())
        .routes(routes!(api::healthz))
        .routes(routes!(api::readyz))
        .routes(routes!(page::events::events))
        .merge(asking)
        .split_for_parts()
}

fn router(state: Arc<AppState>, page: Arc<page::Page>) -> Router {
    let (endpoints, document) = endpoints(&state);
    endpoints
        .fallback(response::not_found)
        .method_not_allowed_fallback(response::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), guard::check_host))
        .layer(from_fn(guard::limit_uri_length))
        .layer(from_fn_with_state(guard::REQUEST_TIMEOUT, guard::limit_time))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(Extension(openapi::OpenApiDocument::new(&document)))
        .layer(Extension(page))
        .with_state(state)
}
