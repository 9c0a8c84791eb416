//! Tests of the API and the page through real sockets, on the embedded stores.

mod api;
mod events;
mod forms;
mod guard;
mod metrics;
mod openapi;
mod page;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AdminOptions, AdminSocket, AppState, Listeners, ReloadRequest, serve};
use crate::backfill;
use crate::cache::PendingUpdates;
use crate::cache::embedded::EmbeddedCache;
use crate::clock::Clock;
use crate::exchange::binance::Binance;
use crate::exchange::rest::{Rest, RestOptions};
use crate::faults::Faults;
use crate::heartbeat::Heartbeats;
use crate::history::embedded::EmbeddedHistory;
use crate::history::faulty::FaultyHistory;
use crate::history::{Batch, History, TradeRow};
use crate::jobs::spec::{JobSpec, Schedule, TaskKind, When};
use crate::jobs::tasks::{LogRetention, Services};
use crate::jobs::{JobsHandle, Runner, RunnerDeps};
use crate::ledger::SharedLedger;
use crate::log::embedded::{self, EmbeddedLog};
use crate::market::{Exchange, Side, Stream, Symbol, Timestamp, Trade};
use crate::progress::StreamProgress;
use crate::writer::Writer;

/// Noon of a day in 2026.
pub(super) const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

/// A served [`AppState`], and handles to change what it shows.
pub(super) struct Served {
    pub(super) state: AppState,
    pub(super) history: Arc<dyn History>,
    /// Makes calls to history fail.
    faults: Faults,
    reloads: mpsc::Receiver<ReloadRequest>,
    address: SocketAddr,
    http: reqwest::Client,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    pub(super) async fn start() -> Self {
        Self::with(AdminOptions::default(), &["binance:BTCUSDT:trade", "binance:ETHUSDT:trade"]).await
    }

