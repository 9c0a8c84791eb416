//! A simulated exchange on loopback: a venue's WebSocket and REST, with faults on request. It keeps the truth: all that it
//! published.
//!
//! It is independent of the recorder: what it says and understands comes from the venue's own side of the protocol
//! ([`Peer`](crate::exchange::peer::Peer)), which shares no code with the dialect that records. A pure [`generator`] or a
//! [`capture`] makes the market; `publisher` adds it to the [`truth`] and sends it through the `faulty_link` to the
//! connections.

mod acceptor;
mod batches;
mod broadcaster;
pub mod budget;
pub mod candle;
pub mod capture;
pub mod catalog;
mod connection;
mod control;
mod counters;
mod exchange_state;
pub mod fault;
mod faulty_link;
pub mod generator;
pub mod lies;
mod limits;
mod publisher;
pub mod random;
mod rest;
pub mod truth;
mod venue;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use control::Control;
pub use counters::{BrokenLimits, Counters};
pub use fault::{Fault, ScheduledFault, parse_schedule};
pub use generator::Listing;
pub use limits::Limits;
pub use truth::{CorrectedKline, PublishedEpoch, TruthSummary};
pub use venue::Venue;

use crate::clock::Clock;
use crate::market::Symbol;
use acceptor::{Acceptor, ResetHandle};
use capture::Capture;
use exchange_state::{ExchangeState, ExchangeTime};

/// How the simulated exchange behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The venue that it is.
    pub venue: Venue,
    /// The market to publish.
    pub source: Source,
    /// The rules for clients.
    pub limits: Limits,
    /// Faults to inject; their times count from the opening of the market.
    pub faults: Vec<ScheduledFault>,
    /// The market halts at this number of trades (about 64 bytes each), so that the truth stays complete in memory.
    pub trades_max: usize,
    /// The start of exchange time.
    pub clock: Clock,
}

impl Options {
    /// Binance on a free port of loopback, with the real limits and no faults.
    pub fn new(source: Source) -> Self {
        Self::at(Venue::binance(), source)
    }

    /// The same of another venue.
    pub fn at(venue: Venue, source: Source) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            limits: Limits::of(&venue),
            venue,
            source,
            faults: Vec::new(),
            trades_max: 5_000_000,
            clock: Clock::system(),
        }
    }
}

/// The source of the market.
#[derive(Clone, Debug)]
pub enum Source {
    /// Generated from a seed.
    Generated(Generated),
    /// Played from files, `speed` times as fast, from the first subscription on.
    Capture {
        /// The files.
        paths: Vec<PathBuf>,
        /// The playback speed; 1 is as recorded.
        speed: f64,
    },
    /// Trades rendered in advance and sent as fast as clients read them, for measuring.
    Flood(Flood),
}

/// A market generated from a seed.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Its symbols, the busiest first.
    pub listings: Vec<Listing>,
    /// The same seed gives the same ids, prices, quantities and relative times (for one rate and time scale).
    pub seed: u64,
    /// Trades per second of the wall clock, of all symbols that are not quiet.
    pub rate: f64,
    /// The speed of exchange time; 1 is the wall clock, 10 closes a one-minute kline every 6 s.
    pub time_scale: f64,
    /// The span of exchange time before the opening; only REST serves its trades.
    pub history: Duration,
    /// Whether the market waits for its first subscription.
    pub opens_at_first_subscription: bool,
}

impl Default for Generated {
    fn default() -> Self {
        let listing = |name, quiet| Listing { symbol: Symbol::new(name), quiet };
        Self {
            listings: vec![listing("BTCUSDT", false), listing("ETHUSDT", false), listing("TUSDUSDT", true)],
            seed: 1,
            rate: 100.0,
            time_scale: 1.0,
            history: Duration::ZERO,
            opens_at_first_subscription: false,
        }
    }
}

/// Pre-rendered trades.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Its symbols.
    pub listings: Vec<Listing>,
    /// See [`Generated::seed`].
    pub seed: u64,
    /// The number of trades; each takes about 600 bytes of memory until it is sent.
    pub trades: usize,
}

/// A running simulated exchange.
#[derive(Debug)]
pub struct Simulator {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Injects faults, and returns what was published.
    pub control: Control,
    stop: CancellationToken,
    server: JoinHandle<()>,
    publisher: JoinHandle<()>,
}

/// Most time for connections to end at a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

impl Simulator {
    /// The `ws_url` for a feed.
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The `rest_url` for a feed.
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Halts the market and waits until the truth holds its last trade; connections and REST stay up.
    pub async fn stop_publishing(&self) {
        self.control.stop_publishing();
        self.control.finished().cancelled().await;
    }

    /// Ends every connection with a close frame, then the listening socket.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = async {
            for (task, ended) in [("publisher", self.publisher.await), ("server", self.server.await)] {
                if let Err(error) = ended {
                    tracing::error!(%error, "the simulator's {task} failed");
                }
            }
            // The server does not wait for upgraded connections: they end on their own.
            while self.control.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, ended).await.is_err() {
            tracing::warn!("the simulator left a connection open that did not end in time");
        }
    }
}

