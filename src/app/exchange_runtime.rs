//! Starts one exchange: its REST client, its connections, and the ingest loop that appends their frames to the log.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::binance::Binance;
use crate::exchange::rest::{Rest, RestOptions, SavedDeadlines};
use crate::exchange::socket::Connections;
use crate::exchange::{Dialect, Feed};
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::ingest::{self, ConnectionEvent, Counters};
use crate::log::Log;
use crate::market::{Exchange, Stream};

use super::Groups;
use super::sockets::{EVENTS_MAX, Sockets};

/// Most queued connection events for the tail.
const CONNECTION_EVENTS_MAX: usize = 256;

/// The running parts of one exchange.
pub struct ExchangeRuntime {
    /// The exchange.
    pub exchange: Exchange,
    /// Its dialect.
    pub dialect: Arc<dyn Dialect>,
    /// Its REST client.
    pub rest: Arc<Rest>,
    /// Its connections.
    pub sockets: Sockets,
    /// Events of its connections; the tail takes the receiver once.
    pub connection_events: Option<mpsc::Receiver<ConnectionEvent>>,
}

/// What all exchanges share.
pub struct Shared {
    /// The log that takes the frames.
    pub log: Arc<dyn Log>,
    /// The number of the next connection; grows across restarts.
    pub next_connection: Arc<AtomicI64>,
    /// Every connection's state.
    pub connections: Connections,
    /// Counters of ingest.
    pub counters: Arc<Counters>,
    /// Degraded parts.
    pub health: Health,
    /// Heartbeats of the recording loops.
    pub heartbeats: Heartbeats,
    /// The time.
    pub clock: Clock,
    /// The recorded streams.
    pub streams: watch::Receiver<Vec<Stream>>,
}

/// The dialect of an exchange.
pub fn dialect(exchange: Exchange) -> Arc<dyn Dialect> {
    match exchange {
        Exchange::Binance => Arc::new(Binance),
    }
}

/// The REST client of an exchange, with the base URL of its feeds.
pub fn rest(
    exchange: Exchange,
    feeds: &[Feed],
    weight_share: u32,
    clock: Clock,
    saved: Option<SavedDeadlines>,
) -> anyhow::Result<Rest> {
    let base = feeds.iter().filter(|feed| feed.exchange == exchange).find_map(|feed| feed.rest_url.clone());
    let options = RestOptions { base, share_percent: weight_share, ..RestOptions::default() };
    Rest::new(dialect(exchange), options, clock, saved)
}

/// Starts an exchange: from here its frames go to the log.
pub(super) async fn start(
    rest: Arc<Rest>,
    exchange: Exchange,
    config: &Config,
    shared: &Shared,
    groups: &mut Groups,
) -> ExchangeRuntime {
    let dialect = dialect(exchange);
    let (events, received) = mpsc::channel(EVENTS_MAX);
    let (connection_events, received_events) = mpsc::channel(CONNECTION_EVENTS_MAX);
    let deps = ingest::Deps {
        log: shared.log.clone(),
        dialect: dialect.clone(),
        health: shared.health.clone(),
        clock: shared.clock.clone(),
        counters: shared.counters.clone(),
        streams: shared.streams.clone(),
        connection_events,
    };
    let heartbeat = shared.heartbeats.watch("ingest");
    let stop = groups.ingest.stop.clone();
    groups.ingest.spawn("ingest", async move { Ok(ingest::run(deps, received, heartbeat, stop).await?) });
    let mut sockets = Sockets::new(
        dialect.clone(),
        events,
        shared.next_connection.clone(),
        shared.connections.clone(),
        shared.clock.clone(),
        groups.sockets.stop.clone(),
    );
    sockets.assign(&config.feeds).await;
    ExchangeRuntime { exchange, dialect, rest, sockets, connection_events: Some(received_events) }
}