    async fn with(options: AdminOptions, streams: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let log = Arc::new(EmbeddedLog::open(&directory.path().join("log.db"), embedded::Options::default()).unwrap());
        let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        let faults = Faults::none();
        let breakable: Arc<dyn History> = Arc::new(FaultyHistory::new(history.clone(), faults.clone()));
        let streams: Vec<Stream> = streams.iter().map(|stream| stream.parse().unwrap()).collect();
        let (_streams, streams) = watch::channel(streams);
        let clock = Clock::from_fn(|| NOW);
        let health = crate::health::Health::default();
        health.set_ready();
        let rest = RestOptions { base: Some("http://127.0.0.1:1".to_owned()), ..RestOptions::default() };
        let rest = Rest::new(Arc::new(Binance), rest, clock.clone(), None).unwrap();
        let deps = backfill::Deps {
            rest: HashMap::from([(Exchange::named("binance"), Arc::new(rest))]),
            dialects: HashMap::new(),
            writer: Writer::new(breakable.clone(), Arc::new(PendingUpdates::default()), health.clone()),
            ledger: SharedLedger::default(),
            clock: clock.clone(),
            rows: Arc::default(),
            confirm_after: std::time::Duration::ZERO,
            answers: Arc::default(),
        };
        let (stop, (reload, reloads)) = (CancellationToken::new(), mpsc::channel(1));
        let (cache, heartbeats) = (Arc::new(EmbeddedCache::new()), Heartbeats::default());
        let services = Services {
            log: log.clone(),
            log_retention: LogRetention { age: Duration::from_secs(60), bytes: 1 << 30 },
            history: breakable.clone(),
            cache: cache.clone(),
            backfill: deps.clone(),
            streams: streams.clone(),
            save: Arc::new(|| Box::pin(async { Ok("generation 7".to_owned()) })),
            sealed_days: None,
            clock: clock.clone(),
        };
        let jobs = run_jobs(services, &heartbeats, stop.clone());
        let state = AppState {
            instance: "lab".to_owned(),
            streams,
            feeds: watch::channel(Vec::new()).1,
            log,
            history: breakable,
            cache,
            progress: Arc::default(),
            ledger: deps.ledger.clone(),
            backfill: deps,
            connections: crate::exchange::socket::Connections::default(),
            counters: Arc::default(),
            listings: Arc::default(),
            health,
            heartbeats,
            clock,
            startup: NOW.plus_micros(-90_000_000),
            started: Instant::now().checked_sub(Duration::from_secs(90)).expect("the machine runs for longer"),
            jobs,
            reloads: reload,
            reload_count: Arc::default(),
            data_dir: directory.path().to_owned(),
            time_series: Arc::default(),
            token: watch::channel(options.token.clone()).1,
            backends: watch::channel(["log.db", "history.db", "memory"].map(str::to_owned)).1,
            options,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let unix = state.options.socket.as_deref().map(|path| AdminSocket::bind(path).unwrap());
        tokio::spawn(serve(Listeners { tcp: Some(listener), unix }, state.clone(), stop.clone()));
        Self { state, history, faults, reloads, address, http: client(), stop, _directory: directory }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        document(self.http.get(self.url(path))).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        document(self.http.post(self.url(path)).body(body.to_owned())).await
    }

    async fn text(&self, path: &str) -> String {
        self.http.get(self.url(path)).send().await.unwrap().text().await.unwrap()
    }

    /// Stores trades with these ids in history, and publishes the stream's progress as the consumer would.
    pub(super) async fn store(&self, stream: &str, ids: impl IntoIterator<Item = i64>) {
        let stream: Stream = stream.parse().unwrap();
        let trades: Vec<TradeRow> = ids.into_iter().map(|id| trade(&stream.symbol, id)).collect();
        let last = trades.last().unwrap().trade;
        let batch = Batch { trades, token: format!("test:{}", last.id), ..Batch::default() };
        self.history.insert(&batch).await.unwrap();
        let progress = StreamProgress {
            next: Some(last.id + 1),
            last_ts: Some(last.ts.micros()),
            last_received: Some(NOW.micros() - 1_500_000),
            frames: 3,
            ..StreamProgress::default()
        };
        self.state.progress.publish([(stream, progress)], &crate::log::Offsets::new());
    }
}

pub(super) fn trade(symbol: &Symbol, id: i64) -> TradeRow {
    let trade = Trade {
        id,
        ts: NOW.plus_micros(id - 1_000_000),
        price: "61234.5".parse().unwrap(),
        quantity: "0.25".parse().unwrap(),
        side: Side::Buy,
        trade_ids: None,
    };
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: symbol.clone(),
        trade,
        received_at: NOW,
        is_backfilled: false,
        epoch: 0,
        version: crate::history::row_version(false),
    }
}

fn client() -> reqwest::Client {
    builder().build().unwrap()
}

fn builder() -> reqwest::ClientBuilder {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
    http.tls_backend_preconfigured((*crate::exchange::tls_config()).clone())
}

async fn document(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} with {text:?}: {error}")))
}

/// Starts a scheduler with one job, which runs on request.
fn run_jobs(services: Services, heartbeats: &Heartbeats, stop: CancellationToken) -> JobsHandle {
    let when = When::every(Duration::from_secs(3_600));
    let mut spec = JobSpec::new("state-snapshot", TaskKind::StateSnapshot, when);
    spec.description = "Saves the state".to_owned();
    let (history, clock) = (services.history.clone(), services.clock.clone());
    let deps = RunnerDeps {
        services,
        history,
        clock,
        health: crate::health::Health::default(),
        conditions: Arc::new(|_| Ok(())),
        instance: "lab".to_owned(),
    };
    let (runner, jobs) = Runner::new(deps, Schedule { jobs: vec![spec], ..Schedule::default() }, None);
    tokio::spawn(runner.run(heartbeats.watch("scheduler"), stop));
    jobs
}