/// Binds the exchange and opens its market.
pub async fn start(options: Options, stop: CancellationToken) -> anyhow::Result<Simulator> {
    let Options { listen, venue, source, limits, faults, trades_max, clock } = options;
    let stop = stop.child_token();
    let scale = if let Source::Generated(generated) = &source { generated.time_scale } else { 1.0 };
    anyhow::ensure!(scale.is_finite() && scale >= 0.001, "the time scale must be 0.001 or more");
    let time = ExchangeTime::running(&clock, scale);
    let names = |listings: &[Listing]| listings.iter().map(|listing| listing.symbol.clone()).collect::<Vec<Symbol>>();
    let mut played = None;
    let (symbols, aggregated) = match &source {
        Source::Generated(generated) => (names(&generated.listings), true),
        Source::Flood(flood) => (names(&flood.listings), true),
        Source::Capture { paths, .. } => {
            anyhow::ensure!(venue.is_binance(), "only captures of Binance can be played");
            let paths = paths.clone();
            let read = tokio::task::spawn_blocking(move || Capture::read(&paths)).await;
            let capture = read.context("read the capture")??;
            let symbols = capture.symbols().into_keys().collect();
            played = Some(capture);
            (symbols, false)
        }
    };
    anyhow::ensure!(!symbols.is_empty(), "the simulated exchange needs at least one symbol");
    let distinct: std::collections::BTreeSet<&Symbol> = symbols.iter().collect();
    anyhow::ensure!(distinct.len() == symbols.len(), "a symbol is listed twice");
    let mut exchange = ExchangeState::new(venue, symbols, aggregated, limits, time, stop.clone());
    exchange.is_generated = matches!(source, Source::Generated(_));
    if let Some(capture) = &played {
        exchange.capture_ends = capture.symbols();
        // Until playback starts, the clock shows the time of the first frame: the exchange's own time, because the
        // clock of the recorder that made the capture may be seconds off.
        let first = capture.frames.iter().find_map(|recorded| recorded.event_time);
        exchange.time.play(first.unwrap_or(capture.frames[0].received_at));
    }
    let exchange = Arc::new(exchange);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("read the address")?;
    let control = Control::new(exchange.clone());
    if !faults.is_empty() {
        control.schedule(faults);
    }
    let publisher = publish(exchange.clone(), source, played, trades_max);
    let server = tokio::spawn(serve(exchange, listener));
    Ok(Simulator { address, control, stop, server, publisher })
}

fn publish(exchange: Arc<ExchangeState>, source: Source, played: Option<Capture>, trades_max: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stop = exchange.stop.clone();
        let publishing = async {
            match (source, played) {
                (Source::Generated(generated), _) => publisher::generated(exchange, generated, trades_max).await,
                (Source::Flood(flood), _) => publisher::flood(exchange, flood).await,
                (Source::Capture { speed, .. }, Some(capture)) => {
                    publisher::capture(exchange, capture, speed, trades_max).await
                }
                (Source::Capture { .. }, None) => {}
            }
        };
        stop.run_until_cancelled(publishing).await;
    })
}

async fn serve(exchange: Arc<ExchangeState>, listener: TcpListener) {
    let acceptor = Acceptor { listener, outage: exchange.outage.clone() };
    let stop = exchange.stop.clone();
    let mut routes = Router::new();
    if exchange.venue.is_binance() {
        let limit = middleware::from_fn_with_state(exchange.clone(), rest::limit_request_line);
        routes = routes.merge(rest::routes().layer(limit));
    }
    let routes = routes.merge(control::routes()).fallback(venue_request).with_state(exchange.clone());
    let closing = async move {
        stop.cancelled().await;
        for subscriber in exchange.broadcaster.subscribers() {
            subscriber.end(broadcaster::EndMode::Close);
        }
    };
    let service = routes.into_make_service_with_connect_info::<ResetHandle>();
    if let Err(error) = axum::serve(acceptor, service).with_graceful_shutdown(closing).await {
        tracing::error!(%error, "the simulator's listening socket failed");
    }
}

/// A connection to one of the venue's WebSocket addresses, or a request to its REST.
async fn venue_request(
    State(exchange): State<Arc<ExchangeState>>,
    ConnectInfo(reset): ConnectInfo<ResetHandle>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match upgrade {
        Ok(upgrade) => accept(exchange, reset, upgrade, target),
        Err(_) if exchange.venue.is_binance() => StatusCode::NOT_FOUND.into_response(),
        Err(_) if rest::is_line_too_long(&exchange, &request) => rest::line_too_long(),
        Err(_) => rest::venue::respond(&exchange, target).await,
    }
}

fn accept(exchange: Arc<ExchangeState>, reset: ResetHandle, upgrade: WebSocketUpgrade, target: &str) -> Response {
    let Some(session) = exchange.venue.open(target, exchange.limits.streams_max) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (most, window) = (exchange.limits.connects_max, exchange.limits.connects_window);
    if !exchange.broadcaster.may_connect(most, window, tokio::time::Instant::now()) {
        locked(&exchange.counters).broken.connects += 1;
        return (StatusCode::TOO_MANY_REQUESTS, format!("more than {most} connections in {} s", window.as_secs()))
            .into_response();
    }
    if let Some((status, retry_after)) = locked(&exchange.socket_lies).refusal(tokio::time::Instant::now()) {
        locked(&exchange.counters).upgrades_refused += 1;
        return rest::refusal(status, &retry_after, exchange.time.now());
    }
    upgrade.max_message_size(64 * 1_024).on_upgrade(move |socket| connection::serve(socket, reset, session, exchange))
}

/// Locks a mutex, even after its holder panicked: every change here is a single step, so the data is consistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
