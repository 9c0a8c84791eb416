//! The HTTP API, the status page, the metrics.
//!
//! It shows the state of the other modules and passes requests on to them. It makes no decision of its own and must not
//! know a concrete backend. Errors are `{"error": {"code", "message"}}` with the matching status.

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
mod slots;
mod socket;
mod status_model;
mod stream_state;
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
use tokio::time::Instant;
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
use crate::exchange::{Feed, ListingStates};
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
/// A recording loop without a heartbeat for this long makes `/healthz` fail; systemd's watchdog acts at the same age.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for one answer of a store that is down, so that a status still shows the other parts.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// A wall clock that moves this much against the monotonic clock was set, microseconds.
const CLOCK_SET_US: i64 = 60_000_000;

/// What a reload changed, or would change.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// One sentence.
    pub summary: String,
    /// The jobs that were added, changed and removed.
    pub jobs: Changes,
}

/// A request for a reload. The main loop answers what changed, or why nothing did.
pub struct ReloadRequest {
    /// Report what would change, and change nothing.
    pub dry_run: bool,
    /// Receives the answer.
    pub answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// Outcomes of reloads since the process started.
#[derive(Debug, Default)]
pub struct ReloadCount {
    /// Applied, also when nothing had changed.
    pub applied: AtomicU64,
    /// Refused: the files are invalid, or a change needs a restart.
    pub refused: AtomicU64,
    /// Whether the last reload was refused.
    pub last_refused: AtomicBool,
}

impl ReloadCount {
    /// Counts one reload.
    pub fn count(&self, is_applied: bool) {
        let outcome = if is_applied { &self.applied } else { &self.refused };
        outcome.fetch_add(1, Ordering::Relaxed);
        self.last_refused.store(!is_applied, Ordering::Relaxed);
    }
}

/// Everything the handlers read and call.
#[derive(Clone)]
pub struct AppState {
    /// The recorder's name among several; empty for one.
    pub instance: String,
    /// The recorded streams.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// The feeds as configured.
    pub feeds: watch::Receiver<Vec<Feed>>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// The progress of every stream.
    pub progress: Arc<Progress>,
    /// The open gaps.
    pub ledger: SharedLedger,
    /// Opens gaps, and holds the REST clients and the writer.
    pub backfill: backfill::Deps,
    /// The state of every connection.
    pub connections: Connections,
    /// What ingest has counted.
    pub counters: Arc<Counters>,
    /// Whether the recorded symbols trade.
    pub listings: Arc<ListingStates>,
    /// Readiness and degraded parts.
    pub health: Health,
    /// The heartbeats of the recording loops.
    pub heartbeats: Heartbeats,
    /// The wall clock.
    pub clock: Clock,
    /// When the process started, by the wall clock of that time.
    pub startup: Timestamp,
    /// When the process started, by the monotonic clock.
    pub started: Instant,
    /// The scheduler.
    pub jobs: JobsHandle,
    /// Sends requests for a reload to the main loop.
    pub reloads: mpsc::Sender<ReloadRequest>,
    /// Outcomes of reloads.
    pub reload_count: Arc<ReloadCount>,
    /// The directory of the embedded stores; its disk may fill up.
    pub data_dir: PathBuf,
    /// Samples of the last hour.
    pub time_series: Arc<TimeSeries>,
    /// The name of each store's backend: log, history, cache.
    pub backends: watch::Receiver<[String; 3]>,
    /// The admin token; a reload replaces it.
    pub token: watch::Receiver<Option<String>>,
    /// The listen address, and the admin token at the start.
    pub options: AdminOptions,
}

impl AppState {
    /// How long the process has run: the wall clock may have been set since.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the process started, by the present wall clock.
    pub fn started_at(&self) -> Timestamp {
        let by_now = self.clock.now().plus_micros(-i64::try_from(self.uptime().as_micros()).unwrap_or(i64::MAX));
        // The two clocks run a little apart; only a clock that was set makes a difference that counts.
        if by_now.since(self.startup).abs() < CLOCK_SET_US { self.startup } else { by_now }
    }
}

/// The sockets to serve: TCP, unix, or both.
#[derive(Default)]
pub struct Listeners {
    /// The TCP port.
    pub tcp: Option<TcpListener>,
    /// The unix socket.
    pub unix: Option<AdminSocket>,
}

/// Serves until `stop`.
pub async fn serve(listeners: Listeners, state: AppState, stop: CancellationToken) -> anyhow::Result<()> {
    // The unix socket comes first: a crowd on the port does not make the operator wait.
    let unix = listeners.unix.map(listener::LimitedListener::unix).into_iter();
    let limited = unix.chain(listeners.tcp.map(listener::LimitedListener::tcp)).collect();
    let (state, page) = (Arc::new(state), Arc::new(page::Page::new(stop.clone())));
    let router = router(state.clone(), page.clone());
    tokio::join!(server::serve(limited, router, stop), page.run(&state));
    Ok(())
}

/// Every endpoint, and the OpenAPI document that describes them.
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
    // Probes are outside the concurrency limit: a busy API must not cause a restart of the recorder. `/events` has a
    // limit of its own, and the request timeout does not end a stream that has started.
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
